"""Choose the photos of the HTML report; make their thumbnails and heat maps.

The total size of the thumbnails is limited.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from model.evaluation import grad_cam, run_evaluation
from model.evaluation.stored_logits import Predictions
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.images import opencv
from pipeline.records import manifest, stored_photo
from pipeline.records.manifest_row import Row
from pipeline.review import photo_review
from pipeline.system import html_templates

_NUM_MISTAKES, _NUM_UNCERTAIN, _NUM_NEAR_COPIES = 24, 12, 24
_MAX_CELL_PHOTOS = 24  # behind one cell of the confusion matrix
MAX_BYTES = 5 << 20  # 5 MiB: total size of the thumbnails, as data URLs
_LARGE_PX, _SMALL_PX = 320, 112
_HEAT_PX = 160
_PHOTOS_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoCard:
    """A photo that the report shows by itself."""

    row: Row
    true: str  # class name of its label
    other: str  # class name in question: the predicted or the suggested class
    label: int  # that of `other`, 0-based
    probability: float  # of `other`, 0..1
    true_probability: float


class Thumbnails:
    """Thumbnails of photos, each made once, up to a total size."""

    def __init__(self, records: manifest.Manifest) -> None:
        """Start without thumbnails."""
        # {SHA-256 of a photo: data URL}; "" for a photo that does not decode.
        self.sources: dict[str, str] = {}
        self._photos = stored_photo.StoredPhotos(records.directory)

    def add(self, rows: Iterable[Row], *, large: bool) -> None:
        """Make missing thumbnails, in the given order, until the total size is reached.

        They are `large` for photos that are shown one by one.
        """
        missing = {row.sha256: row for row in rows if row.sha256 not in self.sources}
        waiting = list(missing.values())
        side = _LARGE_PX if large else _SMALL_PX
        total_bytes = sum(map(len, self.sources.values()))
        for start in range(0, len(waiting), _PHOTOS_AT_ONCE):
            rows_now = waiting[start : start + _PHOTOS_AT_ONCE]
            sources = photo_review.thumbnail_urls(self._photos.image, rows_now, side)
            for row, source in zip(rows_now, sources, strict=True):
                total_bytes += len(source)
                if total_bytes > MAX_BYTES:
                    return
                self.sources[row.sha256] = source


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
    predictions: Predictions, matrix: dict[str, Any], thumbnails: Thumbnails
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


def heat_maps(
    model: Any,
    records: manifest.Manifest,
    rows: Sequence[Row],
    labels: Sequence[int],
    spec: InputSpec,
) -> dict[str, dict[str, str]]:
    """Return the heat map of each photo for one class (Grad-CAM), by its SHA-256.

    `labels` are those of the class in question, one for each row. A network without a
    spatial layer has no heat maps. `source` is a data URL of the network's input with
    the heat map over it, and `style` its place in the photo, in CSS.
    """
    if not rows:
        return {}
    try:
        explain = grad_cam.grad_cam(model)
    except grad_cam.NoSpatialLayer:
        return {}
    images = image_batches.Images(records, rows, spec, batch_size=16)
    views = crop_and_resize.central_views(images.sizes, spec)
    maps_by_photo = {}
    for batch in images.run(np.arange(len(rows)), views):
        numbers = batch["row"].numpy()
        pixels = batch["image"].numpy()
        heats = explain(pixels, np.array([labels[n] for n in numbers], np.int32))
        for number, image, heat in zip(numbers, pixels, heats, strict=True):
            jpeg = opencv.page_jpeg(grad_cam.overlay(image, heat), side=_HEAT_PX)
            top, left, height, width = views.windows[number].tolist()
            row = rows[number]
            maps_by_photo[row.sha256] = {
                "source": html_templates.picture_url(jpeg),
                "style": f"left:{left / row.width:.2%};top:{top / row.height:.2%};"
                f"width:{width / row.width:.2%};height:{height / row.height:.2%}",
            }
    return maps_by_photo
