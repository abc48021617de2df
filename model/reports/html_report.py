"""Write evaluation/<split>.html: the report, one page that needs no other file.

Names of classes and files may come from somebody else: the template engine escapes
them, in the page's text and in its data.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.evaluation import run_evaluation
from model.evaluation.compare import comparison
from model.evaluation.evaluation_settings import Config
from model.reports import diagrams, report_facts, report_photos, text_report
from model.weights import weight_settings
from pipeline.grouping import near_duplicates
from pipeline.review import photo_review
from pipeline.system import command_line, file_system, html_templates

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_HEAT_MAPS = 24  # of the photos of a section


def finish(evaluation: run_evaluation.RunEvaluation, config: Config) -> dict[str, Any]:
    """Write the report if it is wanted; return figures and the files written."""
    figures = evaluation.figures | {"written": str(evaluation.path)}
    if config.report:
        command = report_facts.command_line("evaluate.py", config)
        figures["report"] = str(write(evaluation, command))
    return figures


def write(evaluation: run_evaluation.RunEvaluation, command: str) -> Path:
    """Write the report of `command` beside the evaluation's .json; return its path."""
    path = evaluation.path.with_suffix(".html")
    with file_system.replacing(path) as partial:
        page = render(evaluation, command)
        partial.write_text(command_line.as_utf8(page), encoding="utf-8")
    return path


def render(evaluation: run_evaluation.RunEvaluation, command: str) -> str:
    """Return the report as HTML."""
    template = html_templates.load_template(
        _TEMPLATES / "report.html",
        photo_review.TEMPLATES,
        percent=lambda share: f"{100 * share:.1f} %",
    )
    return template.render(
        **photo_review.assets(_TEMPLATES / "report.css", _TEMPLATES / "report.js"),
        review=photo_review.PhotoReview(
            key=evaluation.figures["data"]["manifest_digest"],
            class_names=evaluation.data.records.class_names,
            command=photo_review.conversion_command(evaluation.data.source),
        ),
        **_photos(evaluation),
        **_figures(evaluation),
        versions=lambda tools: ", ".join(f"{k} {v}" for k, v in tools.items()),
        command=command,
    )


def _photos(evaluation: run_evaluation.RunEvaluation) -> dict[str, Any]:
    """Return the photos of the page, with thumbnails and heat maps."""
    cards = report_photos.photo_cards(evaluation)
    # The first card of each photo with a heat map; computing more would take long.
    explained: dict[str, report_photos.PhotoCard] = {}
    for card in itertools.chain(*(c[:_MAX_HEAT_MAPS] for c in cards.values())):
        explained.setdefault(card.row.sha256, card)
    thumbnails = report_photos.Thumbnails(evaluation.data.records)
    shown = itertools.chain(*cards.values())
    thumbnails.add((card.row for card in shown), large=True)
    near_copies = report_photos.near_copies(evaluation)
    thumbnails.add((row for *pair, _ in near_copies for row in pair), large=True)
    heat_maps = _heat_maps(evaluation, explained)
    matrix = text_report.class_matrix(evaluation.figures["confusion_matrix"])
    cells = report_photos.cell_photos(evaluation.predictions, matrix, thumbnails)
    return {
        "cards": cards,
        "near_copies": near_copies,
        "heats": heat_maps,
        "matrix": matrix,
        "photos": thumbnails.sources,
        "photo_data": {
            "heats": {name: heat["source"] for name, heat in heat_maps.items()},
            "cells": cells,
            "classes": evaluation.figures["class_names"],
        },
    }


def _heat_maps(
    evaluation: run_evaluation.RunEvaluation,
    explained: Mapping[str, report_photos.PhotoCard],
) -> dict[str, dict[str, str]]:
    """Return the heat map of each card's photo, by the network that predicted it."""
    records, predictions = evaluation.data.records, evaluation.predictions
    fold_of: dict[str, str] = {}
    if predictions.folds is not None:
        names = [row.sha256 for row in predictions.rows]
        fold_of = dict(zip(names, predictions.folds.tolist(), strict=True))
    maps: dict[str, dict[str, str]] = {}
    for name, run in (evaluation.folds or {"": evaluation.run}).items():
        cards = [c for key, c in explained.items() if fold_of.get(key, "") == name]
        if cards:
            maps |= report_photos.heat_maps(
                evaluation.model or run.load_model(),
                records,
                [card.row for card in cards],
                [card.label for card in cards],
                run.spec,
            )
    return maps


def _figures(evaluation: run_evaluation.RunEvaluation) -> dict[str, Any]:
    """Return the figures of the page, its diagrams, and facts about run and records."""
    figures, run = evaluation.figures, evaluation.run
    drawings = diagrams.Drawings()
    has_metrics = (run.directory / "metrics.jsonl").exists()
    has_ledger = (run.directory / "ledger.json").exists()
    confidence = evaluation.predictions.probabilities().max(axis=1)
    coverage = figures["coverage"]
    share = figures["effective_examples"] / figures["num_examples"]
    return {
        "figures": figures,
        "title": f"{figures['run']}: {text_report.split_in_words(figures)}",
        "split_name": text_report.split_in_words(figures),
        "fold_lines": text_report.folds_in_words(figures),
        "reliability": drawings.reliability(figures["calibration"]),
        "coverage": drawings.coverage(coverage),
        "coverage_table": text_report.coverage_table(coverage, confidence, share),
        "remarks": [
            *comparison.groups_in_words(figures),
            *text_report.precision_in_words(figures),
        ],
        "hashes_find": near_duplicates.LIMIT,
        "near_copies_line": text_report.near_copies_in_words(figures),
        "no_better": text_report.no_better_in_words(figures),
        "curves": drawings.training(run.results()) if has_metrics else [],
        "ledger": report_facts.ledger(run) if has_ledger else None,
        "warnings": weight_settings.preprocessing_warnings(run.spec),
        "data": report_facts.data(
            evaluation.data.records,
            evaluation.data.split,
            own=evaluation.data.records.digest == run.manifest_digest,
            class_names=figures["class_names"],
        ),
        "temperature": report_facts.temperature(figures),
        "training": report_facts.training(run),
        "compared": report_facts.network_comparison(run),
        "doubts": figures["label_doubts"],
    }
