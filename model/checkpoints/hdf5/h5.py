"""Read HDF5 files of Keras, Caffe and others as {"layer/variable": array}.

Sources: keras/src/legacy/saving/legacy_h5_format.py for Keras 1 and 2,
keras/src/saving/saving_lib.py for Keras 3, `Net::ToHDF5` in caffe/src/caffe/net.cpp.
"""

import collections
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.checkpoints import checkpoint, errors
from model.checkpoints.checkpoint import Checkpoint
from model.checkpoints.hdf5 import isolated_h5
from model.checkpoints.hdf5.isolated_h5 import Content
from pipeline.system import command_line

_NORMALIZATION = ("gamma", "beta", "moving_mean", "moving_variance")
# Keras 1 had other names for variables. Its "running_std" has always been the variance:
# keras 1.2.2, layers/normalization.py. TensorFlow numbers names that exist already.
_VARIABLES = {name: name for name in ("kernel", "bias", *_NORMALIZATION)} | {
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
    # Of Normalization, which networks here have as BatchNormalization.
    "mean": "moving_mean",
    "variance": "moving_variance",
    # The variable of ConvNeXt's LayerScale, which Keras gives no name.
    "Variable": "variable",
    "variable": "variable",
}
_KERAS_1_NAME = re.compile(r"(.+)_(W|b|gamma|beta|running_mean|running_std)(?:_\d+)?")

# Keras 3 numbers variables in the order in which a layer makes them. The shapes alone
# show dense and convolution layers, and normalizations with all four variables.
_NUMBERED = {
    ("separable_conv2d", 3): ("depthwise_kernel", "pointwise_kernel", "bias"),
    ("separable_conv2d", 2): ("depthwise_kernel", "pointwise_kernel"),
    ("layer_normalization", 2): ("gamma", "beta"),
    ("group_normalization", 2): ("gamma", "beta"),
    ("rms_normalization", 1): ("scale",),
    ("layer_scale", 1): ("variable",),
    ("normalization", 3): ("moving_mean", "moving_variance", "count"),
    **{  # of attention
        (f"{part}_dense", 2): ("kernel", "bias")
        for part in ("query", "key", "value", "output")
    },
    ("embedding", 1): ("embeddings",),
    ("p_re_lu", 1): ("alpha",),
}
# Attribute with the metadata of files that Graft wrote (model/weights/weight_file.py).
OWN_MARK = "graft"
_KERAS_3_PATH = re.compile(r"(?:(.+)/)?vars/([^/]+)")
_KERAS_3_IGNORED = re.compile(r"(^|/)(metrics|seed_generator)(/|$)|^[^/]*optimizer/")
_MAX_CONFIG_BYTES = 16 << 20
_MAX_LEVELS = 32  # of nested models


class _Layer(NamedTuple):
    """A layer in a configuration; `path` is its group in a file of Keras 3."""

    path: str
    name: str
    options: dict[str, Any]


class _Named(NamedTuple):
    """A tensor's path, its name, and its name if another tensor has the same one."""

    path: str
    name: str
    full_name: str


def read(path: Path, *, keras_config: str = "") -> Checkpoint:
    """Read an HDF5 file of any kind.

    `keras_config` is the JSON text of the network's configuration; by default the
    file's own, or that of a JSON file beside a weights-only file.
    """
    content = isolated_h5.read(path)
    if not keras_config and not _text(content.texts.get("", {}), "model_config"):
        keras_config = _config_beside(path)
    return interpret(content, keras_config=keras_config)


def _config_beside(path: Path) -> str:
    """Return the configuration of a Keras network in a file beside its weights."""
    stem = re.sub(r"(\.weights)?\.(h5|hdf5|keras)$", "", path.name)
    for name in (f"{stem}.json", "model.json", "config.json"):
        file = path.with_name(name)
        if file.is_file() and file.stat().st_size <= _MAX_CONFIG_BYTES:
            text = file.read_text("utf-8", errors="replace")
            if re.match(r'\s*\{.*"class_name"', text, re.DOTALL):
                command_line.note(f"{path}: its network is described by {file}")
                return text
    return ""


def interpret(content: Content, *, keras_config: str = "") -> Checkpoint:
    """Name the arrays of an HDF5 file by layer and variable.

    Arrays are as the file has them: kernels of Keras are HWIO; but Keras 1 wrote OIHW
    under "dim_ordering": "th", and Theano as the backend turns kernels of convolutions
    by 180 degrees. Those of Caffe are OIHW. Metadata are keras_version and backend.

    `keras_config` is the model's configuration in JSON, if it is not in the file.
    """
    root = content.texts.get("", {})
    keras_config = keras_config or _text(root, "model_config")
    where, subject = content.where, "the model's configuration"
    config = checkpoint.parse_dict(keras_config or "{}", where, subject)
    kind, named = _name_arrays(content, list(_layers(config)))
    tensors = _by_name(content, named)
    if not tensors:
        raise errors.UnknownFormat(f"{where}: an HDF5 file ({kind}) without weights")
    texts = {**content.texts.get("model_weights", {}), **root}
    metadata = {
        key: text
        for key in ("keras_version", "backend", OWN_MARK)
        if (text := _text(texts, key)) and text.isprintable()
    }
    own = checkpoint.parse_metadata(metadata.pop(OWN_MARK, ""), where)
    others = {*content.arrays, *content.others} - {item.path for item in named}
    return Checkpoint(
        tensors=tensors,
        format=kind,
        keras_config=keras_config,
        metadata=metadata | own,
        ignored_entries=tuple(sorted(others)),
    )


def _name_arrays(content: Content, layers: list[_Layer]) -> tuple[str, list[_Named]]:
    """Return the kind of the file, and the arrays in it that are weights."""
    if _names(content, "model_weights", "layer_names") is not None:
        named = _keras_2(content, "model_weights/", layers)
        return "Keras 2 HDF5 (full model)", list(named)
    if _names(content, "", "layer_names") is not None:
        return "Keras 2 HDF5 (weights)", list(_keras_2(content, "", layers))
    if any(_KERAS_3_PATH.fullmatch(path) for path in content.arrays):
        return "Keras 3 weights", list(_keras_3(content, layers))
    if any(re.fullmatch(r"data/.+/\d+", path) for path in content.arrays):
        paths = [path for path in content.arrays if path.startswith("data/")]
        return "Caffe HDF5", [_Named(p, p.removeprefix("data/"), p) for p in paths]
    return "HDF5", [_Named(path, path, path) for path in content.arrays]


def _by_name(content: Content, named: list[_Named]) -> dict[str, np.ndarray]:
    """Return the arrays by name, or by full name where two names are the same."""
    counts = collections.Counter(item.name for item in named)
    tensors: dict[str, np.ndarray] = {}
    for item in named:
        name = item.name if counts[item.name] == 1 else item.full_name
        if name in tensors:
            raise errors.CorruptCheckpoint(f"{content.where}: holds {name!r} twice")
        tensors[name] = content.arrays[item.path]
    return tensors


def _text(texts: dict[str, str | list[str]], key: str) -> str:
    value = texts.get(key, "")
    return value if isinstance(value, str) else ""


def _names(content: Content, path: str, key: str) -> list[str] | None:
    """Return a list among the attributes, or None if there is no such list.

    One attribute of HDF5 holds at most 64 kB, so the list may be in numbered chunks.
    """
    texts = content.texts.get(path, {})
    numbered = (f"{key}{number}" for number in range(len(texts)))
    chunks = [texts.get(k) for k in ([key] if key in texts else numbered)]
    lists = [chunk for chunk in chunks if isinstance(chunk, list)]
    return list(itertools.chain(*lists)) if lists else None


def _layers(model: Any, prefix: str = "", level: int = 0) -> Iterator[_Layer]:
    """Yield all layers of a configuration, including those of models in it.

    Keras 3 keeps them under the class name in snake case, numbered from the second on.
    Entries that are not layers are skipped.
    """
    inside = model.get("config")
    entries = inside.get("layers") if isinstance(inside, dict) else inside
    counts: collections.Counter[str] = collections.Counter()
    for entry in entries if isinstance(entries, list) and level < _MAX_LEVELS else ():
        match entry:
            case {"class_name": str(kind), "config": dict() | list() as options}:
                group = _snake_case(kind)
            case _:
                continue
        number = f"_{counts[group]}" if counts[group] else ""
        path = f"{prefix}layers/{group}{number}"
        counts[group] += 1
        if isinstance(options, list):  # a Sequential of Keras 2.2.2 or before
            options = {"layers": options, "name": entry.get("name")}
        name = options.get("name")
        if isinstance(name, str) and name.isprintable():
            yield _Layer(path, name, options)
        yield from _layers({"config": options}, f"{path}/", level + 1)


def _snake_case(kind: str) -> str:
    """Turn SeparableConv2D into separable_conv2d. Source: keras/src/utils/naming.py."""
    kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()


def _keras_2(content: Content, base: str, layers: list[_Layer]) -> Iterator[_Named]:
    is_model = {layer.name: "layers" in layer.options for layer in layers}
    for layer in _names(content, base.rstrip("/"), "layer_names") or ():
        weights = _names(content, f"{base}{layer}", "weight_names")
        if weights is None:
            raise errors.CorruptCheckpoint(
                f"{content.where}: layer {layer!r} is listed, but not its weights"
            )
        for weight in weights:
            path = f"{base}{layer}/{weight}"
            if path not in content.arrays:
                raise errors.CorruptCheckpoint(
                    f"{content.where}: {path!r} is listed, but has no numbers"
                )
            owner, variable = _owner(weight, layer)
            # TensorFlow may number the layer's name.
            is_other = not re.fullmatch(rf"{re.escape(layer)}(_\d+)?", owner)
            name = f"{owner if is_model.get(layer, is_other) else layer}/{variable}"
            yield _Named(path, name, f"{layer}/{weight.split(':')[0]}")


def _owner(weight: str, layer: str) -> tuple[str, str]:
    """Return the layer and the variable in a weight's name."""
    *owners, variable = weight.split(":")[0].split("/")
    old = _KERAS_1_NAME.fullmatch(variable)
    if old and not owners:
        return old[1], _VARIABLES[old[2]]
    known = re.sub(r"_\d+$", "", variable)
    if "/" in layer and weight.startswith(f"{layer}/"):
        owners = [layer]
    return owners[-1] if owners else layer, _VARIABLES.get(known, variable)


def _keras_3(content: Content, layers: list[_Layer]) -> Iterator[_Named]:
    by_path = {layer.path: layer for layer in layers}
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for path in content.arrays:
        match = _KERAS_3_PATH.fullmatch(path)
        if match and not _KERAS_3_IGNORED.search(path):
            groups[match[1] or ""].append(match[2])
    for group, keys in groups.items():
        prefix = f"{group}/" if group else ""
        # Keras 2.13 had another name for layers.
        layer = by_path.get(group.replace("_layer_checkpoint_dependencies", "layers"))
        written = _text(content.texts.get(f"{prefix}vars", {}), "name")
        name = layer.name if layer else written if written.isprintable() else ""
        outer = by_path.get(group.rpartition("/")[0])
        if name and outer and not layer and "layers" not in outer.options:
            name = f"{outer.name}/{name}"  # a layer inside another, as in attention
        keys.sort(key=lambda key: (len(key), key))
        shapes = [content.arrays[f"{prefix}vars/{key}"].shape for key in keys]
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
    """Return the names of a layer's variables 0, 1, ...; None if they are unclear."""
    kind = re.sub(r"_\d+$", "", group.rsplit("/", 1)[-1])
    if known := _NUMBERED.get((kind, len(shapes))):
        return known
    if kind == "batch_normalization":
        switches = {"gamma": "scale", "beta": "center"}
        names = tuple(
            n for n in _NORMALIZATION if options.get(switches.get(n, "")) is not False
        )
        return names if len(names) == len(shapes) else None
    ranks = [len(shape) for shape in shapes]
    if ranks == [1, 1, 1, 1] and len(set(shapes)) == 1:
        return _NORMALIZATION
    if ranks[0] > 1 and (len(ranks) == 1 or ranks[1:] == [1]):
        return ("kernel", "bias")[: len(ranks)]
    return None
