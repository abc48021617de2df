"""A judgement -> evaluation/<split>.html: one page that needs no other file.

Names of classes and files come from strangers: the template engine escapes them, in
the page's text and in its data.
"""

import base64
import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np

from model.evaluation import calibration, evaluate_split
from model.loop import metrics
from model.reports import diagrams, photo_thumbnails, report_facts
from model.runs import finished_run
from pipeline.records import manifest
from pipeline.system import file_system

_TEMPLATES = Path(__file__).parent / "templates"
_WORST, _UNSURE, _DOUBTFUL = 24, 12, 12  # photos that are looked at one by one
_OF_CELL = 24  # photos that a cell of the confusion matrix shows
_MATRIX_CLASSES = 40
_MIXED_UP = 30
_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)
_TARGETS = (0.9, 0.95, 0.99)
_UNREACHED = {"threshold": None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Card:
    """A photo that is looked at by itself."""

    row: manifest.Row
    true: str
    other: str  # the class in question
    label: int  # of that
    probability: float
    true_probability: float


def write(judged: evaluate_split.Judged, command_line: str) -> Path:
    """Writes the page beside the .json; returns its path.

    Args:
        judged: what to show.
        command_line: that judged.
    """
    path = judged.path.with_suffix(".html")
    with file_system.replacing(path) as partial:
        # A lone surrogate stands for a byte of a file's name that is no UTF-8.
        partial.write_text(
            render(judged, command_line), encoding="utf-8", errors="backslashreplace"
        )
    return path


def render(judged: evaluate_split.Judged, command_line: str) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    figures, finished = judged.figures, judged.finished
    cards = {
        "worst": _worst(judged),
        "unsure": _unsure(judged),
        "doubtful": _doubtful(judged),
    }
    looked_at = list(_once(card for group in cards.values() for card in group))
    thumbnails = photo_thumbnails.Thumbnails(judged.found)
    thumbnails.add([card.row for card in looked_at], large=True)
    heats = photo_thumbnails.heats(
        judged.model,
        judged.found,
        [card.row for card in looked_at],
        [card.label for card in looked_at],
        finished.spec,
    )
    matrix = _matrix(figures)
    cells = _cells(judged, matrix, thumbnails)
    drawings = diagrams.Drawings()
    results = finished.results() if _has(finished, "metrics.jsonl") else []
    return environment.get_template("report.html").render(
        **_own_parts(),
        versions=lambda found: ", ".join(f"{k} {v}" for k, v in found.items()),
        figures=figures,
        title=f"{figures['run']}: {figures['split']} split",
        cards=cards,
        heats=heats,
        matrix=matrix,
        photo_data={
            "photos": thumbnails.sources,
            "heats": {name: heat.source for name, heat in heats.items()},
            "cells": cells,
            "classes": figures["class_names"],
        },
        reliability=drawings.reliability(figures["calibration"]),
        coverage=drawings.coverage(figures["coverage"]),
        coverage_table=_coverage_table(
            figures["coverage"], judged.judgement.probabilities().max(axis=1)
        ),
        curves=drawings.training(results) if results else [],
        ledger=report_facts.ledger(finished) if _has(finished, "ledger.json") else None,
        data=report_facts.data(
            judged.found,
            judged.split,
            own=judged.own_records,
            class_names=figures["class_names"],
        ),
        temperature=report_facts.temperature(figures),
        training=report_facts.training(finished),
        command=command_line,
        held_out=figures["label_doubts"],
    )


def _own_parts() -> dict[str, Any]:
    """Style and script of the page; the browser runs that script and no other.

    Source: Content Security Policy Level 3, section 6.7.2 (hashes of inline scripts).
    """
    style, script = (
        (_TEMPLATES / name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return {
        "style": markupsafe.Markup(style),  # our own files
        "script": markupsafe.Markup(script),
        "script_hash": markupsafe.Markup(f"'sha256-{digest}'"),
    }


def _has(finished: finished_run.FinishedRun, name: str) -> bool:
    return (finished.directory / name).exists()


def _once(cards: Any) -> Any:
    """Cards of different photos; of one that is there twice, the first."""
    seen: set[str] = set()
    for card in cards:
        if card.row.sha256 not in seen:
            seen.add(card.row.sha256)
            yield card


def _card(
    judged: evaluate_split.Judged, example: int, probabilities: np.ndarray
) -> _Card:
    judgement = judged.judgement
    label = int(judgement.labels[example])
    predicted = int(judgement.logits[example].argmax())
    return _Card(
        row=judgement.rows[example],
        true=judgement.class_names[label],
        other=judgement.class_names[predicted],
        label=predicted,
        probability=float(probabilities[example, predicted]),
        true_probability=float(probabilities[example, label]),
    )


def _ordered(
    judged: evaluate_split.Judged, *, right: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Examples that are right, or wrong, the surest first; and all probabilities."""
    judgement = judged.judgement
    probabilities = judgement.probabilities()
    predicted = judgement.logits.argmax(axis=1)
    chosen = np.flatnonzero((predicted == judgement.labels) == right)
    sureness = probabilities[chosen, predicted[chosen]]
    return chosen[np.argsort(-sureness, kind="stable")], probabilities


def _worst(judged: evaluate_split.Judged) -> list[_Card]:
    examples, probabilities = _ordered(judged, right=False)
    return [_card(judged, n, probabilities) for n in examples[:_WORST]]


def _unsure(judged: evaluate_split.Judged) -> list[_Card]:
    examples, probabilities = _ordered(judged, right=True)
    return [_card(judged, n, probabilities) for n in examples[::-1][:_UNSURE]]


def _doubtful(judged: evaluate_split.Judged) -> list[_Card]:
    """Photos whose labels are likely wrong."""
    names = judged.judgement.class_names
    labels = {name: label for label, name in enumerate(names)}
    rows = {row.path: row for row in judged.held_out.rows}
    return [
        _Card(
            row=rows[photo["path"]],
            true=photo["label"],
            other=photo["suggested"],
            label=labels[photo["suggested"]],
            probability=photo["suggested_probability"],
            true_probability=photo["label_probability"],
        )
        for photo in judged.figures["label_doubts"]["photos"][:_DOUBTFUL]
    ]


def _matrix(figures: dict[str, Any]) -> dict[str, Any]:
    """The confusion matrix as the page shows it: of many classes the worst.

    Returns:
        `labels` that are shown; `rows` of cells {true, predicted, count, share, right};
        `left_out`, the number of classes that are not; `mixed_up`, the most frequent
        confusions of all classes.
    """
    confusion = np.array(figures["confusion_matrix"])
    num_classes = len(confusion)
    labels = np.arange(num_classes)
    wrong = confusion * (1 - np.eye(num_classes, dtype=np.int64))
    if num_classes > _MATRIX_CLASSES:
        mistakes = wrong.sum(axis=0) + wrong.sum(axis=1)
        most = np.argsort(-mistakes, kind="stable")[:_MATRIX_CLASSES]
        labels = np.sort(most)
    largest = max(1, int(confusion.max()))
    rows = [
        [
            {
                "true": int(true),
                "predicted": int(predicted),
                "count": int(confusion[true, predicted]),
                # Roots, so that one mistake among hundreds of hits is seen.
                "share": round(float(np.sqrt(confusion[true, predicted] / largest)), 3),
            }
            for predicted in labels
        ]
        for true in labels
    ]
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MIXED_UP]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return {
        "labels": labels.tolist(),
        "rows": rows,
        "left_out": num_classes - len(labels),
        "mixed_up": [
            {"true": int(t), "predicted": int(p), "count": int(wrong[t, p])}
            for t, p in pairs
            if wrong[t, p]
        ],
    }


def _cells(
    judged: evaluate_split.Judged,
    matrix: dict[str, Any],
    thumbnails: photo_thumbnails.Thumbnails,
) -> dict[str, dict[str, Any]]:
    """Photos behind the cells that the page shows: {"true,predicted": ...}.

    Each cell has the surest answers first, and shows no more than some of them. Photos
    of all cells share the room there is in turns: first those of mistakes.
    """
    judgement = judged.judgement
    probabilities = judgement.probabilities()
    predicted = judgement.logits.argmax(axis=1)
    sureness = probabilities[np.arange(len(predicted)), predicted]
    shown = {
        (cell["true"], cell["predicted"])
        for cell in (*matrix["mixed_up"], *(c for row in matrix["rows"] for c in row))
    }
    examples: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for n in np.argsort(-sureness, kind="stable").tolist():
        place = int(judgement.labels[n]), int(predicted[n])
        if place in shown:
            examples[place].append(n)
    wrong = [some[:_OF_CELL] for (t, p), some in examples.items() if t != p]
    right = [some[:_OF_CELL] for (t, p), some in examples.items() if t == p]
    for group in (wrong, right):
        thumbnails.add([judgement.rows[n] for n in _in_turns(group)], large=False)
    return {
        f"{true},{guess}": {
            "more": max(0, len(some) - _OF_CELL),
            "photos": [
                {
                    "id": judgement.rows[n].sha256,
                    "path": judgement.rows[n].path,
                    "probability": round(float(sureness[n]), 3),
                }
                for n in some[:_OF_CELL]
            ],
        }
        for (true, guess), some in examples.items()
    }


def _in_turns(groups: Sequence[Sequence[int]]) -> list[int]:
    """The first of each group, then the second of each, and so on."""
    return [
        group[turn]
        for turn in range(max(map(len, groups), default=0))
        for group in groups
        if turn < len(group)
    ]


def _coverage_table(
    points: Sequence[dict[str, float]], confidence: np.ndarray
) -> list[dict[str, Any]]:
    """What abstaining is worth: at some coverages, and for some accuracies.

    Args:
        points: of calibration.coverage.
        confidence: float64 [num_examples], the probability of each photo's answer.

    Returns:
        Rows of {goal, threshold, coverage, answered, accuracy, low, high}: `threshold`
        as text, `answered` the number of photos, `low` and `high` the ends of the 95 %
        interval of `accuracy`. Where no threshold reaches the goal it is None, and
        there is nothing else.
    """
    chosen: list[tuple[str, dict[str, float] | None]] = []
    for share in _COVERAGES:
        point = min(points, key=lambda one: abs(one["coverage"] - share))
        chosen.append((f"answer {100 * share:.0f} % of the photos", point))
    for target in _TARGETS:
        enough = [point for point in points if point["accuracy"] >= target]
        best = max(enough, key=lambda one: one["coverage"], default=None)
        chosen.append((f"be right in {100 * target:.0f} % of the answers", best))
    return [
        {"goal": goal, **(_covered(point, confidence) if point else _UNREACHED)}
        for goal, point in chosen
    ]


def _covered(point: dict[str, float], confidence: np.ndarray) -> dict[str, Any]:
    answered = round(point["coverage"] * len(confidence))
    hits = round(point["accuracy"] * answered)
    low, high = metrics.wilson_interval(hits, answered)
    return {
        **point,
        "threshold": calibration.threshold_text(point["threshold"], confidence),
        "answered": answered,
        "low": low,
        "high": high,
    }
