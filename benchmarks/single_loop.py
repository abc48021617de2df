"""Convert photos in a single loop, as most tutorials do: the baseline of conversion.

    python benchmarks/single_loop.py FOLDER OUT

Each photo is decoded with OpenCV, encoded again and written with TensorFlow's record
writer. Files that OpenCV cannot decode are skipped. Run by conversion.py.
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import cv2
import tensorflow as tf


def main(folder: str, out: str) -> None:
    """Convert all photos."""
    for label, class_folder in enumerate(sorted(Path(folder).iterdir())):
        target = str(Path(out) / f"{class_folder.name}.tfrecord")
        with tf.io.TFRecordWriter(target) as writer:
            for path in sorted(class_folder.glob("*.jpg")):
                image = cv2.imread(str(path))
                if image is None:
                    continue
                _, encoded = cv2.imencode(".jpg", image)
                feature = {
                    "image": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[encoded.tobytes()])
                    ),
                    "label": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[label])
                    ),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())


if __name__ == "__main__":
    main(*sys.argv[1:])
