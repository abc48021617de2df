"""Trainings killed at random moments and resumed: the same weights as undisturbed?

    python benchmarks/killed_trainings.py FOLDER [--kills=20] [--seed=0] [-- FLAG...]

A whole network with dropout in it trains in two stages; each time it is killed
(SIGKILL) somewhere in the time that it takes, and then resumed. What must come out are
the weights, to the bit, of the training that nobody disturbed. FLAGs are train.py's, in
place of those below.
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


def run(*words: str, kill_after_s: float = 0) -> float:
    """Runs train.py, in seconds; killed or else without fault."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "train.py", *words],
        cwd=measure.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if kill_after_s:
        try:
            process.wait(kill_after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    _, stderr = process.communicate()
    if not kill_after_s and process.returncode:
        raise SystemExit(stderr.decode())
    return time.perf_counter() - start


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
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        records = f"{scratch}/records"
        measure.command("-m", "pipeline.convert", str(args.folder), f"--out={records}")
        recipe = Path(scratch) / "recipe.toml"
        recipe.write_text(RECIPE)
        how = args.flags or [f"--recipe={recipe}"]
        whole = Path(scratch) / "whole"
        taken_s = run(*how, f"--data={records}", f"--run_dir={whole}")
        expected = outcome(whole)
        same = in_time = 0
        for number in range(args.kills):
            directory = Path(scratch) / f"run{number}"
            words = (*how, f"--data={records}", f"--run_dir={directory}")
            run(*words, kill_after_s=draw.uniform(0.1, 1) * taken_s)
            steps = sorted(directory.glob("checkpoints/*.npz"))
            place = steps[-1].stem if steps else "before the first snapshot"
            if (directory / "checkpoints").exists():
                in_time += 1
                run(f"--resume={directory}")
            elif not (directory / "model.keras").exists():
                shutil.rmtree(directory, ignore_errors=True)
                run(*words)
                place = "before the run had begun"
            is_same = outcome(directory) == expected
            same += is_same
            print(f"kill {number + 1}: {place}: {'same' if is_same else 'DIFFERENT'}")
            shutil.rmtree(directory)
    digest = hashlib.sha256(repr(expected).encode()).hexdigest()[:12]
    print(f"{same} of {args.kills} as undisturbed ({digest}); {in_time} resumed")


if __name__ == "__main__":
    main()
