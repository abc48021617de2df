"""Counts of a data set -> the tables that commands close with."""

from collections.abc import Mapping

from pipeline.records import manifest, photo_counts


def conversion(tally: photo_counts.Tally) -> str:
    """Photos per class by what became of them, and by split."""
    columns = ("photos", "copied", "reencoded", "skipped", *manifest.SPLITS, "MB")
    cells = [*tally.classes.items()]
    if tally.others:
        cells.append(("(no class)", tally.others))
    cells.append(("total", tally.total()))
    width = max(len(name) for name, _ in cells)
    lines = [f"{'class':{width}} " + " ".join(f"{name:>10}" for name in columns)]
    for name, counter in cells:
        counts = " ".join(f"{counter[column]:10}" for column in columns[:-1])
        lines.append(f"{name:{width}} {counts} {counter['bytes'] / 1e6:10.1f}")
    return "\n".join(lines)


def splits(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Photos per class and split, as text.

    Args:
        counts: {class name: {split: photos}}.
    """
    width = max(len("class"), *map(len, counts))
    lines = [f"{'class':{width}} {'train':>7} {'validation':>11} {'test':>6}"]
    total = {
        split: sum(row[split] for row in counts.values()) for split in manifest.SPLITS
    }
    for name, row in (*counts.items(), ("total", total)):
        lines.append(
            f"{name:{width}} {row['train']:7} {row['validation']:11} {row['test']:6}"
        )
    return "\n".join(lines)
