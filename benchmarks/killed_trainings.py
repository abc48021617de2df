"""Trainings killed at random moments and resumed: the same weights as undisturbed?

    python benchmarks/killed_trainings.py FOLDER [--kills=20] [--seed=0]

A whole network with dropout in it trains in two stages; each time it is killed
(SIGKILL) somewhere between its first step and its last, and then resumed. What must
come out are the weights, to the bit, of the training that nobody disturbed.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import measure

RECIPE = """
ckpt = "none"
arch = "cifar_cnn"
batch_size = 16
snapshot_steps = 7
[[stages]]
stage = "first"
epochs = 3
[[stages]]
stage = "second"
epochs = 3
optimizer = "sgd"
momentum = 0.9
iter_size = 2
ema = 0.9
start = "last"
rotation = 20.0
zoom = 0.2
mixup = 0.2
"""


def run(*words: str) -> None:
    """Runs train.py without fault."""
    done = subprocess.run(
        [sys.executable, "train.py", *words],
        cwd=measure.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def kill(directory: Path, words: Sequence[str], after_s: float) -> bool:
    """Runs train.py and kills it so long after its first step; False if it was done."""
    process = subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=measure.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and not (directory / "first_batch.png").exists():
        time.sleep(0.01)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def outcome(directory: Path) -> tuple[str, list[tuple[float, float]]]:
    """SHA-256 of all weights, and the losses of all epochs."""
    script = (
        "import sys, keras, hashlib\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "data = b''.join(value.tobytes() for value in model.get_weights())\n"
        "print(hashlib.sha256(data).hexdigest())\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(directory / "model.keras")],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in lines]
    figures = [(one["loss"], one["validation_loss"]) for one in losses]
    return found.stdout.strip(), figures


def main() -> None:
    """Prints how many came out the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        records = f"{scratch}/records"
        measure.command("-m", "pipeline.convert", str(args.folder), f"--out={records}")
        recipe = Path(scratch) / "recipe.toml"
        recipe.write_text(RECIPE)
        how = (f"--recipe={recipe}", f"--data={records}")
        whole = Path(scratch) / "whole"
        run(*how, f"--run_dir={whole}")
        expected = outcome(whole)
        lines = map(json.loads, (whole / "metrics.jsonl").read_text().splitlines())
        taken_s = sum(line["seconds"] for line in lines)
        same = killed = 0
        for number in range(args.kills):
            directory = Path(scratch) / f"run{number}"
            words = (*how, f"--run_dir={directory}")
            while not (
                kill(directory, words, draw.uniform(0, 1) * taken_s)
                and (directory / "checkpoints").exists()
            ):
                shutil.rmtree(directory)  # it was done before: not a kill
            killed += 1
            steps = sorted(directory.glob("checkpoints/step-*.npz"))
            run(f"--resume={directory}")
            is_same = outcome(directory) == expected
            same += is_same
            place = steps[-1].stem if steps else "the beginning"
            print(f"kill {number + 1}: resumed from {place}: ", end="")
            print("same" if is_same else "DIFFERENT", flush=True)
            shutil.rmtree(directory)
    digest = hashlib.sha256(repr(expected).encode()).hexdigest()[:12]
    print(f"{same} of {killed} killed and resumed end as undisturbed ({digest})")


if __name__ == "__main__":
    main()
