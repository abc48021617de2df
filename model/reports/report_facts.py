"""A run and its records -> what the page of an evaluation says of them in words."""

import collections
import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from model.loop import metrics
from model.networks import head
from model.runs import finished_run, run_folder
from model.training import settings
from pipeline.records import manifest
from pipeline.system.errors import DataError

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


def training(finished: finished_run.FinishedRun) -> dict[str, Any]:
    """How a run was trained.

    Returns:
        Its `command` ("" where config.json does not say), the number of its `stages`,
        the `facts` of it as {name: value}, and `versions`.
    """
    config = finished.config
    try:
        made = settings.from_run(finished.directory, config)
        line, stages = command_line("train.py", made), len(made.stages)
    except (DataError, KeyError):  # of another version: no reason to stop
        line, stages = "", 0
    weights = config.get("weights", {})
    facts = {
        "network": config.get("network", ""),
        "head on": head.describe(
            str(config.get("features", "")).split(","),
            str(config.get("pooling", "none")),
        ),
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


def ledger(finished: finished_run.FinishedRun) -> dict[str, Any]:
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
        raise run_folder.RunError(
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


def temperature(figures: Mapping[str, Any]) -> str:
    """Where the temperature comes from, and what that means for its figures.

    Args:
        figures: of a judgement, as evaluation/<split>.json has them.

    Returns:
        The end of a sentence about it, and further ones.
    """
    told = "which was fitted on the validation split"
    if not figures["photos_seen"] or figures["split"] == "train":
        told += " and never on these photos."
    else:
        which = "" if figures["split"] == "validation" else "some of "
        told += (
            f", and so on {which}these photos: of new ones, the error is likely larger."
        )
    if metrics.at_bound(figures["temperature"]):
        told += (
            f" It is at the bound of what is tried, {metrics.LEAST_TEMPERATURE:g} to "
            f"{metrics.MOST_TEMPERATURE:g}: the probabilities are not calibrated."
        )
    return told


def data(
    found: manifest.Manifest,
    split: str,
    *,
    own: bool,
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """What the manifest says of the photos.

    Args:
        found: the records.
        split: that was judged; "all" for all photos.
        own: the run was trained on these records. Of others, their splits and what they
            would be to a training say nothing.
        class_names: of the run, of which other photos may lack some; () for those of
            the records.

    Returns:
        `own`; `counts`, {class name: {column: photos}}, and the `columns`, which are
        the splits, or "judged"; `files` by what became of them; `skipped` and
        `reencoded`, rows of {reason, count, photos, more}; `ignored`; `warnings`, what
        makes the figures less sure than they look, and `notes`, lines of text; and the
        versions that it was `made_by`.
    """
    rows = found.rows
    judged = dict.fromkeys(class_names, 0) | _judged(found, split)
    return {
        "own": own,
        "counts": found.counts()
        if own
        else {name: {"judged": number} for name, number in judged.items()},
        "columns": manifest.SPLITS if own else ("judged",),
        "files": found.tally.files(),
        "skipped": _by_reason([row for row in rows if not row.is_included]),
        "reencoded": _by_reason([row for row in rows if row.action == "reencoded"]),
        "ignored": {str(kind): int(n) for kind, n in found.info.ignored.items()},
        "warnings": [*_few(judged), *(_unequal(found) if own else ())],
        "notes": _notes(found, own=own),
        "made_by": {name: str(v) for name, v in found.info.versions.items()},
    }


def _by_reason(rows: Sequence[manifest.Row]) -> list[dict[str, Any]]:
    """Rows of the same reason together, the most frequent first."""
    groups: dict[str, list[manifest.Row]] = collections.defaultdict(list)
    for row in rows:
        # Records that an earlier version wrote have no codes.
        reason = row.codes[0].replace("_", " ") if row.codes else row.reason
        groups[reason].append(row)
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


def _judged(found: manifest.Manifest, split: str) -> dict[str, int]:
    """{class name: photos judged}."""
    return {
        name: sum(splits.values()) if split == "all" else splits[split]
        for name, splits in found.counts().items()
    }


def _few(judged: Mapping[str, int]) -> list[str]:
    """What is said of classes with few photos or none."""
    lines = []
    if lacking := [name for name, number in judged.items() if not number]:
        lines.append(f"no photo judged of {_listed(lacking)}")
    few = [name for name, number in judged.items() if 0 < number < _FEW_PHOTOS]
    if few:
        lines.append(
            f"fewer than {_FEW_PHOTOS} photos judged of {_listed(few)}: their figures "
            "say little"
        )
    return lines


def _unequal(found: manifest.Manifest) -> list[str]:
    """What is said of training on classes of unequal size."""
    trained = {name: splits["train"] for name, splits in found.counts().items()}
    largest, smallest = (pick(trained, key=trained.__getitem__) for pick in (max, min))
    if trained[largest] <= _UNEQUAL * trained[smallest]:
        return []
    return [
        f"{trained[largest]} training photos of {largest}, {trained[smallest]} of "
        f"{smallest}: --class_weights=balanced lets them count alike"
    ]


def _notes(found: manifest.Manifest, *, own: bool) -> list[str]:
    """What was done about photos that belong together."""
    groups = collections.Counter(row.group for row in found.included())
    together = sum(number for number in groups.values() if number > 1)
    if not together:
        return []
    note = (
        f"{together} photos belong to groups of copies, near-duplicates or of what "
        "--group_by finds alike"
    )
    return [note + ("; each group lies within one split." if own else ".")]


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more classes" if more > 0 else "")
