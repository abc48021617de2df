"""Write README.md beside exported files: a model card, with a program for each file.

Model hubs read its YAML head. The files of one run in a folder share a card. A
README.md that Graft did not write, or that was edited since, is never replaced.

Source: github.com/huggingface/hub-docs, modelcard.md.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from model.evaluation import stored_logits
from model.export import exportable, verify_file
from model.export.exportable import Exportable
from model.reports import report_facts
from model.runs import finished_run, run_folder
from pipeline.system import command_line, file_system, html_templates
from pipeline.system.errors import DataError

NAME = "README.md"
_TEMPLATES = Path(__file__).parent / "templates"
# The part on one file, with its format and its `_key`.
_SECTION = re.compile(
    r"^<!-- begin ([a-z_]+) ([0-9a-f]{64}) -->\n.*?^<!-- end -->\n", re.M | re.S
)
_SEAL = re.compile(
    r"<!-- exported from run ([0-9a-f]{64}), digest ([0-9a-f]{64}) -->\n\Z"
)
# Characters that mean something to Markdown, and addresses that it makes links of.
_MEANINGFUL = re.compile(
    r"([\\`*\[\]<>|~&@#$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.)", re.IGNORECASE
)
# Format -> name of its library, as hubs have it.
_LIBRARIES = {"saved_model": "tensorflow", "onnx": "onnx", "litert": "litert"}


def choose(path: Path, kind: str) -> Path:
    """Return the path of the card of a file that is to be exported.

    The card of a SavedModel lies in its folder. Others lie beside the file, with its
    name added if README.md is not as an export wrote it.
    """
    cards = [path / NAME]
    if kind != "saved_model":
        cards = [path.with_name(NAME), path.with_name(f"README-{path.name}.md")]
    for card in cards:
        if not os.path.lexists(card) or _read(card):
            return card
    raise DataError(
        f"{card}: no export wrote this file, or it was edited since. Move it, or "
        "choose another --out."
    )


def _read(card: Path) -> tuple[str, dict[str, str]] | None:
    """Return the run's identity and {key of a file: section} of an unedited card."""
    if card.is_symlink() or not card.is_file():
        return None
    file_system.regular(card, file_system.MAX_TEXT_BYTES)
    text = card.read_bytes().decode(errors="replace")
    seal = _SEAL.search(text)
    if seal is None or seal[2] != _key(text[: seal.start()] + seal[1]):
        return None
    return seal[1], {match[2]: match[0] for match in _SECTION.finditer(text)}


def _key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def render(
    run: finished_run.FinishedRun,
    source: Exportable,
    heldout: exportable.HeldoutPhotos,
    exported: verify_file.Exported,
) -> str:
    """Return the card of an exported file and of the run's others in its folder."""
    identity = run_folder.RunFolder(directory=run.directory).identity
    name, kind = exported.path.name, exported.kind
    scorer = source.original.stranger_scorer
    section = _template("section.md").render(
        **vars(source) | vars(exported),
        name=name,
        stem=exported.path.stem,
        key=_key(name),
        scorer=scorer,
    )
    sections = {name: f"{section}\n"} | _other_sections(exported, identity)
    content = "\n".join(text for _, text in sorted(sections.items()))
    evaluation = run.evaluation_path(exportable.SPLIT, run.manifest_digest)
    text = _template("card.md").render(
        **vars(source),
        name=run.directory.name,
        scorer=scorer,
        dataset=Path(run.config["data"]["path"]).name,
        library=_LIBRARIES.get(kind, kind),
        kinds=sorted({match[1] for match in _SECTION.finditer(content)}),
        sections=Markup(content),
        figures=stored_logits.read_figures(evaluation),
        data=report_facts.data(heldout.records, exportable.SPLIT, own=True),
        training=report_facts.training(run),
    )
    text += "\n\n"
    digest = _key(text + identity)
    return f"{text}<!-- exported from run {identity}, digest {digest} -->\n"


def _other_sections(exported: verify_file.Exported, identity: str) -> dict[str, str]:
    """Return {name: section} of the other files that the existing card describes."""
    previous = _read(exported.card)
    if previous is None or exported.kind == "saved_model":
        return {}
    run, sections = previous
    names = {path.name for path in exported.path.parent.iterdir()}
    keys = {name: _key(name) for name in sorted(names - {exported.path.name})}
    others = {name: sections[key] for name, key in keys.items() if key in sections}
    if others and run != identity:
        command_line.note(
            f"{exported.card}: is about {exported.path.name} now, and no longer about "
            f"{', '.join(others)} of another run"
        )
        return {}
    return others


def _template(name: str) -> Any:
    return html_templates.load_template(
        _TEMPLATES / name,
        # Characters with a meaning in Markdown or HTML are escaped.
        md=lambda text: Markup(
            _MEANINGFUL.sub(r"\\\1", command_line.as_label(str(text)))
        ),
        # A string of JSON is one of YAML.
        yaml=lambda text: Markup(
            json.dumps(command_line.as_label(text), ensure_ascii=False)
        ),
        py=lambda text: Markup(ascii(text)),
    )
