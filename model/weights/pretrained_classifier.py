"""A weight file -> its network as it is, with its own final layer and class names."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from model.checkpoints import errors
from model.networks import registry
from model.weights import (
    identify_network,
    model_variables,
    named_weights,
    preprocessing_overrides,
    restore,
)
from pipeline.batches.input_spec import InputSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network with all its weights.

    Attributes:
        name: of the weights, as given.
        model: keras.Model, float32: image -> logits.
        spec: of its input.
        class_names: in label order.
    """

    name: str
    model: Any
    spec: InputSpec
    class_names: tuple[str, ...]


def load(
    ckpt: str,
    *,
    arch: str = "",
    overrides: preprocessing_overrides.Overrides = preprocessing_overrides.AS_WEIGHTS,
    labels: str = "",
) -> Pretrained:
    """Restores a network in full; nothing in it starts at random.

    Args:
        ckpt: name or path of the weights.
        arch: name of the network; "" to find it.
        overrides: of the preprocessing.
        labels: file of class names, one a line; "" if there is none.

    Raises:
        errors.CheckpointError: the weights cannot be used, or lack a part.
    """
    weights = named_weights.resolve(ckpt)
    where = str(weights.path)
    match = identify_network.identify(weights.checkpoint, where, arch=arch)
    network = match.network
    if not network.is_classifier:
        raise errors.MismatchedCheckpoint(
            f"{where}: {network.name} does not end in a dense layer with a logit for "
            "each of two classes or more, so it cannot be evaluated without training. "
            "Use train.py --ckpt to give it a new head, or --run_dir to evaluate a run."
        )
    num_classes = _num_classes(match)
    restored = restore.restore_match(
        match, overrides=overrides, num_classes=num_classes
    )
    last = network.step_names()[-1]
    restored.require(last, for_evaluation=True)
    model = network.build(restored.spec, last=last, num_classes=num_classes)
    model_variables.assign(model, restored.values)
    return Pretrained(
        name=ckpt,
        model=model,
        spec=restored.spec,
        class_names=read_labels(Path(labels), num_classes)
        if labels
        else tuple(f"class {number}" for number in range(num_classes)),
    )


def _num_classes(match: identify_network.NetworkMatch) -> int:
    """Return the number of classes of the file's own final layer."""
    name = match.naming.tensor_name(match.network.weighted_layers()[-1], "bias")
    bias = match.checkpoint.tensors.get(name)
    if bias is not None and bias.ndim == 1:
        return len(bias)
    return match.network.num_classes


def read_labels(path: Path, num_classes: int) -> tuple[str, ...]:
    """Reads class names, one a line, in label order from 0.

    Raises:
        errors.MismatchedCheckpoint: not as many as the network has.
        OSError: cannot be read.
    """
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != num_classes:
        raise errors.MismatchedCheckpoint(
            f"{path}: {len(names)} class names, but the network tells {num_classes} "
            "classes apart; expected one name a line, in the network's order"
        )
    return names


def label_of_each(data_names: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """int64 [num_data_names]: the network's label of each class of the data.

    A class of the data is one of the network if they have the same name; or if it is
    the WordNet number, the words, or one of the words with commas between them, of a
    line such as "n01440764 tench, Tinca tinca". Case, "_" and "-" do not matter.

    Raises:
        errors.MismatchedCheckpoint: a class is none of the network's, or of several.
    """
    known: dict[str, set[int]] = {}
    for label, line in enumerate(class_names):
        for name in _synonyms(line):
            known.setdefault(_plain(name), set()).add(label)
    # A whole line means its own class, also where it is a synonym of another one.
    known |= {_plain(line): {label} for label, line in enumerate(class_names)}
    found: list[int] = []
    for name in data_names:
        labels = known.get(_plain(name), set())
        if len(labels) != 1:
            what = "no class" if not labels else f"{len(labels)} classes"
            raise errors.MismatchedCheckpoint(
                f"class {name} of the data is {what} of the network "
                f"({', '.join(class_names[:3])}, ...); expected the name, or the "
                "WordNet number, of one; --labels gives the network's names"
            )
        found += labels
    return np.array(found, np.int64)


def _synonyms(line: str) -> set[str]:
    number = re.match(r"n\d{8}\b", line)
    words = line[number.end() :] if number else line
    return {words, *words.split(","), *([number[0]] if number else [])}


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def refuse_without_ckpt(
    *, arch: str, labels: str, overrides: preprocessing_overrides.Overrides
) -> None:
    """Refuses flags of a weight file where a run is used, which has its own.

    Raises:
        ValueError: says which.
    """
    fields = dataclasses.fields(overrides)
    changed = [f.name for f in fields if getattr(overrides, f.name) != f.default]
    names = ["arch"] * bool(arch) + ["labels"] * bool(labels) + changed
    if names:
        given = ", ".join(f"--{name}" for name in names)
        raise ValueError(
            f"{given}: expected --ckpt beside it; a run's network, classes and "
            "preprocessing are its own"
        )


def define_flags() -> None:
    """Declares --ckpt, --arch, --labels and those of inputs.Overrides."""
    flags.DEFINE_string(
        "ckpt",
        "",
        f"Weights to use as they are, in place of a run: "
        f"{', '.join(named_weights.NAMES)}, or the path of a weight file.",
    )
    flags.DEFINE_string(
        "arch",
        "",
        "Network that the weights belong to: "
        f"{', '.join(registry.NETWORKS)}; by default found by names and shapes.",
    )
    flags.DEFINE_string(
        "labels",
        "",
        "File of the class names of --ckpt, one a line, as synset_words.txt.",
    )
    preprocessing_overrides.define_flags()
    flags.adopt_module_key_flags(preprocessing_overrides)  # so that --help shows them
