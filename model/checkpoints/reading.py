"""Read any weight file as tensors by name; its content decides which reader does it."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from model.checkpoints import archive, bounds, errors, npy
from model.checkpoints.caffe import caffemodel
from model.checkpoints.hdf5 import h5, isolated_h5, keras_zip
from model.checkpoints.pickles import pth, unpickle
from model.checkpoints.tensorflow import ckpt

# Metadata of files that Graft wrote (model/weights/weight_file.py): the key of all, and
# the one of the configuration of a network that was built from one.
MARK = h5.OWN_MARK
_KERAS_CONFIG = "keras_config"
# The format's own limit (safetensors' README), and what 100,000 tensors need of it.
_HEADER_LIMIT, _MAX_HEADER_BYTES = 100_000_000, 16 << 20
_MAX_TENSORS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a weight file holds.

    Attributes:
        tensors: {name in the file: array}.
        format: name of the format; model/weights/layer_names.py looks at its beginning.
        metadata: what the file says about itself.
        ignored_entries: names of entries that are no weights.
        layers: "name Type" of the layers that the file lists, in its order.
        keras_config: JSON text of a Keras model's configuration; "" if it has none.
    """

    tensors: dict[str, np.ndarray]
    format: str
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored_entries: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    keras_config: str = ""

    def digest(self) -> str:
        """Return the SHA-256 of names, shapes, types and values of all tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            line = f"{name} {tensor.shape} {tensor.dtype}\n"
            digest.update(line.encode(errors="surrogatepass"))
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()


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
    return checkpoint


def _read(path: Path) -> Checkpoint:
    if not path.is_file() or ckpt.prefix_of(path) is not None:
        return _read_tensorflow(path)
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise errors.CorruptCheckpoint(f"{path}: is empty")
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if start.startswith(isolated_h5.SIGNATURE):
        return _from_h5(h5.read(path), path)
    if start.startswith(npy.SIGNATURE):
        return _read_npy(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _HEADER_LIMIT:
        return _read_safetensors(path)
    if start[:1] == b"\x80":
        return _read_pickle(path)
    if ckpt.is_v1(path):
        raise errors.UnknownFormat(
            f"{path}: a TensorFlow checkpoint of version 1, from before 2017; write it "
            "again with tf.compat.v1.train.Saver(write_version=2)"
        )
    if caffemodel.recognises(path):
        tensors, metadata = caffemodel.read(path)
        layers = tuple(metadata.pop("layers", "").splitlines())
        return Checkpoint(
            tensors=tensors, format="Caffe", metadata=metadata, layers=layers
        )
    raise errors.UnknownFormat(
        f"{path}: not a weight file that Graft reads; it reads TensorFlow checkpoints "
        "(.index), Caffe's .caffemodel and .caffemodel.h5, PyTorch state dicts (.pth, "
        ".pt), Keras .keras and .h5, .safetensors, .npy, .npz and pickled dicts of "
        "arrays"
    )


def _read_tensorflow(path: Path) -> Checkpoint:
    prefix = ckpt.prefix_of(path)
    if prefix is None:
        problem = "a folder without one checkpoint" if path.is_dir() else "no such file"
        raise errors.MissingCheckpoint(
            f"{path}: {problem}; expected a weight file, or the prefix of a TensorFlow "
            "checkpoint"
        )
    tensors, ignored_entries = ckpt.read(prefix)
    return Checkpoint(
        tensors=tensors, format="TensorFlow checkpoint", ignored_entries=ignored_entries
    )


def _read_zip(path: Path) -> Checkpoint:
    with archive.opened(path) as file:
        names = file.namelist()
    if any(name.endswith(".npy") for name in names):
        return _read_npy(path)
    if any(name.endswith("/data.pkl") for name in names):
        return Checkpoint(tensors=pth.read_zip(path), format="PyTorch (zip)")
    return _from_h5(keras_zip.read(path), path)


def _read_npy(path: Path) -> Checkpoint:
    tensors, kind, text = npy.read(path)
    metadata = _parse_metadata(text, path) if text else {}
    config = metadata.pop(_KERAS_CONFIG, "")
    return Checkpoint(
        tensors=tensors, format=kind, metadata=metadata, keras_config=config
    )


def _from_h5(content: h5.H5Content, path: Path) -> Checkpoint:
    metadata = dict(content.metadata)
    if text := metadata.pop(MARK, ""):
        metadata |= _parse_metadata(text.encode(), path)
    config = metadata.pop(_KERAS_CONFIG, "")
    return Checkpoint(
        tensors=content.tensors,
        format=content.format,
        metadata=metadata,
        ignored_entries=content.ignored_entries,
        keras_config=content.keras_config or config,
    )


def _parse_metadata(text: bytes, path: Path) -> dict[str, str]:
    """Parse the metadata that Graft wrote to a file, in JSON."""
    try:
        return {str(key): str(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise errors.CorruptCheckpoint(
            f"{path}: its own description is damaged ({error})"
        ) from error


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
    config = metadata.pop(_KERAS_CONFIG, "")
    return Checkpoint(
        tensors=tensors, format="safetensors", metadata=metadata, keras_config=config
    )
