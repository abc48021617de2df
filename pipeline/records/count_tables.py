"""Format the tables of photos by class that commands print at their end."""

import collections
from collections.abc import Mapping

from pipeline.records.manifest import SPLITS, Tally
from pipeline.system import tables


def conversion(tally: Tally) -> str:
    """Return a table of photos by class, action and split."""
    columns = ("photos", "copied", "reencoded", "skipped", *SPLITS)
    others = [("(no class)", tally.others)] if tally.others else []
    rows = [
        (name, *(count[column] for column in columns), f"{count['bytes'] / 1e6:.1f}")
        for name, count in (*tally.classes.items(), *others, ("total", tally.total()))
    ]
    return "\n".join(tables.table(("class", *columns, "MB"), rows))


def splits(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return a table of {class name: {split: number of photos}}."""
    total = sum(map(collections.Counter, counts.values()), collections.Counter[str]())
    rows = [
        (name, *(count[split] for split in SPLITS))
        for name, count in (*counts.items(), ("total", total))
    ]
    return "\n".join(tables.table(("class", *SPLITS), rows))
