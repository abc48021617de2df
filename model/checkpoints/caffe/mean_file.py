"""Read a mean image of Caffe (.binaryproto, .npy) as an array."""

from pathlib import Path

import numpy as np

from model.checkpoints import errors, npy
from model.checkpoints.caffe import caffemodel

_MAX_BYTES = 64 << 20  # 1536 x 1536 pixels of double precision


def read(path: Path) -> np.ndarray:
    """Read the mean image that is subtracted from every image.

    Returns:
        float32 [height, width, 3], or [3] for one value per channel; channels in the
        file's own order, values as of pixels in 0..255.
    """
    if not path.is_file():
        problem = "is no file" if path.exists() else "no such file"
        raise errors.MissingCheckpoint(f"{path}: {problem}; expected a mean image")
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise errors.CorruptCheckpoint(
            f"{path}: {size:,} bytes; expected a mean image, of at most {_MAX_BYTES:,}"
        )
    values = _read_values(path)
    while values.ndim > 1 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 3 and values.shape[0] == 3:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[:2] == (1, 1):
        values = values[0, 0]
    if (
        values.ndim not in (1, 3)
        or values.shape[-1] != 3
        or not values.size
        or values.dtype.kind not in "fiu"
    ):
        raise errors.CorruptCheckpoint(
            f"{path}: holds {values.dtype} {list(values.shape)}; expected a mean of "
            "three channels, as [3], [3, height, width] or [height, width, 3]"
        )
    with np.errstate(over="ignore"):
        mean = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(mean).all():
        raise errors.CorruptCheckpoint(f"{path}: holds numbers that are not finite")
    return mean


def _read_values(path: Path) -> np.ndarray:
    data = path.read_bytes()
    if not data.startswith(npy.SIGNATURE):
        return caffemodel.blob(caffemodel.Message(data, str(path)), 0, len(data))
    tensors, _, _ = npy.read(path)
    return next(iter(tensors.values())) if len(tensors) == 1 else np.empty(0)
