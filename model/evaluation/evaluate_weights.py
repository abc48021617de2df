"""A pretrained network as it is, on a data set -> figures."""

import dataclasses
import time
from typing import Any

from model.evaluation import evaluate_split
from model.weights import pretrained_classifier
from pipeline.records import manifest
from pipeline.system import command_line


def judge_weights(
    weights: pretrained_classifier.Pretrained,
    found: manifest.Manifest,
    split: str,
    how: evaluate_split.How,
    *,
    named: bool,
) -> dict[str, Any]:
    """Judges a network that has not been trained here.

    Args:
        weights: the network.
        found: the data set.
        split: of it; "all" for all photos.
        how: views, batches.
        named: whether its class names were given; if not, and it has as many classes as
            the data set, they are taken to be the same.

    Returns:
        Figures as those of a run, as far as there are any.

    Raises:
        DataError: see judge.judge.
        errors.MismatchedCheckpoint: a class of the data is none of the network's.
    """
    start = time.perf_counter()
    names = found.class_names
    if not named and len(names) == len(weights.class_names):
        weights = dataclasses.replace(weights, class_names=names)
        command_line.log(
            "no --labels: the network's classes are taken to be those of the data, "
            f"in this order: {', '.join(names)}"
        )
    # Before the work, not after it.
    label_of_each = pretrained_classifier.label_of_each(names, weights.class_names)
    judgement = evaluate_split.judge(
        weights.model,
        found,
        "" if split == "all" else split,
        weights.spec,
        how,
        class_names=weights.class_names,
    )
    judgement = dataclasses.replace(judgement, labels=label_of_each[judgement.labels])
    return {
        "run": weights.name,
        "split": split,
        **judgement.figures(),
        "seconds": time.perf_counter() - start,
        "preprocessing": weights.spec.source,
    }
