"""Find doubtful labels of all photos: predict each by a head that has not seen it.

The head is solved in five folds, on features of the pretrained layers, which have seen
no label of these photos. This follows the training, and cannot influence it.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from model.evaluation.held_out import label_errors
from model.evaluation.stored_logits import Predictions
from model.loop import metrics, train_step, training_loop
from model.loop.inputs import near_copies, training_data
from model.networks import head
from model.runs import finished_run, run_folder
from model.training import head_solver, staged_training, stages
from pipeline import split
from pipeline.grouping import split_assignment
from pipeline.records import manifest
from pipeline.system import command_line

NUM_FOLDS = 5
_PENALTY = 0.1  # L2 penalty if the training has not chosen one
# Of the solver in each fold; 1e-7 takes twice as long, and finds no more planted label
# errors.
_TOLERANCE = 1e-4
_MOST_FITTED = 100_000  # photos of the temperature; of more, an even selection


def write_doubts(network: staged_training.StagedTraining) -> None:
    """Write the doubts of a network that has been trained, and log their number."""
    try:
        doubts = _find(network)
    except _NotPossible as error:
        command_line.log(f"no doubts about labels: {error}")
        return
    path = label_errors.write(network.folder.directory, doubts)
    command_line.log(label_errors.in_words(doubts, path))


class _NotPossible(Exception):
    """There are no out-of-fold probabilities, for the reason in the message."""


def _find(network: staged_training.StagedTraining) -> dict[str, Any]:
    """Return the doubts of all photos, a result of label_errors.figures."""
    records, start = network.records, network.start
    if start.restored is None:
        raise _NotPossible(
            "they need pretrained layers; the layers of this network have learned the "
            "labels of its training photos"
        )
    rows, folds = records.included(), _folds(records)
    plan = network.stages[0].plan
    if 4 * len(rows) * plan.num_features > stages.MOST_SOLVED_BYTES:
        raise _NotPossible(
            f"the features of {len(rows):,} photos, {plan.num_features:,} numbers "
            "each, take too much memory"
        )
    labels = np.array([records.labels[row.class_name] for row in rows])
    solved = [result for result in network.results if result.l2]
    best = min(solved, key=lambda result: result.validation_loss, default=None)
    try:
        logits, is_known = out_of_fold(
            _head_inputs(network),
            *(labels, folds),
            num_classes=len(records.class_names),
            penalty=best.l2 if best and best.l2 else _PENALTY,
        )
    except training_loop.NonFiniteLoss as error:
        raise _NotPossible(f"{error}") from error
    if left := int((~is_known).sum()):
        command_line.log(
            f"left out of the doubts about labels: {left:,}, because all photos of "
            "the class lie in one fold"
        )
    source = (
        f"out-of-fold probabilities of all photos, by heads of {folds.max() + 1} folds "
        "on features of the pretrained network"
    )
    if _has_trained_layers(start.weights):
        source += ", whose layers a run has trained, perhaps on these labels"
    known = np.flatnonzero(is_known)
    fitted = near_copies.spread(known, _MOST_FITTED)
    predictions = Predictions(
        rows=rows,
        labels=labels,
        logits=logits,
        class_names=records.class_names,
        temperature=metrics.fit_temperature(logits[fitted], labels[fitted]),
    )
    return label_errors.figures(predictions, source, known)


def _folds(records: manifest.Manifest) -> np.ndarray:
    """Return the fold of each photo, int [num_photos]."""
    groups = split.labels_of_groups(records)
    if len(groups) < 2:
        raise _NotPossible("all photos are in one group")
    num_folds = min(NUM_FOLDS, len(groups))
    fold_of = split_assignment.deal(groups, seed=0, folds=num_folds)
    return np.array([fold_of[row.group] for row in records.included()])


def out_of_fold(
    chunks: Iterable[tuple[Any, Any]],
    labels: np.ndarray,
    folds: np.ndarray,
    *,
    num_classes: int,
    penalty: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict each photo by a linear layer that was solved on the other folds.

    `chunks` are features and labels of the photos, in parts, `folds` the fold of each
    photo, int [num_photos]. Returns logits, float32 [num_photos, num_classes], and
    whether other folds have photos of a photo's class, bool [num_photos].
    """
    layer = head_solver.LinearLayer(chunks, train_step.Loss(), num_classes)
    logits = np.zeros((len(labels), num_classes), np.float32)
    is_known = np.zeros(len(labels), np.bool_)
    for fold in range(int(folds.max()) + 1):
        command_line.check_signals()
        held_out = folds == fold
        layer.solution = np.zeros_like(layer.solution)  # has seen no held-out label
        layer.weights = (~held_out).astype(np.float32)
        layer.solve(penalty, _TOLERANCE)
        logits[held_out] = layer.logits()[held_out]
        is_known[held_out] = np.isin(labels[held_out], labels[~held_out])
    layer.free()
    return logits, is_known


def _head_inputs(network: staged_training.StagedTraining) -> Iterator[tuple[Any, Any]]:
    """Return what the head sees of all photos in their central view, and labels.

    The features are in memory if a head alone was trained on cached features, and else
    computed, or read from the cache.
    """
    stage = network.stages[0]
    plan, source = stage.plan, network.training.source
    tail = network.training.model
    last = plan.features[-1]
    is_head = network.stage is stage and plan.cut == last
    if not (is_head and isinstance(source, training_data.CachedFeatures)):
        plan = dataclasses.replace(
            plan, train_from=head.FINAL_LAYER, cut=last, frozen=frozenset(), hidden=0
        )
        stage = dataclasses.replace(stage, plan=plan)
        trunk, tail = network.build(stage)
        features = training_data.compute_features(
            network.records,
            trunk,
            plan.spec,
            1,
            cache_dir=network.setup.cache_dir,
            identity=network.feature_identity(stage, trunk),
        )
        source = training_data.CachedFeatures(
            network.records, features, num_views=1, batch_size=1, seed=0
        )
    batches = source.central_views(head_solver.CHUNK)
    return head_solver.head_inputs(tail, batches)


def _has_trained_layers(weights: Any) -> bool:
    """Return whether weights are those of a run that trained more than its head."""
    path = weights.path.with_name(run_folder.CONFIG_NAME)
    if weights.path.name != run_folder.MODEL_NAME or not path.exists():
        return False
    trained = finished_run.read_json(
        path, lambda content: {str(stage["train_from"]) for stage in content["stages"]}
    )
    return bool(trained - {head.FINAL_LAYER})
