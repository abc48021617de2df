"""A data set -> the tables that commands close with."""

import collections

from pipeline import manifest


def conversion(found: manifest.Manifest) -> str:
    """Photos per class by what became of them, and by split."""
    columns = ("photos", "copied", "reencoded", "skipped", *manifest.SPLITS, "MB")
    cells: dict[str, collections.Counter[str]] = {
        name: collections.Counter() for name in (*found.class_names, "(no class)")
    }
    for row in found.rows:
        # Photos that are gone may be of a class that is gone.
        known = row.class_name in found.labels
        counter = cells[row.class_name if known else "(no class)"]
        counter["photos"] += 1
        counter[row.action] += 1
        counter[row.split if row.taken else ""] += 1
        counter["bytes"] += row.length
    if not cells["(no class)"]:
        del cells["(no class)"]
    total: collections.Counter[str] = collections.Counter()
    for counter in cells.values():
        total.update(counter)
    cells["total"] = total
    width = max(map(len, cells))
    lines = [f"{'class':{width}} " + " ".join(f"{name:>10}" for name in columns)]
    for name, counter in cells.items():
        counts = " ".join(f"{counter[column]:10}" for column in columns[:-1])
        lines.append(f"{name:{width}} {counts} {counter['bytes'] / 1e6:10.1f}")
    return "\n".join(lines)


def skipped(found: manifest.Manifest, limit: int = 20) -> list[str]:
    """Names the files that were not taken, with the reason."""
    skipped = [row for row in found.rows if not row.taken]
    lines = [f"skipped {row.path}: {row.reason}" for row in skipped[:limit]]
    if len(skipped) > limit:
        lines.append(
            f"... and {len(skipped) - limit} more, "
            f"in {found.directory / manifest.ROWS_NAME}"
        )
    return lines


def splits(found: manifest.Manifest) -> str:
    """Photos per class and split, as text."""
    width = max(len("class"), *map(len, found.class_names))
    lines = [f"{'class':{width}} {'train':>7} {'validation':>11} {'test':>6}"]
    counts = found.counts()
    counts["total"] = {
        split: sum(row[split] for row in counts.values()) for split in manifest.SPLITS
    }
    for name, row in counts.items():
        lines.append(
            f"{name:{width}} {row['train']:7} {row['validation']:11} {row['test']:6}"
        )
    return "\n".join(lines)
