"""Evaluate a weight file as it is; try other preprocessings if its own is a guess."""

import dataclasses
import time
from typing import Any

import numpy as np

from model.evaluation import run_evaluation
from model.evaluation.compare import paired_tests
from model.evaluation.evaluation_settings import Config
from model.evaluation.run_evaluation import EvaluationData
from model.loop import metrics, training_loop
from model.weights import pretrained_classifier, usual_preprocessing, weight_settings
from model.weights.pretrained_classifier import PretrainedClassifier
from pipeline.batches import image_batches
from pipeline.system import command_line

_NUM_TRIED = 200  # photos on which other preprocessings are tried
_TRIED_AT_ONCE = 25


def evaluate_weights(
    weights: PretrainedClassifier, data: EvaluationData, config: Config
) -> dict[str, Any]:
    """Evaluate a pretrained network without training it.

    If nobody has named the network's classes, and it has as many as the data set, they
    are assumed to be the same. Returns the figures of a run's evaluation, as far as
    they exist.
    """
    start = time.perf_counter()
    names, class_names = data.records.class_names, weights.class_names
    if not weights.has_class_names and len(names) == len(class_names):
        class_names = names
        command_line.log(
            "--labels was not given: the network's classes are assumed to be those of "
            f"the data, in this order: {', '.join(names)}"
        )
    # Unknown classes are refused before the work, not after it.
    label_of_each = pretrained_classifier.match_class_names(names, class_names)
    tried = _try_usual_preprocessing(weights, data, label_of_each)
    weight_settings.log_preprocessing(weights.spec, tried)
    predictions = run_evaluation.evaluate_split(
        weights.model, data, weights.spec, config, class_names=class_names
    )
    labels = label_of_each[predictions.labels]
    predictions = dataclasses.replace(predictions, labels=labels)
    return {
        "run": weights.name,
        "split": data.split,
        **predictions.figures(),
        "seconds": time.perf_counter() - start,
        "preprocessing": weights.spec.describe_pixels(),
    }


def _try_usual_preprocessing(
    weights: PretrainedClassifier, data: EvaluationData, label_of_each: np.ndarray
) -> str:
    """Try the usual preprocessings on some photos if that of the weights is a guess.

    `label_of_each` has the network's label of each class of the data. Returns sentences
    if another one is clearly better, or if that of the weights is assumed; else "".
    """
    spec, restored = weights.spec, weights.restored
    if not data.rows or not spec.source.startswith(("assumed", "recognised")):
        return ""
    images = image_batches.sample(data.records, data.rows, spec, _NUM_TRIED)
    rows = image_batches.evenly_spread(data.rows, _NUM_TRIED)
    labels = label_of_each[[data.records.labels[row.class_name] for row in rows]]
    step = training_loop.make_predict_step(weights.model)

    def correct(pixels: np.ndarray) -> np.ndarray:
        starts = range(0, len(pixels), _TRIED_AT_ONCE)
        logits = [step(np.float32(pixels[n : n + _TRIED_AT_ONCE])) for n in starts]
        return np.asarray(np.concatenate(logits).argmax(axis=1) == labels)

    tried = {}
    for flags, (_, is_bgr) in usual_preprocessing.USUAL.items():
        if restored.network.first_convolution() or not is_bgr:
            pixels = usual_preprocessing.normalised(images, flags)
            pixels = pixels[..., ::-1] if restored.is_bgr else pixels
            # The model's own preprocessing turns these into the pixels.
            tried[flags] = correct((pixels * spec.std + spec.mean) * spec.scale)
    own = correct(images)
    best = max(tried, key=lambda flags: np.count_nonzero(tried[flags]))
    differences = tried[best].astype(np.int64) - own
    groups = np.array([row.group for row in rows])
    p = paired_tests.mcnemar_p(metrics.sum_groups(differences, groups)) * len(tried)
    if p < paired_tests.ALPHA and differences.sum() > 0:
        return (
            f"On {len(rows)} of these photos, accuracy is {own.mean():.3f} with it and "
            f"{tried[best].mean():.3f} with {best} (p = {p:.1g}): pass these flags"
        )
    return (
        f"On {len(rows)} of these photos, none of the usual ones is clearly better. "
        "The flags --scale, --mean, --std and --channel_order set it"
    ) * spec.is_assumed
