"""Say in lines for the user what conversion found out about photos together."""

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
    others = [("(no class)", tally.others)] if tally.others else []
    rows = [
        (name, *(count[column] for column in columns), f"{count['bytes'] / 1e6:.1f}")
        for name, count in (*tally.classes.items(), *others, ("total", tally.total()))
    ]
    return command_line.table(("class", *columns, "MB"), rows)


def lines(
    rows: Sequence[Row],
    groups: PhotoGroups,
    contradicting: Reasons,
    bridging: Reasons,
) -> list[str]:
    """Describe copies, near-duplicates, groups, and photos that were left out.

    Photos were left out for their labels, or for the splits of their groups. Rows have
    group and split.
    """

    def is_mixed(group: Group, column: str) -> bool:
        return len({getattr(rows[index], column) for index in group}) > 1

    copies = [index for group in photo_groups.same_files(rows) for index in group[1:]]
    alike = groups.same_picture(rows)
    near = [group for group in alike if is_mixed(group, "sha256")]
    mixed = [group for group in alike if is_mixed(group, "class_name")]
    divided = [group for group in groups.together(rows) if is_mixed(group, "split")]
    keys = [
        key
        for row, key in zip(rows, groups.user_keys, strict=True)
        if row.is_included and key is not None
    ]
    corrected = [index for index, row in enumerate(rows) if row.corrected_from]
    code = Code.LEFT_OUT_BY_CORRECTION
    left_out = [index for index, row in enumerate(rows) if code in row.codes]
    texts = [
        (corrected, _counted("corrected labels", rows, corrected)),
        (left_out, _counted("left out by corrections", rows, left_out)),
        (copies, _counted("exact copies", rows, sorted(copies))),
        (
            near,
            f"groups of near-duplicates: {len(near)} ({_pairs(rows, near)}); these are "
            f"copies {near_duplicates.LIMIT}",
        ),
        (keys, f"given groups: {len(set(keys))}, of {len(keys)} photos"),
        (
            contradicting,
            _counted("left out, filed under several classes", rows, contradicting),
        ),
        (bridging, _counted("left out, on both sides of the split", rows, bridging)),
        (
            mixed,
            "warning: groups of the same picture in several classes: "
            f"{len(mixed)} ({_pairs(rows, mixed)})",
        ),
        (
            divided,
            "warning: groups of known photos on several sides of the split: "
            f"{len(divided)} ({_pairs(rows, divided)}); make a new split with python "
            "-m pipeline.split",
        ),
    ]
    return [command_line.one_line(text) for findings, text in texts if findings]


def changes(
    rows: Sequence[Row], previous: PreviousDataset, class_names: Collection[str]
) -> list[str]:
    """Describe what has changed since the last conversion, with removed photos.

    `class_names` are the classes now.
    """
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
    return f"{text}: {len(indices)} ({_names(rows, indices)})"


def _pairs(rows: Sequence[Row], groups: Sequence[Group]) -> str:
    """Return the paths of two photos of each of the first groups."""
    pairs = [f"{rows[one].path} and {rows[other].path}" for one, other, *_ in groups]
    return command_line.first_few(pairs, "; ")
