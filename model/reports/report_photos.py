"""Choose the photos that the HTML report shows one by one and behind its matrix."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.evaluation import run_evaluation
from model.evaluation.predictions import Predictions
from model.reports import photo_thumbnails
from pipeline.records.manifest_row import Row

_NUM_MISTAKES, _NUM_UNCERTAIN, _NUM_NEAR_COPIES = 24, 12, 24
_MAX_CELL_PHOTOS = 24  # behind one cell of the confusion matrix


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoCard:
    """A photo that the report shows by itself."""

    row: Row
    true: str  # class name of its label
    other: str  # class name in question: the predicted or the suggested class
    label: int  # that of `other`, 0-based
    probability: float  # of `other`, 0..1
    true_probability: float


def photo_cards(evaluation: run_evaluation.RunEvaluation) -> dict[str, list[PhotoCard]]:
    """Return the cards of the report by the section that shows them.

    `worst` are the most confident mistakes, `unsure` the least confident correct
    predictions, `doubtful` the most probable label errors.
    """
    predictions = evaluation.predictions
    probabilities = predictions.probabilities()
    predicted = predictions.predicted
    confidence = probabilities[np.arange(len(predicted)), predicted]
    by_confidence = np.argsort(-confidence, kind="stable")
    is_correct = (predicted == predictions.labels)[by_confidence]
    mistakes, correct = by_confidence[~is_correct], by_confidence[is_correct]

    def card(example: int) -> PhotoCard:
        label, guess = int(predictions.labels[example]), int(predicted[example])
        return PhotoCard(
            row=predictions.rows[example],
            true=predictions.class_names[label],
            other=predictions.class_names[guess],
            label=guess,
            probability=float(probabilities[example, guess]),
            true_probability=float(probabilities[example, label]),
        )

    return {
        "worst": list(map(card, mistakes[:_NUM_MISTAKES])),
        "unsure": list(map(card, correct[::-1][:_NUM_UNCERTAIN])),
        "doubtful": _label_error_cards(evaluation),
    }


def near_copies(
    evaluation: run_evaluation.RunEvaluation,
) -> list[tuple[Row, Row, float]]:
    """Return the most similar near-copies, their training photos, and similarities."""
    rows = {row.path: row for row in evaluation.data.records.included()}
    photos = evaluation.figures["near_copies"].get("photos", [])
    return [
        (rows[photo["path"]], rows[photo["similar_to"]], photo["similarity"])
        for photo in photos[:_NUM_NEAR_COPIES]
        if photo["similar_to"] in rows
    ]


def _label_error_cards(evaluation: run_evaluation.RunEvaluation) -> list[PhotoCard]:
    class_names = list(evaluation.predictions.class_names)
    rows = {row.path: row for row in evaluation.data.records.included()}
    return [
        PhotoCard(
            row=rows[photo["path"]],
            true=photo["label"],
            other=photo["suggested"],
            label=class_names.index(photo["suggested"]),
            probability=photo["suggested_probability"],
            true_probability=photo["label_probability"],
        )
        for photo in evaluation.figures["label_doubts"]["photos"]
    ]


def cell_photos(
    predictions: Predictions,
    matrix: dict[str, Any],
    thumbnails: photo_thumbnails.Thumbnails,
) -> dict[str, dict[str, Any]]:
    """Return the photos behind the cells of the matrix, and make their thumbnails.

    They are {"true label,predicted label": {photos: [{id, path, probability}], more}}.
    Each cell has its most confident predictions first. The cells share the room for
    thumbnails in turns, mistakes before correct predictions.
    """
    predicted = predictions.predicted
    confidence = predictions.probabilities()[np.arange(len(predicted)), predicted]
    cells = (*matrix["mixed_up"], *itertools.chain(*matrix["rows"]))
    shown = {(cell["true"], cell["predicted"]) for cell in cells}
    examples: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for n in np.argsort(-confidence, kind="stable").tolist():
        cell = int(predictions.labels[n]), int(predicted[n])
        if cell in shown:
            examples[cell].append(n)
    mistakes = [ns[:_MAX_CELL_PHOTOS] for (t, p), ns in examples.items() if t != p]
    correct = [ns[:_MAX_CELL_PHOTOS] for (t, p), ns in examples.items() if t == p]
    for group in (mistakes, correct):
        thumbnails.add([predictions.rows[n] for n in take_turns(group)], large=False)
    return {
        f"{true},{guess}": {
            "more": max(0, len(ns) - _MAX_CELL_PHOTOS),
            "photos": [
                {
                    "id": predictions.rows[n].sha256,
                    "path": predictions.rows[n].path,
                    "probability": round(float(confidence[n]), 3),
                }
                for n in ns[:_MAX_CELL_PHOTOS]
            ],
        }
        for (true, guess), ns in examples.items()
    }


def take_turns(groups: Sequence[Sequence[int]]) -> list[int]:
    """Return the first member of each group, then the second of each, and so on."""
    turns = itertools.zip_longest(*groups)
    return [member for turn in turns for member in turn if member is not None]
