"""Read a mean image of Caffe (.binaryproto, .npy) as an array."""

from pathlib import Path

import numpy as np

from model.checkpoints import errors, npy
from model.checkpoints.caffe import caffemodel
from model.checkpoints.protobuf_fields import Wire
from pipeline.system import file_system

_MAX_BYTES = 64 << 20  # 1536 x 1536 pixels of double precision


def read(path: Path) -> np.ndarray:
    """Return the mean that is subtracted from every image, in units of pixels, 0..255.

    It is float32 [height, width, 3], or [3] for one value per channel; the channels
    are in the file's own order.
    """
    if not path.is_file():
        problem = "is no file" if path.exists() else "no such file"
        raise errors.MissingCheckpoint(f"{path}: {problem}; expected a mean image")
    file_system.refuse_lfs_pointer(path)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise errors.CorruptCheckpoint(
            f"{path}: {size:,} bytes; expected a mean image, of at most {_MAX_BYTES:,}"
        )
    data, where = path.read_bytes(), str(path)
    if data.startswith(npy.SIGNATURE):
        values = npy.parse_values(data, where)
    else:
        values = caffemodel.blob(Wire(data, where))
    values = caffemodel.drop_leading_ones(values, 1)
    if values.ndim == 3 and values.shape[0] == 3:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[:2] == (1, 1):
        values = values[0, 0]
    is_mean = values.ndim in (1, 3) and values.shape[-1] == 3 and values.size
    if not is_mean or values.dtype.kind not in "fiu":
        raise errors.CorruptCheckpoint(
            f"{path}: holds {values.dtype} {list(values.shape)}; expected a mean of "
            "three channels, as [3], [3, height, width] or [height, width, 3]"
        )
    with np.errstate(over="ignore"):
        mean = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(mean).all():
        raise errors.CorruptCheckpoint(f"{path}: holds numbers that are not finite")
    return mean
