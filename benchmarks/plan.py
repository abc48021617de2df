"""Whether train.py --plan says what a training then takes: time and memory.

    python benchmarks/plan.py [FOLDER] [--photos=300]

Three kinds of training on some photos of FOLDER: a head on cached features, AlexNet
from conv1 on, and the stages of recipes/cats_and_dogs.toml cut short. Each is planned,
then run, as commands of their own; memory is the largest resident size.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure

TRAININGS = {
    "new final layer, 30 epochs": ["--ckpt=alexnet_conv"],
    "AlexNet from conv1, 3 epochs": [
        *("--ckpt=alexnet_conv", "--train_from=conv1", "--views=0", "--epochs=3")
    ],
    "VGG16 at 150 px, block 5 from the cache, 6 epochs": [
        *("--ckpt=vgg16_conv", "--image_size=150", "--train_from=block5_conv1"),
        *(
            "--views=1",
            "--epochs=6",
            "--batch_size=20",
            "--hidden=256",
            "--pooling=none",
        ),
    ],
}


def planned(words: list[str]) -> tuple[float, float]:
    """Seconds and gigabytes that train.py expects."""
    said = subprocess.run(
        [sys.executable, "train.py", *words, "--plan"],
        cwd=measure.ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"altogether about ([\d.]+) (s|min|h), ([\d.]+) GB", said)
    if not found:
        sys.exit(f"no plan in: {said}")
    unit = {"s": 1, "min": 60, "h": 3600}[found[2]]
    return float(found[1]) * unit, float(found[3])


def taken(words: list[str]) -> tuple[float, float]:
    """Seconds and gigabytes of a training."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=measure.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"train.py {' '.join(words)}: failed")
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="demo/flowers", type=Path)
    parser.add_argument("--photos", type=int, default=300, help="of all classes")
    options = parser.parse_args()
    rows = [["", "planned", "took", "planned / took", "planned", "held", ""]]
    with tempfile.TemporaryDirectory() as scratch:
        few = Path(scratch) / "few"
        measure.some_photos(options.folder, few, options.photos)
        records = f"{scratch}/records"
        measure.command("-m", "pipeline.convert", str(few), f"--out={records}")
        for number, (name, words) in enumerate(TRAININGS.items()):
            run = f"--run_dir={scratch}/runs{number}/run"
            words = [*words, f"--data={records}", run]
            seconds, memory = planned(words)
            took, held = taken(words)
            rows.append(
                [
                    name,
                    f"{seconds:.0f} s",
                    f"{took:.0f} s",
                    f"{seconds / took:.2f}",
                    f"{memory:.1f} GB",
                    f"{held:.1f} GB",
                    f"{memory / held:.2f}",
                ]
            )
    measure.table("What --plan says, and what training then takes", rows)


if __name__ == "__main__":
    main()
