"""Write evaluation/<split>.html: the report, one page that needs no other file.

Names of classes and files come from strangers: the template engine escapes them, in
the page's text and in its data.
"""

import base64
import hashlib
import itertools
from pathlib import Path
from typing import Any

import markupsafe

from model.evaluation import run_evaluation
from model.evaluation.compare import comparison
from model.reports import (
    diagrams,
    photo_thumbnails,
    report_facts,
    report_photos,
    report_tables,
    text_report,
)
from model.weights import preprocessing_overrides
from pipeline.grouping import near_duplicates
from pipeline.system import command_line, file_system, html_templates

_TEMPLATES = Path(__file__).parent / "templates"


def write(evaluation: run_evaluation.RunEvaluation, command: str) -> Path:
    """Write the report beside the .json of an evaluation; return its path.

    `command` is the command line that made the evaluation.
    """
    path = evaluation.path.with_suffix(".html")
    with file_system.replacing(path) as partial:
        page = render(evaluation, command)
        partial.write_text(command_line.as_utf8(page), encoding="utf-8")
    return path


def render(evaluation: run_evaluation.RunEvaluation, command: str) -> str:
    """Return the report as HTML."""
    template = html_templates.load_template(
        _TEMPLATES / "report.html", percent=lambda share: f"{100 * share:.1f} %"
    )
    return template.render(
        **_assets(),
        **_photos(evaluation),
        **_figures(evaluation),
        versions=lambda tools: ", ".join(f"{k} {v}" for k, v in tools.items()),
        command=command,
    )


def _photos(evaluation: run_evaluation.RunEvaluation) -> dict[str, Any]:
    """Return the photos of the page, with thumbnails and heat maps."""
    cards = report_photos.photo_cards(evaluation)
    card_of: dict[str, report_photos.PhotoCard] = {}  # the first one of each photo
    for card in itertools.chain(*cards.values()):
        card_of.setdefault(card.row.sha256, card)
    thumbnails = photo_thumbnails.Thumbnails(evaluation.data.records)
    rows = [card.row for card in card_of.values()]
    labels = [card.label for card in card_of.values()]
    thumbnails.add(rows, large=True)
    near_copies = report_photos.near_copies(evaluation)
    thumbnails.add((row for *pair, _ in near_copies for row in pair), large=True)
    heat_maps = photo_thumbnails.heat_maps(
        evaluation.model, evaluation.data.records, rows, labels, evaluation.run.spec
    )
    matrix = report_tables.class_matrix(evaluation.figures["confusion_matrix"])
    cells = report_photos.cell_photos(evaluation.predictions, matrix, thumbnails)
    return {
        "cards": cards,
        "near_copies": near_copies,
        "heats": heat_maps,
        "matrix": matrix,
        "photo_data": {
            "photos": thumbnails.sources,
            "heats": {name: heat["source"] for name, heat in heat_maps.items()},
            "cells": cells,
            "classes": evaluation.figures["class_names"],
        },
    }


def _figures(evaluation: run_evaluation.RunEvaluation) -> dict[str, Any]:
    """Return the figures of the page, its diagrams, and facts about run and records."""
    figures, run = evaluation.figures, evaluation.run
    drawings = diagrams.Drawings()
    has_metrics = (run.directory / "metrics.jsonl").exists()
    has_ledger = (run.directory / "ledger.json").exists()
    confidence = evaluation.predictions.probabilities().max(axis=1)
    return {
        "figures": figures,
        "title": f"{figures['run']}: {figures['split']} split",
        "reliability": drawings.reliability(figures["calibration"]),
        "coverage": drawings.coverage(figures["coverage"]),
        "coverage_table": report_tables.coverage_table(
            figures["coverage"],
            confidence,
            figures["effective_examples"] / figures["num_examples"],
        ),
        "remarks": [
            *comparison.groups_in_words(figures),
            *text_report.precision_in_words(figures),
        ],
        "hashes_find": near_duplicates.LIMIT,
        "near_copies_line": text_report.near_copies_in_words(figures),
        "no_better": text_report.is_no_better(figures),
        "curves": drawings.training(run.results()) if has_metrics else [],
        "ledger": report_facts.ledger(run) if has_ledger else None,
        "warnings": preprocessing_overrides.warnings(run.spec),
        "data": report_facts.data(
            evaluation.data.records,
            evaluation.data.split,
            own=evaluation.data.records.digest == run.manifest_digest,
            class_names=figures["class_names"],
        ),
        "temperature": report_facts.temperature(figures),
        "training": report_facts.training(run),
        "compared": report_facts.network_comparison(run),
        "held_out": figures["label_doubts"],
    }


def _assets() -> dict[str, Any]:
    """Return style and script of the page; the browser runs that script and no other.

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
