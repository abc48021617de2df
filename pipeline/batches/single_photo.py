"""Crop and resize one photo at a time, for predictions.

The pixels are the same as those of evaluation, which works in batches.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.batches import crop_and_resize
from pipeline.batches.input_spec import InputSpec
from pipeline.images import record_image
from pipeline.records.manifest_row import Code, ImageError


class NetworkInput:
    """A function of a record's image that returns the input of a network.

    Several threads may call it at once.
    """

    def __init__(self, spec: InputSpec) -> None:
        """Build the graph."""
        self.spec = spec
        resizing = {"halving": True, "square": spec.keeps_aspect}

        def crop(encoded: Any, is_png: Any, window: Any) -> Any:
            pixels = crop_and_resize.decode_window(encoded, is_png, window, spec.fill)
            return crop_and_resize.resize(pixels, spec.size_px, **resizing)

        def crop_pixels(pixels: Any, window: Any) -> Any:
            view = crop_and_resize.cut(pixels[None], window)
            if spec.fill:
                view = crop_and_resize.surround(view, window, spec.fill)
            return crop_and_resize.resize(view[0], spec.size_px, **resizing)

        self._crop_pixels = tf.function(
            crop_pixels, autograph=False, reduce_retracing=True
        )
        self._crop = tf.function(crop, autograph=False).get_concrete_function(
            tf.TensorSpec([], tf.string),
            tf.TensorSpec([], tf.bool),
            tf.TensorSpec([4], tf.int32),
        )

    def __call__(self, stored: record_image.RecordImage) -> np.ndarray:
        """Return the resized central window: uint8 [size_px, size_px, 3], RGB.

        A photo that OpenCV decodes but TensorFlow does not raises ImageError.
        """
        sizes = np.array([(stored.height, stored.width)], np.int64)
        window = crop_and_resize.central_views(sizes, self.spec).windows[0]
        try:
            pixels = self._crop(
                tf.constant(stored.encoded),
                tf.constant(stored.format == "png"),
                tf.constant(window),
            )
        except tf.errors.OpError as error:
            message = f"{stored.format.upper()} that TensorFlow does not decode"
            raise ImageError(Code.UNDECODABLE, message) from error
        return np.asarray(pixels, np.uint8)

    def of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return the network's input for pixels, uint8 [height, width, 3], RGB."""
        sizes = np.array([pixels.shape[:2]], np.int64)
        window = crop_and_resize.central_views(sizes, self.spec).windows[0]
        return np.asarray(self._crop_pixels(tf.constant(pixels), tf.constant(window)))
