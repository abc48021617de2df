"""Collect the facts about a run and its records that the HTML report states."""

import collections
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from model.evaluation.compare import comparison
from model.loop import metrics
from model.networks import head
from model.runs import finished_run, run_folder
from model.training import settings
from pipeline.records import manifest
from pipeline.records.manifest import Manifest
from pipeline.records.manifest_row import Row
from pipeline.system.errors import DataError

_MAX_PATHS = 30  # listed for each reason
_FEW_PHOTOS = 10
_LARGE_RATIO = 10  # between the largest and the smallest class
_STATUSES = {
    "restored": "loaded from the weight file",
    "new": "initialised at random",
    "skipped": "left uninitialised on purpose (--skip)",
    "mismatched": "refused because their shapes differ",
    "unused": "only in the weight file",
}


def command_line(script: str, config: Any) -> str:
    """Return the command with these settings, without those at their default."""
    return shlex.join(["python", script, *_flags(config)])


def _flags(config: Any) -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            words += _flags(value)
        elif isinstance(value, bool) and value != field.default:
            words.append(f"--{field.name}" if value else f"--no{field.name}")
        elif isinstance(value, int | float | str) and value != field.default:
            words.append(f"--{field.name}={value}")
    return words


def training(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return how a run was trained.

    `command` is "" if another version wrote config.json, `stages` the number of stages,
    `facts` is {name: value}, and `versions` {name of a tool: its version}.
    """
    config = run.config
    try:
        restored = settings.from_run(run.directory, config["settings"])
        command, num_stages = command_line("train.py", restored), len(restored.stages)
    except (DataError, KeyError):  # written by another version: no command is shown
        command, num_stages = "", 0
    weights = config.get("weights", {})
    facts = {
        "network": config.get("network", ""),
        "head on": head.describe(
            str(config.get("features", "")).split(","),
            str(config.get("pooling", "none")),
            str(config.get("scaling", "none")),
        ),
        "weights": " ".join(str(weights.get(n, "")) for n in ("ckpt", "variant")),
        "device": config.get("device", ""),
        "precision in training": config.get("precision", ""),
        "input": run.spec.describe(),
        "preprocessing": run.spec.describe_pixels(),
    }
    return {
        "command": command,
        "stages": num_stages,
        "facts": {name: str(value) for name, value in facts.items() if value},
        "versions": {k: str(v) for k, v in dict(config.get("versions", {})).items()},
    }


def network_comparison(run: finished_run.FinishedRun) -> dict[str, Any] | None:
    """Return a table of the networks that a run's was chosen from, or None."""
    path = run.directory / run_folder.COMPARISON

    def extract(figures: Any) -> dict[str, Any]:
        columns, rows = comparison.run_table(figures)
        texts = (
            f"{pair['second']} compared with {pair['first']}: {pair['verdict']}."
            for pair in figures["pairs"][:1]
        )
        photos = f"{figures['num_examples']:,} photos ({figures['split']})"
        return dict(columns=columns, rows=rows, photos=photos, sentences=[*texts])

    return dict(finished_run.read_json(path, extract)) if path.exists() else None


def ledger(run: finished_run.FinishedRun) -> dict[str, Any]:
    """Return a summary of ledger.json.

    `counts` has the tensors by status, {status, meaning, count, names}; `frozen` is the
    number of frozen variables, `unchanged` that of those with the same SHA-256 before
    and after training.
    """
    path = run.directory / "ledger.json"
    names: dict[str, list[str]] = collections.defaultdict(list)

    def extract(content: Any) -> list[bool]:
        for tensor in content["tensors"]:
            name = str(tensor["variable"] or tensor["tensor"])
            names[str(tensor["status"])].append(name)
        return [v["sha256_before"] == v["sha256_after"] for v in content["frozen"]]

    frozen = finished_run.read_json(path, extract)
    counts = [
        {"status": status, "meaning": meaning, "count": len(names[status])}
        | {"names": names[status]}
        for status, meaning in _STATUSES.items()
    ]
    return {"counts": counts, "frozen": len(frozen), "unchanged": sum(frozen)}


def temperature(figures: Mapping[str, Any]) -> str:
    """Return the end of a sentence: where the temperature comes from, with caveats."""
    which = "" if figures["split"] == "validation" else "some of "
    fitted = (
        "not on these photos."
        if not figures["photos_seen"] or figures["split"] == "train"
        else f"and so on {which}these photos: the error on new photos is probably "
        "larger."
    )
    if "folds" in figures:
        fitted = f"on average: each fold has its own, {fitted}"
    bound = (
        f" It is at a bound of the search, {metrics.LEAST_TEMPERATURE:g} to "
        f"{metrics.MOST_TEMPERATURE:g}: the probabilities are not calibrated."
    )
    is_at_bound = metrics.at_bound(figures["temperature"])
    return f"which was fitted on the validation split, {fitted}{bound * is_at_bound}"


def data(
    records: Manifest, split: str, *, own: bool, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what the manifest says about the photos.

    Records that are not the run's `own` are described without their splits. They may
    lack some of the run's `class_names`. The facts are `counts`, {class name: {column:
    photos}}, whose `columns` are the splits or "evaluated"; `files`, counts by action;
    `skipped` and `reencoded`, rows of {reason, count, photos, more}; `ignored`, counts
    by kind; and lines of text.
    """
    rows, counts = records.rows, records.counts()
    evaluated = dict.fromkeys(class_names, 0) | {
        name: sum(splits.values()) if split == "all" else splits[split]
        for name, splits in counts.items()
    }
    if not own:
        counts = {name: {"evaluated": number} for name, number in evaluated.items()}
    return {
        "own": own,
        "counts": counts,
        "columns": manifest.SPLITS if own else ("evaluated",),
        "files": records.tally.files(),
        "skipped": _by_reason([r for r in rows if not (r.is_included or r.is_gone)]),
        "reencoded": _by_reason([row for row in rows if row.action == "reencoded"]),
        "ignored": {str(kind): int(n) for kind, n in records.info.ignored.items()},
        "warnings": [
            *_few_photos(evaluated),
            *(_unequal_classes(records) if own else ()),
        ],
        "notes": _notes(records, own=own),
        "made_by": {name: str(v) for name, v in records.info.versions.items()},
    }


def _by_reason(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Group rows by reason, the most frequent reason first."""
    groups: dict[str, list[Row]] = collections.defaultdict(list)
    for row in rows:
        # Records that an earlier version wrote have no codes.
        reason = row.codes[0].replace("_", " ") if row.codes else row.reason
        groups[reason].append(row)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "reason": reason,
            "count": len(group),
            "photos": [(row.path, row.reason) for row in group[:_MAX_PATHS]],
            "more": max(0, len(group) - _MAX_PATHS),
        }
        for reason, group in ordered
    ]


def _few_photos(evaluated: Mapping[str, int]) -> list[str]:
    """Return warnings about classes with few photos or none."""
    lines = []
    if lacking := [name for name, number in evaluated.items() if not number]:
        lines.append(f"no photos were evaluated of {_listed(lacking)}")
    if few := [name for name, num in evaluated.items() if 0 < num < _FEW_PHOTOS]:
        lines.append(
            f"fewer than {_FEW_PHOTOS} photos were evaluated of {_listed(few)}: their "
            "figures are uncertain"
        )
    return lines


def _unequal_classes(records: Manifest) -> list[str]:
    """Return a warning about classes of very unequal size."""
    trained = {name: splits["train"] for name, splits in records.counts().items()}
    largest, smallest = (pick(trained, key=trained.__getitem__) for pick in (max, min))
    if trained[largest] <= _LARGE_RATIO * trained[smallest]:
        return []
    return [
        f"{trained[largest]} training photos of {largest}, {trained[smallest]} of "
        f"{smallest}: --class_weights=balanced gives all classes the same weight"
    ]


def _notes(records: Manifest, *, own: bool) -> list[str]:
    """Return notes about photos that belong together, and about corrected labels."""
    groups = collections.Counter(row.group for row in records.included())
    num_grouped = sum(number for number in groups.values() if number > 1)
    num_corrected = sum(bool(row.corrected_from) for row in records.included())
    corrected = f"{num_corrected:,} label{'s' * (num_corrected > 1)} corrected."
    return [corrected] * bool(num_corrected) + [
        f"{num_grouped} photos belong to groups of copies, of near-duplicates, or of "
        "--group_by" + ("; each group lies within one split." if own else ".")
    ] * bool(num_grouped)


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more classes" if more > 0 else "")
