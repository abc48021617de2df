"""Load a weight file as a classifier, with its own final layer and class names."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints import errors
from model.networks import head
from model.weights import (
    identify_network,
    model_variables,
    named_weights,
    restore,
    weight_settings,
)
from pipeline.batches.input_spec import InputSpec
from pipeline.sources.lists import label_files
from pipeline.system import command_line


@dataclasses.dataclass(frozen=True)
class PretrainedClassifier:
    """A network with all its weights, and its class names in label order."""

    name: str  # or path of the weights
    restored: restore.RestoredWeights
    class_names: tuple[str, ...]
    has_class_names: bool  # whether the user or the file names the classes
    conversion: Mapping[str, Any]  # of the run's photos: resize_min, white_level

    @property
    def spec(self) -> InputSpec:
        """Size and normalisation of the input."""
        return self.restored.spec

    @functools.cached_property
    def model(self) -> Any:
        """The network, a float32 keras.Model: image -> logits."""
        network = self.restored.network
        last, num_classes = network.positions()[-1], len(self.class_names)
        model = network.build(self.spec, last=last, num_classes=num_classes)
        model_variables.assign(model, self.restored.values)
        return model

    def recognise_preprocessing(
        self, read_photos: Callable[[InputSpec, int], np.ndarray]
    ) -> "PretrainedClassifier":
        """Replace an assumed preprocessing, as restore.recognise_preprocessing."""
        restored = restore.recognise_preprocessing(self.restored, read_photos)
        return dataclasses.replace(self, restored=restored)


def load(
    ckpt: str,
    *,
    arch: str = "",
    overrides: weight_settings.Overrides = weight_settings.AS_WEIGHTS,
    labels: str = "",
) -> PretrainedClassifier:
    """Restore all of a network; the arguments are as the flags have them.

    Without class names, in `labels` or in the file, they are "class 0" and so on.
    """
    class_names: Sequence[str] = label_files.read(Path(labels)).names if labels else ()
    checkpoint = named_weights.resolve(ckpt, arch=arch).checkpoint
    match = _with_head(identify_network.identify(checkpoint, arch=arch))
    network, metadata = match.network, checkpoint.metadata
    if not network.is_classifier:
        raise errors.MismatchedCheckpoint(
            f"{checkpoint.where}: {network.name} does not end in a dense layer with a "
            "logit for each of two classes or more. Use train.py --ckpt to give it a "
            "new head, or --run_dir to evaluate a run."
        )
    num_classes = _num_classes(match)
    restored = restore.restore_match(
        match, overrides=overrides, num_classes=num_classes
    )
    restored.require(network.positions()[-1], for_evaluation=True)
    if not class_names and "class_names" in metadata:
        class_names = metadata["class_names"].split("\n")
        fit = "used" if len(class_names) == num_classes else "too many or too few"
        shown = f"{', '.join(class_names[:5])}{', ...' * (len(class_names) > 5)}"
        command_line.note(
            f"{ckpt}: the class names that come with it are {fit}: {shown}"
        )
        class_names = class_names if fit == "used" else ()
    names = tuple(class_names) or tuple(f"class {n}" for n in range(num_classes))
    if len(names) != num_classes:
        raise errors.MismatchedCheckpoint(
            f"--labels: expected {num_classes} class names, found {len(names)}. List "
            "the network's classes in the order of its logits."
        )
    return PretrainedClassifier(
        *(ckpt, restored, names, bool(class_names)),
        conversion={
            name: int(metadata[name])
            for name in ("resize_min", "white_level")
            if re.fullmatch(r"\d{1,5}", metadata.get(name, ""))
        },
    )


def _with_head(match: identify_network.NetworkMatch) -> identify_network.NetworkMatch:
    """Return a match whose network has the head with which a run was exported."""
    checkpoint, network, naming = match.checkpoint, match.network, match.naming
    position = head.HeadPosition.from_json(checkpoint.metadata)
    if not position or not {*position.features} <= {*network.head_positions()}:
        return match
    spec = naming.spec or network.input_spec
    spec = dataclasses.replace(spec, source="stated by the file, an exported run")
    head.choose_pooling(network, spec, position.features, position.pooling)
    kernel = checkpoint.tensors.get(f"{head.HIDDEN_LAYER}/kernel", np.zeros((0, 0)))
    hidden = np.atleast_2d(kernel).shape[-1]
    network = head.attach(network, spec, dataclasses.replace(position, hidden=hidden))
    layers = {name: name for name in network.weighted_layers()} | {**naming.layers}
    naming = dataclasses.replace(naming, layers=layers, spec=spec)
    return dataclasses.replace(match, network=network, naming=naming)


def _num_classes(match: identify_network.NetworkMatch) -> int:
    """Return the number of classes of the file's own final layer."""
    name = match.naming.tensor_name(match.network.weighted_layers()[-1], "bias")
    bias = match.checkpoint.tensors.get(name)
    if bias is not None and bias.ndim == 1 and len(bias) > 1:
        return len(bias)
    return match.network.num_classes


def match_class_names(
    data_names: Sequence[str], class_names: Sequence[str]
) -> np.ndarray:
    """Return the network's label of each class of the data, int64 [num_data_names].

    A class of the data matches one of the network if both have the same name. For a
    line such as "n01440764 tench, Tinca tinca", it may also be the WordNet number, the
    words, or one of the words between commas. Case, "_" and "-" do not matter.
    """
    known: dict[str, set[int]] = {}
    for label, line in enumerate(class_names):
        number = re.match(r"n\d{8}\b", line)
        words = line[number.end() :] if number else line
        for name in {words, *words.split(","), *([number[0]] if number else [])}:
            known.setdefault(_plain(name), set()).add(label)
    # A whole line means its own class, even if it is a synonym of another one.
    known |= {_plain(line): {label} for label, line in enumerate(class_names)}
    matched: list[int] = []
    for name in data_names:
        labels = known.get(_plain(name), set())
        if len(labels) != 1:
            matches = f"{len(labels)} classes" if labels else "no class"
            raise errors.MismatchedCheckpoint(
                f"class {name} of the data matches {matches} of the network "
                f"({', '.join(class_names[:3])}, ...). Expected the name or WordNet "
                "number of exactly one. Give the network's class names by --labels."
            )
        matched += labels
    return np.array(matched, np.int64)


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
