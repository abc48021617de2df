"""Count how many labels that were planted wrong are among the first doubts.

    python benchmarks/planted_labels.py [FOLDER] [--planted=30] [--seeds=3]

For each seed, some photos of a copy of the folder are moved to another class, both
chosen at random. After convert, train and evaluate, the table has how many of them the
first 30, 60 and 90 rows of doubts.csv hold.
"""

import csv
import random
import shutil
import tempfile
from pathlib import Path

import measure


def plant(source: Path, target: Path, count: int, seed: int) -> dict[str, str]:
    """Copy class folders, some photos into a wrong one; return {path: true class}."""
    draw = random.Random(seed)
    photos = sorted(path for path in source.glob("*/*") if path.is_file())
    names = sorted({path.parent.name for path in photos})
    planted = {}
    chosen = {*draw.sample(photos, count)}
    for photo in photos:
        name = photo.parent.name
        if photo in chosen:
            name = draw.choice([other for other in names if other != name])
            planted[f"{name}/{photo.name}"] = photo.parent.name
        (target / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, target / name)
    return planted


def main() -> None:
    """Plant wrong labels, train, and print where they stand among the doubts."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--planted", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    config = parser.parse_args()
    columns = ["seed", "in the first 30, 60, 90", "doubts", "s to train and evaluate"]
    rows = [columns]
    for seed in range(config.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            photos, run = Path(scratch, "photos"), Path(scratch, "runs", "run")
            planted = plant(config.folder, photos, config.planted, seed)
            records = f"{scratch}/records"
            measure.convert(photos, records)
            seconds = measure.time_python(
                *("train.py", f"--data={records}", f"--run_dir={run}")
            )
            seconds += measure.time_python("evaluate.py", f"--run_dir={run}")
            table = run / "evaluation" / "doubts.csv"
            with table.open(newline="", encoding="utf-8") as file:
                hits = [row["path"] in planted for row in csv.DictReader(file)]
        first = ", ".join(str(sum(hits[:n])) for n in (30, 60, 90))
        rows.append([str(seed), first, str(len(hits)), f"{seconds:.0f}"])
    measure.print_table(f"{config.planted} labels planted wrong", rows)


if __name__ == "__main__":
    main()
