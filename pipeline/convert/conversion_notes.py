"""What was found out about photos together -> lines for the user."""

from collections.abc import Sequence

import numpy as np

from pipeline.grouping import selection
from pipeline.records import file_table
from pipeline.sources import find_source
from pipeline.system import command_line

_SHOWN = 5  # examples a line


def lines(
    found: file_table.Table,
    source: find_source.Source,
    bonds: selection.Bonds,
    left_out: selection.LeftOut,
) -> list[str]:
    """Copies, near-duplicates, groups, and what was left out; nothing, no line.

    Args:
        found: all files, in groups and splits.
        source: likewise.
        bonds: what belongs together.
        left_out: what is not taken because of it.
    """

    def names(numbers: Sequence[int] | np.ndarray) -> str:
        shown = [source.paths[number] for number in numbers[:_SHOWN]]
        return ", ".join(shown) + (" ..." if len(numbers) > _SHOWN else "")

    def pairs(groups: Sequence[np.ndarray]) -> str:
        shown = [
            " and ".join(source.paths[number] for number in members[:2])
            for members in groups[:_SHOWN]
        ]
        return "; ".join(shown) + (" ..." if len(groups) > _SHOWN else "")

    taken = np.flatnonzero(found.taken)
    copies = taken[selection.same_files(found)[taken] != taken]
    alike = bonds.alike(found)
    near = selection.divided(alike, taken, found.found["sha256"])
    mixed = selection.divided(alike, taken, found.labels)
    torn = selection.divided(found.groups, taken, found.splits)
    keys = bonds.keys[taken]
    keys = keys[keys != selection.NO_KEY]
    out = left_out
    texts = [
        (copies, f"exact copies: {len(copies)} ({names(copies)})"),
        (near, f"groups of near-duplicates: {len(near)} ({pairs(near)})"),
        (keys, f"groups by path: {len(np.unique(keys))}, of {len(keys)} photos"),
        (
            out.contradicting,
            f"left out, filed under several classes: {len(out.contradicting)} "
            f"({names(out.contradicting)})",
        ),
        (
            out.bridging,
            f"left out, on both sides of the split: {len(out.bridging)} "
            f"({names(out.bridging)})",
        ),
        (
            mixed,
            "warning: groups of the same picture in several classes: "
            f"{len(mixed)} ({pairs(mixed)})",
        ),
        (
            torn,
            "warning: groups of known photos on several sides of the split: "
            f"{len(torn)} ({pairs(torn)}); python -m pipeline.split splits anew",
        ),
    ]
    return [command_line.one_line(text) for members, text in texts if len(members)]
