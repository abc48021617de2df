"""Compare the time and memory that train.py --plan estimates with those of a training.

    python benchmarks/plan.py [FOLDER] [--photos=300]

Three trainings on a sample of FOLDER: a new head on cached features, AlexNet from conv1
on, and a short version of the last stage of recipes/cats_and_dogs.toml. Each is
estimated and then run. Memory is the maximum resident set size of the process.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import measure

TRAININGS = {
    "new final layer, 30 epochs": "--ckpt=alexnet_conv --optimizer=adam",
    "AlexNet from conv1, 3 epochs": (
        "--ckpt=alexnet_conv --train_from=conv1 --views=0 --epochs=3"
    ),
    "VGG16 at 150 px, block 5 from the cache, 6 epochs": (
        "--ckpt=vgg16_conv --image_size=150 --train_from=block5_conv1 --views=1 "
        "--epochs=6 --batch_size=20 --hidden=256 --pooling=none"
    ),
}


def estimate(words: list[str]) -> tuple[float, float]:
    """Return the seconds and gigabytes that train.py estimates."""
    plan = measure.run_python("train.py", *words, "--plan")
    match = re.search(r"altogether about ([\d.]+) (s|min|h), ([\d.]+) GB", plan)
    if not match:
        sys.exit(f"no estimate in the output of --plan:\n{plan}")
    unit_s = {"s": 1, "min": 60, "h": 3600}[match[2]]
    return float(match[1]) * unit_s, float(match[3])


def train(words: list[str]) -> tuple[float, float]:
    """Return the seconds and gigabytes that train.py uses."""
    start = time.perf_counter()
    process = measure.start_python("train.py", *words)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"train.py {' '.join(words)}: failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument(
        "--photos", type=int, default=300, help="size of the sample (300)"
    )
    options = parser.parse_args()
    rows = [
        ["", "estimated s", "actual s", "ratio", "estimated GB", "actual GB", "ratio"]
    ]
    with tempfile.TemporaryDirectory() as scratch:
        records = measure.convert_sample(options.folder, Path(scratch), options.photos)
        for number, (name, flags) in enumerate(TRAININGS.items()):
            run = f"--run_dir={scratch}/runs{number}/run"  # no cache of earlier runs
            words = [*flags.split(), f"--data={records}", run]
            estimated_s, estimated_gb = estimate(words)
            actual_s, actual_gb = train(words)
            row = [name, f"{estimated_s:.0f}", f"{actual_s:.0f}"]
            row += [f"{estimated_s / actual_s:.2f}", f"{estimated_gb:.1f}"]
            row += [f"{actual_gb:.1f}", f"{estimated_gb / actual_gb:.2f}"]
            rows.append(row)
    measure.print_table("Estimates of --plan and actual trainings", rows)


if __name__ == "__main__":
    main()
