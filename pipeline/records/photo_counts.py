"""Count the photos of a data set by class, by what became of them and by split."""

import collections
from collections.abc import Iterable

from pipeline.records.manifest_row import Row


class Tally:
    """Numbers of photos, and bytes of records, for each class.

    Attributes:
        classes: {class name: Counter} with the keys "photos", "bytes", and the names of
            actions and splits.
        others: counter of the files in no class, and of removed photos whose class no
            longer exists.
    """

    def __init__(self, class_names: Iterable[str], rows: Iterable[Row] = ()) -> None:
        """Count rows.

        Args:
            class_names: names of all classes, in label order.
            rows: rows of the manifest.
        """
        self.classes: dict[str, collections.Counter[str]] = {
            name: collections.Counter() for name in class_names
        }
        self.others: collections.Counter[str] = collections.Counter()
        for row in rows:
            counter = self.classes.get(row.class_name, self.others)
            counter["photos"] += 1
            counter[row.action] += 1
            if row.is_included:
                counter[row.split] += 1
                counter["bytes"] += row.length

    def total(self) -> collections.Counter[str]:
        """Return the counts of all classes and other files together."""
        return sum((*self.classes.values(), self.others), collections.Counter())

    def files(self) -> dict[str, int]:
        """Return the number of files, in all and by action, as manifest.json has it."""
        total = self.total()
        actions = ("copied", "reencoded", "skipped")
        return {
            "total": total["photos"],
            **{name: total[name] for name in actions if total[name]},
        }
