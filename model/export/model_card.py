"""Write README.md beside exported files: a model card, with a program for each file.

Its YAML head is that of the usual hubs. All files in a folder that are of one run share
a card. A README.md that somebody else wrote, or edited since, is never replaced.

Source: github.com/huggingface/hub-docs, modelcard.md.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import markupsafe

from model.evaluation import stored_logits
from model.export import heldout_photos, verify_file
from model.export.exportable import Exportable
from model.reports import report_facts
from model.runs import finished_run, run_folder
from model.weights import weight_sources
from pipeline.system import command_line, file_system, html_templates
from pipeline.system.errors import DataError

NAME = "README.md"
_TEMPLATES = Path(__file__).parent / "templates"
_SECTION = re.compile(
    r"^<!-- begin ([a-z_]+) ([0-9a-f]{16}) -->\n.*?^<!-- end -->\n", re.M | re.S
)
_SEAL = re.compile(
    r"<!-- exported from run ([0-9a-f]{64}), digest ([0-9a-f]{64}) -->\n\Z"
)
# Characters that mean something to Markdown, and addresses that it makes links of.
_MEANINGFUL = re.compile(
    r"([\\`*\[\]<>|~&@#$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.)", re.IGNORECASE
)
# Format -> name of its library, as hubs have it, and the packages of its program.
_LIBRARIES = {
    "saved_model": ("tensorflow", "tensorflow"),
    "onnx": ("onnx", "numpy pillow onnxruntime"),
    "litert": ("litert", "numpy pillow ai-edge-litert"),
    "keras": ("keras", "numpy pillow keras tensorflow"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Card:
    """A card that an export wrote and nobody has changed since."""

    run: str  # identity of the run
    sections: Mapping[str, str]  # {key of a file: Markdown about it}


def _read(path: Path) -> _Card | None:
    """Read a card; None if there is none, or if it is not as an export wrote it."""
    if path.is_symlink() or not path.is_file():
        return None
    file_system.regular(path, file_system.MAX_TEXT_BYTES)
    text = path.read_bytes().decode(errors="replace")
    seal = _SEAL.search(text)
    if seal is None or seal[2] != _digest(text[: seal.start()], seal[1]):
        return None
    sections = {match[2]: match[0] for match in _SECTION.finditer(text)}
    return _Card(run=seal[1], sections=sections)


def _digest(*texts: str) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def _key(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def choose(path: Path, kind: str, run: finished_run.FinishedRun) -> Path:
    """Return the path of the card of a file that is to be exported.

    The card of a SavedModel lies in its folder. Others lie beside the file and are
    called README.md, unless this is not an export's, or about files of another run
    alone: then the name of the file is added.
    """
    card = (path if kind == "saved_model" else path.parent) / NAME
    previous = _read(card)
    if previous and previous.run != _identity(run) and card.parent != path:
        others = _other_sections(previous, path)
        if others and _key(path.name) in previous.sections:
            command_line.note(
                f"{card}: will not be about {', '.join(others)} any more, because this "
                "is a file of another run"
            )
        elif others:
            previous = None
    if previous is None and os.path.lexists(card):
        if card.parent != path:
            card = path.with_name(f"README-{path.name}.md")
        if os.path.lexists(card) and _read(card) is None:
            raise DataError(
                f"{card}: no export wrote this file, or it was edited since. Move it, "
                "or choose another --out."
            )
    return card


def _other_sections(card: _Card, path: Path) -> dict[str, str]:
    """Return {name: section} of the other files that a card is about and that exist."""
    names = sorted({file.name for file in path.parent.iterdir()} - {path.name})
    keys = {name: _key(name) for name in names}
    return {n: card.sections[k] for n, k in keys.items() if k in card.sections}


def _identity(run: finished_run.FinishedRun) -> str:
    return run_folder.RunFolder(directory=run.directory).identity


def render(
    run: finished_run.FinishedRun,
    source: Exportable,
    heldout: heldout_photos.HeldoutPhotos,
    exported: verify_file.Exported,
) -> str:
    """Return the card of an exported file, and of others of the run beside it."""
    common = {"spec": source.spec, "resize_min": source.resize_min}
    common |= {"white_level": source.white_level, "name": exported.path.name}
    models = exported.models[2 if exported.quantize != "none" else 1 :]
    section = _template("section.md").render(
        **common,
        kind=exported.kind,
        key=_key(exported.path.name),
        exported=exported,
        quantize=exported.quantize,
        num_classes=len(source.class_names),
        megabytes=f"{models[0].size_bytes / 1e6:.1f}",
        difference=f"{max(facts.difference or 0 for facts in models):.1e}",
        packages=_LIBRARIES[exported.kind][1],
    )
    parts, previous = {exported.path.name: f"{section}\n"}, _read(exported.card)
    if previous and previous.run == _identity(run) and exported.kind != "saved_model":
        parts |= _other_sections(previous, exported.path)
    sections = "\n".join(part for _, part in sorted(parts.items()))
    training = report_facts.training(run)
    facts = training["facts"] | {"weights": _weights(run.config.get("weights", {}))}
    facts.pop("device", None)
    data = report_facts.data(heldout.records, heldout_photos.SPLIT, own=True)
    text = _template("card.md").render(
        **common | {"name": run.directory.name},
        library=_LIBRARIES[exported.kind][0],
        kinds=sorted({match[1] for match in _SECTION.finditer(sections)}),
        share=f"{source.spec.size_px / source.spec.short_side_px:.3g}",
        stranger="",
        dataset=Path(run.config["data"]["path"]).name,
        figures=_figures(run),
        classes=source.class_names,
        sections=markupsafe.Markup(sections),
        data=data,
        facts={name: value for name, value in facts.items() if value},
        versions=training["versions"],
    )
    text, identity = f"{text}\n\n", _identity(run)
    digest = _digest(text, identity)
    return f"{text}<!-- exported from run {identity}, digest {digest} -->\n"


def _figures(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return the figures of the test photos, on which every exported run is evaluated.

    `recalls` is {class name: share of its photos that get the right class, as text}.
    """

    def extract(figures: Any) -> dict[str, Any]:
        low, high = map(float, figures["accuracy_ci95"])
        return {
            "photos": int(figures["num_examples"]),
            "accuracy": float(figures["accuracy"]),
            "balanced": float(figures["balanced_accuracy"]),
            "low": low,
            "high": high,
            "recalls": {
                row["class_name"]: f"{float(row['recall']):.2f}"
                for row in figures["per_class"]
                if row["support"]
            },
        }

    path = run.evaluation_path(heldout_photos.SPLIT, run.manifest_digest)
    return dict(stored_logits.read_figures(path, extract))


def _weights(weights: Mapping[str, Any]) -> str:
    """Return which weights a training started from, and how to get them."""
    name, variant = (str(weights.get(key, "")) for key in ("ckpt", "variant"))
    texts = [Path(name).name, variant]
    for source in weight_sources.SOURCES.get(name, ()):
        first = weight_sources.SOURCES[source][0] if isinstance(source, str) else source
        if not isinstance(first, str) and first.variant == variant:
            texts.append(f"from: {first.help.removesuffix(' there')}")
    return ", ".join(filter(None, texts))


def _template(name: str) -> Any:
    return html_templates.load_template(
        _TEMPLATES / name, md=_as_markdown, yaml=_as_yaml, py=_as_python
    )


def _as_markdown(text: object) -> markupsafe.Markup:
    """Return text in which no character means anything to Markdown or HTML."""
    label = command_line.as_label(str(text))
    return markupsafe.Markup(_MEANINGFUL.sub(r"\\\1", label))


def _as_yaml(text: str) -> markupsafe.Markup:
    """Return text as a string of JSON, which YAML reads too."""
    label = command_line.as_label(text)
    return markupsafe.Markup(json.dumps(label, ensure_ascii=False))


def _as_python(text: str) -> markupsafe.Markup:
    return markupsafe.Markup(ascii(text))
