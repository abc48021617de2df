"""Describe in lines of text what a conversion has found out about its photos."""

from collections.abc import Collection, Sequence

from pipeline.grouping import near_duplicates, photo_groups
from pipeline.grouping.photo_groups import Group, PhotoGroups
from pipeline.grouping.photo_selection import Reasons
from pipeline.records.manifest import SPLITS, Tally
from pipeline.records.manifest_row import Code, Row
from pipeline.records.previous_dataset import PreviousDataset
from pipeline.system import command_line


def counts(tally: Tally) -> list[str]:
    """Return the lines of a table of photos by class, action and split."""
    columns = ("photos", "copied", "reencoded", "skipped", *SPLITS)
    table = tally.rows(*columns, "bytes")
    rows = [(*cells, f"{num_bytes / 1e6:.1f}") for *cells, num_bytes in table]
    return command_line.table(("class", *columns, "MB"), rows)


def lines(
    rows: Sequence[Row], groups: PhotoGroups, contradicting: Reasons, bridging: Reasons
) -> list[str]:
    """Describe copies, near-duplicates, groups, and photos that were left out.

    `contradicting` and `bridging` photos were left out because of their labels, or of
    the splits of their groups. Rows have group and split.
    """
    copies = [index for group in photo_groups.same_files(rows) for index in group[1:]]
    alike = groups.same_picture(rows)
    near = photo_groups.differing(alike, rows, "sha256")
    mixed = photo_groups.differing(alike, rows, "class_name")
    divided = photo_groups.differing(groups.together(rows), rows, "split")
    keys = [
        key
        for row, key in zip(rows, groups.user_keys, strict=True)
        if row.is_included and key is not None
    ]
    corrected = [index for index, row in enumerate(rows) if row.corrected_from]
    code = Code.LEFT_OUT_BY_CORRECTION
    left_out = [index for index, row in enumerate(rows) if code in row.codes]
    near_text = f"these are copies {near_duplicates.LIMIT}"
    advice = "make a new split with python -m pipeline.split"
    mixed_text = "warning: groups of the same picture in several classes"
    divided_text = "warning: groups of known photos in several splits"
    texts = [
        _counted("corrected labels", rows, corrected),
        _counted("left out by corrections", rows, left_out),
        _counted("exact copies", rows, sorted(copies)),
        _paired("groups of near-duplicates", rows, near, f"; {near_text}"),
        f"given groups: {len(set(keys))}, of {len(keys)} photos" if keys else "",
        _counted("left out, filed under several classes", rows, contradicting),
        _counted("left out, as their groups are in several splits", rows, bridging),
        _paired(mixed_text, rows, mixed),
        _paired(divided_text, rows, divided, f"; {advice}"),
    ]
    return [command_line.one_line(text) for text in texts if text]


def changes(
    rows: Sequence[Row], previous: PreviousDataset, class_names: Collection[str]
) -> list[str]:
    """Describe what has changed since the last conversion, with removed photos."""
    kinds, texts = list(map(previous.change, rows)), []
    for kind in ("new", "known", "with another class", "changed", "gone"):
        if indices := [index for index, other in enumerate(kinds) if other == kind]:
            names = f" ({_names(rows, indices)})" * (kind not in ("new", "known"))
            texts.append(f"{len(indices):,} {kind}{names}")
    texts = [f"photos since the last conversion: {', '.join(texts)}"]
    if gone := set(previous.manifest.class_names) - set(class_names):
        names = command_line.first_few(sorted(gone))
        texts.append(f"warning: no longer classes of the source: {names}")
    return list(map(command_line.one_line, texts))


def _names(rows: Sequence[Row], indices: Collection[int]) -> str:
    return command_line.first_few([rows[index].path for index in indices])


def _counted(text: str, rows: Sequence[Row], indices: Collection[int]) -> str:
    """Return how many photos there are, and the first of them; "" for none."""
    return f"{text}: {len(indices)} ({_names(rows, indices)})" if indices else ""


def _paired(
    text: str, rows: Sequence[Row], groups: Sequence[Group], advice: str = ""
) -> str:
    """Return how many groups there are, and two photos of the first; "" for none."""
    pairs = [f"{rows[i].path} and {rows[j].path}" for i, j, *_ in groups]
    named = command_line.first_few(pairs, "; ")
    return f"{text}: {len(groups)} ({named}){advice}" if groups else ""
