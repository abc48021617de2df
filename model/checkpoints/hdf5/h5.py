"""HDF5 files of Keras, Caffe and others -> {"layer/variable": array}.

Sources: keras/src/legacy/saving/legacy_h5_format.py for Keras 1 and 2,
keras/src/saving/saving_lib.py for Keras 3, `Net::ToHDF5` in caffe/src/caffe/net.cpp.
"""

import collections
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints import errors
from model.checkpoints.hdf5 import isolated_h5

# Keras 1 called variables otherwise. TensorFlow numbers names that it has seen before.
# Its "running_std" has always been the variance: keras 1.2.2, layers/normalization.py.
_VARIABLES = {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
    **{name: name for name in ("kernel", "bias", "gamma", "beta")},
    **{name: name for name in ("moving_mean", "moving_variance")},
}
_KERAS_1_NAME = re.compile(r"(.+)_(W|b|gamma|beta|running_mean|running_std)(?:_\d+)?")

# Keras 3 numbers variables in the order in which a layer makes them. Dense and
# convolution layers, and complete normalizations, are told by their shapes alone.
_NORMALIZATION = ("gamma", "beta", "moving_mean", "moving_variance")
_NUMBERED = {
    ("separable_conv2d", 3): ("depthwise_kernel", "pointwise_kernel", "bias"),
    ("separable_conv2d", 2): ("depthwise_kernel", "pointwise_kernel"),
    ("layer_normalization", 2): ("gamma", "beta"),
    ("embedding", 1): ("embeddings",),
    ("p_re_lu", 1): ("alpha",),
}
# Attribute in which files of ours describe themselves (model/weights/weight_file.py).
OWN_MARK = "graft"
_KERAS_3_PATH = re.compile(r"(?:(.+)/)?vars/([^/]+)")
_KERAS_3_ASIDE = re.compile(r"(^|/)(metrics|seed_generator)(/|$)|^[^/]*optimizer/")
_DEPTH_LIMIT = 32  # of models in models


@dataclasses.dataclass(frozen=True, kw_only=True)
class H5Content:
    """What a file of the HDF5 family holds.

    Attributes:
        tensors: {"layer/variable": array}, as they are in the file. Kernels of Keras
            are HWIO; but Keras 1 wrote OIHW under "dim_ordering": "th", and Theano as
            the backend turns kernels of convolutions by 180 degrees. Those of Caffe
            are OIHW.
        format: in words.
        keras_config: JSON text of the model's configuration; "" if there is none.
        metadata: what the file says of itself: keras_version, backend.
        aside: paths of what are no weights.
    """

    tensors: dict[str, np.ndarray]
    format: str
    keras_config: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    aside: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer in a model's configuration.

    Attributes:
        path: where Keras 3 keeps its variables.
        name: its own.
        options: its configuration.
        is_model: has layers itself.
    """

    path: str
    name: str
    options: dict[str, Any]
    is_model: bool


@dataclasses.dataclass(frozen=True)
class _Named:
    """A tensor's path, the name it is to have, and another if that is not unique."""

    path: str
    name: str
    full_name: str


def read(path: Path) -> H5Content:
    """Reads an HDF5 file of any kind.

    Raises:
        errors.CheckpointError: missing, not HDF5, damaged or unsafe; see
            isolated_h5.read.
    """
    return interpret(isolated_h5.read(path), str(path))


def interpret(
    found: isolated_h5.Content, where: str, *, keras_config: str = ""
) -> H5Content:
    """Names the arrays of an HDF5 file by layer and variable.

    Args:
        found: the file's content.
        where: the file, for errors.
        keras_config: the model's configuration, if that stands elsewhere.

    Raises:
        errors.CorruptCheckpoint: what the file lists is not in it, or a name is there
            twice.
    """
    root = found.texts.get("", {})
    keras_config = keras_config or _text(root, "model_config")
    layers = list(_layers(parse_config(keras_config, where))) if keras_config else []
    metadata = {
        key: _text(root, key) or _text(found.texts.get("model_weights", {}), key)
        for key in ("keras_version", "backend", OWN_MARK)
    }
    if _names(found, "model_weights", "layer_names") is not None:
        kind = "Keras 2 HDF5 (full model)"
        named = list(_keras_2(found, "model_weights/", layers, where))
    elif _names(found, "", "layer_names") is not None:
        kind = "Keras 2 HDF5 (weights)"
        named = list(_keras_2(found, "", layers, where))
    elif any(_KERAS_3_PATH.fullmatch(path) for path in found.arrays):
        kind = "Keras 3 weights"
        named = list(_keras_3(found, layers))
    elif any(re.fullmatch(r"data/.+/\d+", path) for path in found.arrays):
        kind = "Caffe HDF5"
        named = [
            _Named(path, path.removeprefix("data/"), path)
            for path in found.arrays
            if path.startswith("data/")
        ]
    else:
        kind = "HDF5"
        named = [_Named(path, path, path) for path in found.arrays]
    tensors = _unique(found, named, where)
    if not tensors:
        raise errors.UnknownFormat(f"{where}: an HDF5 file ({kind}) without weights")
    taken = {item.path for item in named}
    return H5Content(
        tensors=tensors,
        format=kind,
        keras_config=keras_config,
        metadata={k: v for k, v in metadata.items() if v and v.isprintable()},
        aside=tuple(sorted({*found.arrays, *found.others} - taken)),
    )


def parse_config(text: str, where: str) -> dict[str, Any]:
    """JSON text of a model's configuration -> a dict, not checked further.

    Raises:
        errors.CorruptCheckpoint: it is none.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.CorruptCheckpoint(
            f"{where}: the model's configuration is not JSON ({error})"
        ) from error
    if not isinstance(config, dict):
        raise errors.CorruptCheckpoint(
            f"{where}: the model's configuration is a {type(config).__name__}, "
            "expected a dict"
        )
    return config


def _unique(
    found: isolated_h5.Content, named: list[_Named], where: str
) -> dict[str, np.ndarray]:
    """The arrays by name; by full name where two have the same."""
    counts = collections.Counter(item.name for item in named)
    tensors: dict[str, np.ndarray] = {}
    for item in named:
        name = item.name if counts[item.name] == 1 else item.full_name
        if name in tensors:
            raise errors.CorruptCheckpoint(f"{where}: two tensors are called {name!r}")
        tensors[name] = found.arrays[item.path]
    return tensors


def _text(texts: dict[str, str | list[str]], key: str) -> str:
    value = texts.get(key, "")
    return value if isinstance(value, str) else ""


def _names(found: isolated_h5.Content, path: str, key: str) -> list[str] | None:
    """A list among the attributes; HDF5 takes 64 kB in one, so it may be in chunks."""
    texts = found.texts.get(path, {})
    if key in texts:
        chunks = [texts[key]]
    else:
        keys = (f"{key}{number}" for number in range(len(texts)))
        chunks = [texts[k] for k in keys if k in texts]
    lists = [chunk for chunk in chunks if isinstance(chunk, list)]
    return [name for chunk in lists for name in chunk] if lists else None


def _layers(model: Any, prefix: str = "", depth: int = 0) -> Iterator[_Layer]:
    """All layers of a configuration, those of models in it included.

    Keras 3 keeps them under the class name in snake case, numbered from the second on.
    What makes no sense is passed over.
    """
    inside = model.get("config")
    entries = inside.get("layers") if isinstance(inside, dict) else inside
    counts: collections.Counter[str] = collections.Counter()
    for entry in entries if isinstance(entries, list) and depth < _DEPTH_LIMIT else ():
        kind, options = (
            (entry.get("class_name"), entry.get("config"))
            if isinstance(entry, dict)
            else (None, None)
        )
        if not isinstance(kind, str) or not isinstance(options, dict | list):
            continue
        group = _snake_case(kind)
        number = f"_{counts[group]}" if counts[group] else ""
        counts[group] += 1
        path = f"{prefix}layers/{group}{number}"
        if isinstance(options, list):  # a Sequential of Keras 2.2.2 or before
            options = {"layers": options, "name": entry.get("name")}
        name = options.get("name")
        if isinstance(name, str) and name.isprintable():
            yield _Layer(path, name, options, "layers" in options)
        yield from _layers({"config": options}, f"{path}/", depth + 1)


def _snake_case(kind: str) -> str:
    """SeparableConv2D -> separable_conv2d. Source: keras/src/utils/naming.py."""
    kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()


def _keras_2(
    found: isolated_h5.Content, base: str, layers: list[_Layer], where: str
) -> Iterator[_Named]:
    is_model = {layer.name: layer.is_model for layer in layers}
    for layer in _names(found, base.rstrip("/"), "layer_names") or ():
        weights = _names(found, f"{base}{layer}", "weight_names")
        if weights is None:
            raise errors.CorruptCheckpoint(
                f"{where}: layer {layer!r} is listed, but not what belongs to it"
            )
        for weight in weights:
            path = f"{base}{layer}/{weight}"
            if path not in found.arrays:
                raise errors.CorruptCheckpoint(
                    f"{where}: {path!r} is listed, but not there, or holds no numbers"
                )
            owner, variable = _owner(weight, layer)
            inner = is_model.get(layer, not _same(owner, layer))
            name = f"{owner if inner else layer}/{variable}"
            yield _Named(path, name, f"{layer}/{weight.split(':')[0]}")


def _owner(weight: str, layer: str) -> tuple[str, str]:
    """The layer and the variable that a weight's name speaks of."""
    *owners, variable = weight.split(":")[0].split("/")
    old = _KERAS_1_NAME.fullmatch(variable)
    if old and not owners:
        return old[1], _VARIABLES[old[2]] if old[2] in _VARIABLES else old[2]
    known = re.sub(r"_\d+$", "", variable)
    return owners[-1] if owners else layer, _VARIABLES.get(known, variable)


def _same(owner: str, layer: str) -> bool:
    """Whether the owner is the layer; TensorFlow may have numbered its name."""
    return bool(re.fullmatch(rf"{re.escape(layer)}(_\d+)?", owner))


def _keras_3(found: isolated_h5.Content, layers: list[_Layer]) -> Iterator[_Named]:
    by_path = {layer.path: layer for layer in layers}
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for path in found.arrays:
        match = _KERAS_3_PATH.fullmatch(path)
        if match and not _KERAS_3_ASIDE.search(path):
            groups[match[1] or ""].append(match[2])
    for group, keys in groups.items():
        prefix = f"{group}/" if group else ""
        # Keras 2.13 had another word for layers.
        layer = by_path.get(group.replace("_layer_checkpoint_dependencies", "layers"))
        written = _text(found.texts.get(f"{prefix}vars", {}), "name")
        name = layer.name if layer else written if written.isprintable() else ""
        keys.sort(key=lambda key: (len(key), key))
        shapes = [found.arrays[f"{prefix}vars/{key}"].shape for key in keys]
        variables = _numbered(group, shapes, layer.options if layer else {})
        if keys != [str(number) for number in range(len(keys))]:
            variables = None
        for key, variable in zip(keys, variables or keys, strict=True):
            full_name = f"{prefix}{variable}"
            short_name = f"{name}/{variable}" if name else full_name
            yield _Named(f"{prefix}vars/{key}", short_name, full_name)


def _numbered(
    group: str, shapes: list[tuple[int, ...]], options: dict[str, Any]
) -> tuple[str, ...] | None:
    """What the variables 0, 1, ... of a layer are, where that is clear."""
    kind = re.sub(r"_\d+$", "", group.rsplit("/", 1)[-1])
    known = _NUMBERED.get((kind, len(shapes)))
    if known:
        return known
    if kind == "batch_normalization":
        left_out = {"gamma"} if options.get("scale") is False else set()
        left_out |= {"beta"} if options.get("center") is False else set()
        names = tuple(name for name in _NORMALIZATION if name not in left_out)
        return names if len(names) == len(shapes) else None
    ranks = [len(shape) for shape in shapes]
    if ranks == [1, 1, 1, 1] and len(set(shapes)) == 1:
        return _NORMALIZATION
    if ranks[0] > 1 and (len(ranks) == 1 or ranks[1:] == [1]):
        return ("kernel", "bias")[: len(ranks)]
    return None
