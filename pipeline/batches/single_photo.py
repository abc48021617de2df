"""An image as a record holds it -> what a network sees of it in use.

The pixels are those of dataset.Evaluation: one graph for one image at a time, which
several threads may call.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.batches import crop_and_resize
from pipeline.batches.input_spec import InputSpec
from pipeline.images import record_image
from pipeline.images.errors import ImageError
from pipeline.records import reasons
from pipeline.sources import source_settings


class Viewer:
    """The central window of images, as a network takes them."""

    def __init__(self, spec: InputSpec) -> None:
        """Builds the graph.

        Args:
            spec: of the network's input.
        """
        self.spec = spec
        square = spec.resize == "crop"

        @tf.autograph.experimental.do_not_convert
        def view(encoded: Any, is_png: Any, window: Any) -> Any:
            pixels = crop_and_resize.decode_window(encoded, is_png, window)
            return crop_and_resize.resize(
                pixels, spec.size_px, halving=True, square=square
            )

        self._view = tf.function(view, autograph=False).get_concrete_function(
            tf.TensorSpec([], tf.string),
            tf.TensorSpec([], tf.bool),
            tf.TensorSpec([4], tf.int32),
        )

    def __call__(self, stored: record_image.RecordImage) -> np.ndarray:
        """An image as the network sees it.

        Args:
            stored: upright, as of image.encode_for_record.

        Returns:
            uint8 [size_px, size_px, 3], RGB, 0..255.

        Raises:
            image.ImageError: TensorFlow's decoder refuses what OpenCV's has taken.
        """
        sizes = np.array([(stored.height, stored.width)], np.int64)
        window = crop_and_resize.central_views(sizes, self.spec).windows[0]
        try:
            found = self._view(
                tf.constant(stored.encoded),
                tf.constant(stored.format == "png"),
                tf.constant(window),
            )
        except tf.errors.OpError as error:
            raise ImageError(
                reasons.Code.UNDECODABLE,
                f"{stored.format.upper()} that TensorFlow does not decode",
            ) from error
        return np.asarray(found, np.uint8)

    def of_file(
        self, data: bytes, resize_min: int = source_settings.RESIZE_MIN
    ) -> np.ndarray:
        """An image file as the network sees it, decoded in this process.

        Args:
            data: the whole file.
            resize_min: longest short side that conversion keeps; 0: no limit.

        Returns:
            As `__call__`.

        Raises:
            image.ImageError: it does not decode.
        """
        return self(record_image.encode_for_record(data, resize_min=resize_min))
