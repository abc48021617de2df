"""Format the tables of photos by class that commands print at their end."""

import collections
from collections.abc import Mapping

from pipeline.records.manifest import SPLITS, Tally
from pipeline.system import tables


def conversion(tally: Tally) -> str:
    """Return a table of photos by class, action and split."""
    columns = ("photos", "copied", "reencoded", "skipped", *SPLITS)
    counters = [*tally.classes.items()]
    if tally.others:
        counters.append(("(no class)", tally.others))
    counters.append(("total", tally.total()))
    rows = [
        (
            name,
            *(counter[column] for column in columns),
            f"{counter['bytes'] / 1e6:.1f}",
        )
        for name, counter in counters
    ]
    return "\n".join(tables.table(("class", *columns, "MB"), rows))


def splits(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return a table of photos by class and split.

    Args:
        counts: {class name: {split: number of photos}}.
    """
    total: collections.Counter[str] = collections.Counter()
    for count in counts.values():
        total.update(count)
    rows = [
        (name, *(count[split] for split in SPLITS))
        for name, count in (*counts.items(), ("total", total))
    ]
    return "\n".join(tables.table(("class", *SPLITS), rows))
