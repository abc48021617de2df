"""Any weight file -> its tensors by name, whatever its format; told by its content."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from model.checkpoints import errors, pth, unpickle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a weight file holds.

    Attributes:
        tensors: {name in the file: array}.
        format: of the file, in words; naming.Naming.formats begin alike.
        metadata: what the file says of itself.
        aside: names of entries that are no weights.
        layers: "name Type" of the layers the file lists, in its order.
        keras_config: JSON text of a Keras model's configuration; "" if there is none.
    """

    tensors: dict[str, np.ndarray]
    format: str
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    aside: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    keras_config: str = ""

    def digest(self) -> str:
        """SHA-256 over names, shapes, types and values of all tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            line = f"{name} {tensor.shape} {tensor.dtype}\n"
            digest.update(line.encode(errors="surrogatepass"))
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()


def read(path: Path) -> Checkpoint:
    """Reads a weight file; nothing in it is executed.

    Args:
        path: a file, the prefix of a TensorFlow checkpoint, or a folder with one.

    Raises:
        errors.CheckpointError: missing, unknown, damaged or unsafe; see there.
    """
    if path.is_dir() or path.suffix == ".index" or not path.exists():
        return _read_tensorflow(path)
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise errors.CorruptCheckpoint(f"{path}: is empty")
    if start[:4] == b"PK\x03\x04":
        return Checkpoint(tensors=pth.read_zip(path), format="PyTorch (zip)")
    if start[:1] == b"\x80":
        return _read_pickle(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _HEADER_LIMIT:
        return _read_safetensors(path)
    raise errors.UnknownFormat(
        f"{path}: not a weight file that Graft reads; it reads TensorFlow checkpoints "
        "(.index), PyTorch state dicts (.pth, .pt), .safetensors and pickled dicts of "
        "arrays"
    )


# The format's own limit. Source: safetensors' README.
_HEADER_LIMIT = 100_000_000


def _read_tensorflow(path: Path) -> Checkpoint:
    from model.checkpoints import ckpt  # deferred: the only reader with TensorFlow

    prefix = ckpt.prefix_of(path)
    if prefix is None:
        what = "a folder without one checkpoint" if path.is_dir() else "no such file"
        raise errors.MissingCheckpoint(
            f"{path}: {what}; expected a weight file, or the prefix of a TensorFlow "
            "checkpoint"
        )
    tensors, aside = ckpt.read(prefix)
    return Checkpoint(tensors=tensors, format="TensorFlow checkpoint", aside=aside)


def _read_pickle(path: Path) -> Checkpoint:
    data = path.read_bytes()
    if pth.LEGACY_MAGIC.to_bytes(10, "little") in data[:32]:
        return Checkpoint(tensors=pth.read_legacy(path), format="PyTorch (legacy)")
    found, _ = unpickle.loads(data, str(path))
    tensors = unpickle.flatten(found, str(path))
    return Checkpoint(tensors=tensors, format="pickled dict of arrays")


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except AttributeError as error:  # the library looks the kind up in NumPy
        raise errors.UnknownFormat(
            f"{path}: holds numbers of a kind that Graft does not read ({error}); save "
            "them as float32 or bfloat16"
        ) from error
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise errors.CorruptCheckpoint(
            f"{path}: not a readable safetensors file ({error})"
        ) from error
    return Checkpoint(tensors=tensors, format="safetensors", metadata=metadata)
