"""A run and its records -> what the page of an evaluation says of them in words."""

import collections
import dataclasses
import json
import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from model import run, settings
from pipeline import manifest, schema

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_SHOWN_PATHS = 30  # of each reason
_FEW_PHOTOS = 10
_UNEQUAL = 10
_STATUSES = {
    "restored": "taken from the weight file",
    "new": "began at random",
    "skipped": "left out on purpose",
    "mismatched": "did not fit, and were refused",
    "unused": "in the file alone",
}


def command_line(script: str, config: "DataclassInstance") -> str:
    """The command with these settings; those that are as they are by default go unsaid.

    Args:
        script: name of it.
        config: of a command whose flags are named as its fields, and those of the
            dataclasses within.
    """
    return shlex.join(["python", script, *_flags(config)])


def _flags(config: "DataclassInstance") -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            words += _flags(value)
        elif value == field.default or not isinstance(value, bool | int | float | str):
            continue
        elif isinstance(value, bool):
            words.append(f"--{field.name}" if value else f"--no{field.name}")
        else:
            words.append(f"--{field.name}={value}")
    return words


def training(finished: run.Finished) -> dict[str, Any]:
    """How a run was trained.

    Returns:
        Its `command` ("" where config.json does not say), the number of its `stages`,
        the `facts` of it as {name: value}, and `versions`.
    """
    config = finished.config
    try:
        made = settings.from_run(finished.directory, config)
        line, stages = command_line("train.py", made), len(made.stages)
    except (schema.DataError, KeyError):  # of another version: no reason to stop
        line, stages = "", 0
    weights = config.get("weights", {})
    facts = {
        "network": config.get("network", ""),
        "head on": "the means of " * (config.get("pooling") == "average")
        + config.get("features", ""),
        "weights": " ".join(filter(None, map(weights.get, ("ckpt", "variant")))),
        "device": config.get("device", ""),
        "precision in training": config.get("precision", ""),
        "input": f"{finished.spec.size_px} x {finished.spec.size_px} of "
        f"{finished.spec.short_side_px} pixels, {finished.spec.resize}",
        "preprocessing by": finished.spec.source,
    }
    return {
        "command": line,
        "stages": stages,
        "facts": {name: str(value) for name, value in facts.items() if value},
        "versions": {k: str(v) for k, v in dict(config.get("versions", {})).items()},
    }


def ledger(finished: run.Finished) -> dict[str, Any]:
    """Summary of ledger.json.

    Returns:
        `counts`, what became of how many tensors: {status, meaning, count, names}; the
        number of `frozen` variables; and how many of them are `unchanged`, with the
        same SHA-256 before and after training.

    Raises:
        run.RunError: it is missing or damaged.
    """
    path = finished.directory / "ledger.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        counts = collections.Counter(str(t["status"]) for t in content["tensors"])
        frozen = content["frozen"]
        same = sum(one["sha256_before"] == one["sha256_after"] for one in frozen)
        names = [str(t["variable"] or t["tensor"]) for t in content["tensors"]]
        statuses = [str(t["status"]) for t in content["tensors"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise run.RunError(
            f"{path}: cannot be read ({error!r:.200}); train again"
        ) from (error)
    return {
        "counts": [
            {
                "status": status,
                "meaning": meaning,
                "count": counts[status],
                "names": [
                    n for n, s in zip(names, statuses, strict=True) if s == status
                ],
            }
            for status, meaning in _STATUSES.items()
        ],
        "frozen": len(frozen),
        "unchanged": same,
    }


def data(found: manifest.Manifest, split: str) -> dict[str, Any]:
    """What the manifest says of the photos.

    Args:
        found: the records.
        split: that was judged; "all" for all photos.

    Returns:
        `counts`, {class name: {split: photos}}; `files` by what became of them;
        `skipped` and `reencoded`, rows of {reason, count, photos, more}; `ignored`;
        `warnings`, what makes the figures less sure than they look, and `notes`, lines
        of text; and the versions that it was `made_by`.
    """
    rows = found.rows
    return {
        "counts": found.counts(),
        "splits": manifest.SPLITS,
        "files": found.tally.files(),
        "skipped": _by_reason([row for row in rows if not row.taken]),
        "reencoded": _by_reason([row for row in rows if row.action == "reencoded"]),
        "ignored": {str(kind): int(n) for kind, n in found.about.ignored.items()},
        "warnings": _warnings(found, split),
        "notes": _notes(found),
        "made_by": {name: str(v) for name, v in found.about.versions.items()},
    }


def _by_reason(rows: Sequence[manifest.Row]) -> list[dict[str, Any]]:
    """Rows of the same reason together, the most frequent first."""
    groups: dict[str, list[manifest.Row]] = collections.defaultdict(list)
    for row in rows:
        # "16-bit to 8-bit, turned upright (EXIF orientation 6)": numbers differ.
        groups[re.split(r"[:(,]", row.reason)[0].strip() or "no reason given"].append(
            row
        )
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "reason": reason,
            "count": len(group),
            "photos": [(row.path, row.reason) for row in group[:_SHOWN_PATHS]],
            "more": max(0, len(group) - _SHOWN_PATHS),
        }
        for reason, group in ordered
    ]


def _warnings(found: manifest.Manifest, split: str) -> list[str]:
    """What makes the figures less sure than they look."""
    counts = found.counts()
    judged = {
        name: sum(splits.values()) if split == "all" else splits[split]
        for name, splits in counts.items()
    }
    lines = []
    if lacking := [name for name, number in judged.items() if not number]:
        lines.append(f"no photo judged of {_listed(lacking)}")
    few = [name for name, number in judged.items() if 0 < number < _FEW_PHOTOS]
    if few:
        lines.append(
            f"fewer than {_FEW_PHOTOS} photos judged of {_listed(few)}: their figures "
            "say little"
        )
    trained = {name: splits["train"] for name, splits in counts.items()}
    largest, smallest = (pick(trained, key=trained.__getitem__) for pick in (max, min))
    if trained[largest] > _UNEQUAL * trained[smallest]:
        lines.append(
            f"{trained[largest]} training photos of {largest}, {trained[smallest]} of "
            f"{smallest}: --class_weights=balanced lets them count alike"
        )
    return lines


def _notes(found: manifest.Manifest) -> list[str]:
    """What was done about photos that belong together."""
    groups = collections.Counter(row.group for row in found.taken())
    together = sum(number for number in groups.values() if number > 1)
    if not together:
        return []
    return [
        f"{together} photos belong to groups of copies, near-duplicates or of what "
        "--group_by finds alike; each group lies within one split."
    ]


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more classes" if more > 0 else "")
