"""A mean image of Caffe (.binaryproto, .npy) -> an array."""

from pathlib import Path

import numpy as np

from model.checkpoints import errors, npy
from model.checkpoints.caffe import caffemodel

_MAX_BYTES = 64 << 20  # 1536 x 1536 pixels of double precision


def read(path: Path) -> np.ndarray:
    """Reads what is to be subtracted from an image.

    Returns:
        float32 [height, width, 3], or [3] if there is one value per channel; channels
        in the file's own order, in units of pixels of 0..255.

    Raises:
        errors.MissingCheckpoint: no such file.
        errors.CorruptCheckpoint: damaged, too large, or not of three channels.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "no such file"
        raise errors.MissingCheckpoint(f"{path}: {what}; expected a mean image")
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise errors.CorruptCheckpoint(
            f"{path}: {size:,} bytes; expected a mean image, of at most {_MAX_BYTES:,}"
        )
    with path.open("rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY":
        tensors, _, _ = npy.read(path)
        (found,) = tensors.values() if len(tensors) == 1 else (np.empty(0),)
    else:
        data = path.read_bytes()
        found = caffemodel.blob(caffemodel.Message(data, str(path)), 0, len(data))
    while found.ndim > 1 and found.shape[0] == 1:
        found = found[0]
    if found.ndim == 3 and found.shape[0] == 3:
        found = found.transpose(1, 2, 0)
    if found.ndim == 3 and found.shape[:2] == (1, 1):
        found = found[0, 0]
    if (
        found.ndim not in (1, 3)
        or found.shape[-1] != 3
        or not found.size
        or found.dtype.kind not in "fiu"
    ):
        raise errors.CorruptCheckpoint(
            f"{path}: holds {found.dtype} {list(found.shape)}; expected a mean of "
            "three channels, as [3], [3, height, width] or [height, width, 3]"
        )
    with np.errstate(over="ignore"):
        mean = np.ascontiguousarray(found, np.float32)
    if not np.isfinite(mean).all():
        raise errors.CorruptCheckpoint(f"{path}: holds numbers that are not finite")
    return mean
