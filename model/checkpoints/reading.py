"""Read any weight file as tensors by name; its content decides which reader does it."""

import dataclasses
from pathlib import Path

import safetensors
import safetensors.numpy

from model.checkpoints import archive, bounds, errors, npy
from model.checkpoints.caffe import caffemodel
from model.checkpoints.checkpoint import Checkpoint
from model.checkpoints.hdf5 import h5, isolated_h5, keras_zip
from model.checkpoints.pickles import pth, unpickle
from model.checkpoints.tensorflow import ckpt
from pipeline.system import file_system

# The format's own limit (safetensors' README), and what 100,000 tensors need of it.
_HEADER_LIMIT, _MAX_HEADER_BYTES = 100_000_000, 16 << 20
_MAX_TENSORS = 100_000


def read(path: Path) -> Checkpoint:
    """Read a weight file; nothing in it is executed.

    `path` is a file, the prefix of a TensorFlow checkpoint, or a folder with one.

    Raises:
        errors.CheckpointError: the file is missing, unknown, damaged or unsafe.
    """
    checkpoint = _read(path)
    if len(checkpoint.tensors) > _MAX_TENSORS:
        raise errors.CorruptCheckpoint(
            f"{path}: {len(checkpoint.tensors):,} tensors, more than any network has"
        )
    metadata = dict(checkpoint.metadata)
    # Where model/export/exporting.py keeps it for files of other formats than Keras'.
    config = metadata.pop("keras_config", "")
    return dataclasses.replace(
        checkpoint,
        where=str(path),
        metadata=metadata,
        keras_config=checkpoint.keras_config or config,
    )


def _read(path: Path) -> Checkpoint:
    prefix = ckpt.prefix_of(path)
    if prefix is not None:
        return ckpt.read(prefix)
    if not path.is_file():
        problem = "a folder without one checkpoint" if path.is_dir() else "no such file"
        raise errors.MissingCheckpoint(
            f"{path}: {problem}; expected a weight file, or the prefix of a TensorFlow "
            "checkpoint"
        )
    file_system.refuse_lfs_pointer(path)
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise errors.CorruptCheckpoint(f"{path}: is empty")
    for signature, reader in (
        (b"PK\x03\x04", _read_zip),
        (isolated_h5.SIGNATURE, h5.read),
        (npy.SIGNATURE, npy.read),
    ):
        if start.startswith(signature):
            return reader(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _HEADER_LIMIT:
        return _read_safetensors(path)
    if start[:1] == b"\x80":
        return _read_pickle(path)
    if caffemodel.recognises(path):
        return caffemodel.read(path)
    raise errors.UnknownFormat(
        f"{path}: not a weight file that Graft reads; it reads TensorFlow checkpoints "
        "(.index), Caffe's .caffemodel and .caffemodel.h5, PyTorch state dicts (.pth, "
        ".pt), Keras .keras and .h5, .safetensors, .npy, .npz and pickled dicts of "
        "arrays"
    )


def _read_zip(path: Path) -> Checkpoint:
    with archive.opened(path) as file:
        names = file.namelist()
    if any(name.endswith(".npy") for name in names):
        return npy.read(path)
    if any(name.endswith("/data.pkl") for name in names):
        return Checkpoint(tensors=pth.read_zip(path), format="PyTorch (zip)")
    return keras_zip.read(path)


def _read_pickle(path: Path) -> Checkpoint:
    data = path.read_bytes()
    if pth.LEGACY_MAGIC.to_bytes(10, "little") in data[:32]:
        return Checkpoint(tensors=pth.read_legacy(path), format="PyTorch (legacy)")
    value, _ = unpickle.loads(data, str(path))
    tensors = unpickle.flatten(value, str(path))
    return Checkpoint(tensors=tensors, format="pickled dict of arrays")


def _read_safetensors(path: Path) -> Checkpoint:
    with path.open("rb") as start:
        length = int.from_bytes(start.read(8), "little")
    if _MAX_HEADER_BYTES < length <= path.stat().st_size:
        raise errors.CorruptCheckpoint(
            f"{path}: a header of {length:,} bytes, more than any network needs"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            # The library returns metadata in a random order.
            metadata = dict(sorted((file.metadata() or {}).items()))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except AttributeError as error:  # the library looks the type up in NumPy
        raise errors.UnknownFormat(
            f"{path}: holds numbers of a kind that Graft does not read ({error}); save "
            "them as float32 or bfloat16"
        ) from error
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise errors.CorruptCheckpoint(
            f"{path}: not a readable safetensors file ({bounds.printable(str(error))})"
        ) from error
    return Checkpoint(tensors=tensors, format="safetensors", metadata=metadata)
