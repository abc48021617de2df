"""Write a SavedModel that takes photo files, for TensorFlow Serving.

Both signatures return classes: string [n, num_classes], the class names in label order;
probabilities: float32 [n, num_classes], and stranger_score: float32 [n], if the run has
such scores.

    serving_default   image_bytes: string [n], JPEG or PNG files of any size; a JPEG is
                      turned upright by its EXIF orientation
    float_image       image: float32 [n, height, width, 3], upright RGB, 0..255
"""

from pathlib import Path
from typing import Any

import tensorflow as tf

from model.export import converters, photo_graph
from model.export.exportable import PROBABILITIES, Exportable

PHOTOS, IMAGES = "serving_default", "float_image"


def write(classifier: Exportable, path: Path) -> None:
    """Write the folder, which must not exist yet."""
    spec, resize_min = classifier.spec, classifier.resize_min
    white_level = classifier.white_level
    names = tf.constant(classifier.encoded_names)
    view_spec = tf.TensorSpec([spec.size_px, spec.size_px, 3], tf.uint8)

    def classify(views: Any) -> dict[str, Any]:
        outputs = classifier.classify(tf.cast(views, tf.float32))
        classes = tf.repeat(names[None], tf.shape(outputs[PROBABILITIES])[0], axis=0)
        return {"classes": classes, **outputs}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")],
        autograph=False,
    )
    def photos(image_bytes: Any) -> dict[str, Any]:
        views = tf.map_fn(
            lambda photo: photo_graph.view_of_photo(
                photo, spec, resize_min, white_level
            ),
            image_bytes,
            fn_output_signature=view_spec,
        )
        return classify(views)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "image")],
        autograph=False,
    )
    def images(image: Any) -> dict[str, Any]:
        return classify(photo_graph.view_of_images(image, spec, resize_min))

    module = tf.Module()
    module.weights = [variable.value for variable in classifier.whole.variables]
    with converters.silence():
        tf.saved_model.save(module, path, signatures={PHOTOS: photos, IMAGES: images})
