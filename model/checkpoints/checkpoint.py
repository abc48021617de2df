"""Define what a weight file holds, and parse the descriptions in it."""

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from model.checkpoints import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a weight file holds."""

    tensors: dict[str, np.ndarray]  # by their names and in the layout of the file
    format: str  # model/weights/layer_naming.py looks at its beginning
    where: str = ""  # name of the file, for messages
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    ignored_entries: tuple[str, ...] = ()  # names of entries that are not weights
    layers: tuple[tuple[str, str], ...] = ()  # (name, type), if the file lists them
    keras_config: str = ""  # JSON text of a Keras model's configuration, if it has one

    def digest(self) -> str:
        """Return the SHA-256 of names, shapes, types and values of all tensors."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            line = f"{name} {tensor.shape} {tensor.dtype}\n"
            digest.update(line.encode(errors="surrogatepass"))
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()


def parse_dict(text: str | bytes, where: str, subject: str) -> dict[str, Any]:
    """Parse JSON text as a dict; errors call it `subject`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.CorruptCheckpoint(
            f"{where}: {subject} is not JSON ({error})"
        ) from error
    if not isinstance(value, dict):
        raise errors.CorruptCheckpoint(
            f"{where}: {subject} is a {type(value).__name__}, expected a dict"
        )
    return value


def parse_metadata(text: str | bytes, where: str) -> dict[str, str]:
    """Parse the metadata that Graft wrote to a file; empty text has none."""
    values = parse_dict(text or "{}", where, "Graft's description of the file")
    return {key: str(value) for key, value in values.items()}
