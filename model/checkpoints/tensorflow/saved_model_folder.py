"""Read SavedModel folders of Keras 2 as {"layer/variable": array}.

The variables are a TensorFlow checkpoint. keras_metadata.pb has the configuration of
the network, and the path of each layer in the checkpoint's graph of objects. The graph
of operations in saved_model.pb is neither read nor run.

Sources: keras/protobuf/saved_metadata.proto and keras/saving/legacy/saved_model of
Keras 2.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from model.checkpoints import checkpoint, errors
from model.checkpoints.checkpoint import Checkpoint
from model.checkpoints.protobuf_fields import Wire
from model.checkpoints.tensorflow import ckpt

GRAPH, _METADATA = "saved_model.pb", "keras_metadata.pb"
NAMES = (GRAPH, _METADATA)
_MAX_BYTES = 64 << 20
_NODES, _PATH, _KIND, _DESCRIPTION = 1, 3, 4, 5
_LAYER, _MODELS = "_tf_keras_layer", ("_tf_keras_sequential", "_tf_keras_network")

_Path = tuple[str, ...]  # attributes that lead from the model to an object


def read(folder: Path) -> Checkpoint:
    """Read a SavedModel folder with the configuration of a Keras network."""
    config, names = _describe(folder / _METADATA)
    if not config:
        raise errors.UnknownFormat(
            f"{folder}: is a SavedModel without the configuration of a Keras network: "
            "a graph of operations, which Graft does not run. Save the model as .keras "
            "(a run of Graft: python -m model.export --format=keras). Its variables "
            f"alone can be read as {folder}/variables"
        )
    content = ckpt.read(folder / "variables" / "variables", layers=names)
    # Normalization is rebuilt as BatchNormalization.
    tensors = {
        re.sub(r"/(?:adapt_)?(mean|variance)$", r"/moving_\1", name): tensor
        for name, tensor in content.tensors.items()
    }
    return dataclasses.replace(
        content, tensors=tensors, format="Keras SavedModel", keras_config=config
    )


def _describe(path: Path) -> tuple[str, dict[_Path, str]]:
    """Return the configuration of a network, and {path of a layer: its name}.

    A layer inside another one, as in attention, is called "outer/inner".
    """
    if not path.is_file():
        return "", {}
    if path.stat().st_size > _MAX_BYTES:
        raise errors.CorruptCheckpoint(
            f"{path}: is larger than {_MAX_BYTES >> 20} MiB, which no network needs"
        )
    wire, config = Wire(path.read_bytes(), str(path)), ""
    names: dict[_Path, str] = {}
    for node in wire.fields():
        texts = {
            field.number: wire.text(field)
            for field in (wire.fields(node) if node.number == _NODES else ())
            if field.number in (_PATH, _KIND, _DESCRIPTION)
        }
        kind = texts.get(_KIND)
        if len(texts) < 3 or kind not in (_LAYER, *_MODELS):
            continue
        step, *steps = texts[_PATH].split(".")
        described = checkpoint.parse_dict(
            texts[_DESCRIPTION], str(path), f"the description of {step}"
        )
        if kind == _LAYER:
            outer = names.get(tuple(steps[:-1]))
            name = str(described.get("name"))
            names[tuple(steps)] = f"{outer}/{name}" if outer else name
        elif not steps:
            keys = ("class_name", "config")
            config = json.dumps({key: _plain(described.get(key)) for key in keys})
    return config, names


def _plain(value: Any) -> Any:
    """Return a value with lists for what Keras marks as tuples and shapes."""
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape"):
            value = value.get("items")
        else:
            return {key: _plain(item) for key, item in value.items()}
    return [*map(_plain, value)] if isinstance(value, list) else value
