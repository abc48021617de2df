"""Bytes of a JPEG -> how EXIF says it lies, by TensorFlow operations alone.

The same as pipeline.images.record_image finds, for a graph that runs without Python:
the segments of
the file are walked up to the first that holds EXIF, and the first image directory there
is searched. What is damaged or points elsewhere counts as upright.

Sources: ITU-T T.81 (JPEG), B.1.1; CIPA DC-008 (Exif 2.32), tag Orientation.
"""

from typing import Any

import tensorflow as tf

_ORIENTATION_TAG = 0x0112
_ENTRY_BYTES = 12  # of an image directory
_EXIF = b"Exif\0\0"
_FILL, _APP1, _SCAN, _END = 0xFF, 0xE1, 0xDA, 0xD9


def orientation(encoded: Any) -> Any:
    """Reads the orientation.

    Args:
        encoded: string scalar, a JPEG file.

    Returns:
        int32 scalar, 1 to 8; 1 is upright, or not said.
    """
    # A zero at the end stands for all that lies beyond it.
    octets = tf.concat(
        [tf.io.decode_raw(encoded, tf.uint8), [tf.zeros([], "uint8")]], 0
    )
    start, end = _exif_segment(octets)
    return tf.cond(
        end > start, lambda: _of_directory(octets, start, end), lambda: tf.constant(1)
    )


def _at(octets: Any, positions: Any) -> Any:
    """int64: the bytes at these positions; 0 beyond the end."""
    last = tf.size(octets, tf.int64) - 1
    return tf.cast(tf.gather(octets, tf.clip_by_value(positions, 0, last)), tf.int64)


def _number(octets: Any, positions: Any, size: int, little: Any) -> Any:
    """int64, of the shape of `positions`: the numbers of `size` bytes there."""
    steps = tf.range(size, dtype=tf.int64)
    powers = tf.where(little, steps, size - 1 - steps)
    found = _at(octets, positions[..., None] + steps)
    return tf.reduce_sum(tf.bitwise.left_shift(found, 8 * powers), axis=-1)


def _exif_segment(octets: Any) -> tuple[Any, Any]:
    """int64 scalars: where the first EXIF begins and ends; twice 0 if there is none."""
    size = tf.size(octets, tf.int64) - 1
    none = tf.constant(0, tf.int64)

    def goes_on(position: Any, start: Any, _: Any) -> Any:
        return (start == 0) & (position < size)

    def step(position: Any, start: Any, end: Any) -> tuple[Any, Any, Any]:
        marker = _at(octets, position + 1)
        length = _number(octets, position + 2, 2, little=False)
        is_fill = marker == _FILL
        stands_alone = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        is_last = (marker == _SCAN) | (marker == _END) | (length < 2)
        is_last &= ~(is_fill | stands_alone)
        is_last |= _at(octets, position) != _FILL
        name = _at(octets, position + 4 + tf.range(len(_EXIF), dtype=tf.int64))
        is_exif = tf.reduce_all(name == tf.constant(list(_EXIF), tf.int64))
        is_exif &= (marker == _APP1) & ~is_last
        after = position + tf.where(
            is_fill, none + 1, tf.where(stands_alone, none + 2, length + 2)
        )
        return (
            tf.where(is_last, size, after),
            tf.where(is_exif, position + 4 + len(_EXIF), start),
            tf.where(is_exif, tf.minimum(after, size), end),
        )

    _, start, end = tf.while_loop(goes_on, step, [none + 2, none, none])
    return start, end


def _of_directory(octets: Any, start: Any, end: Any) -> Any:
    """int32 scalar: the orientation that the TIFF from `start` to `end` states."""
    head = _at(octets, start + tf.range(4, dtype=tf.int64))
    little = tf.reduce_all(head == tf.constant(list(b"II*\0"), tf.int64))
    big = tf.reduce_all(head == tf.constant(list(b"MM\0*"), tf.int64))
    first = start + _number(octets, start + 4, 4, little)
    count = _number(octets, first, 2, little)
    stop = tf.minimum(first + 2 + _ENTRY_BYTES * count, end - _ENTRY_BYTES + 1)
    entries = tf.range(first + 2, tf.maximum(stop, first + 2), _ENTRY_BYTES)
    tags = _number(octets, entries, 2, little)
    values = _number(octets, entries + 8, 2, little)
    stated = tf.boolean_mask(values, tags == _ORIENTATION_TAG)
    found = tf.cast(tf.concat([stated, [1]], 0)[0], tf.int32)
    is_known = (little | big) & (found >= 1) & (found <= 8)
    return tf.where(is_known, found, 1)
