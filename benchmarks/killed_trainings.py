"""Check that killed and resumed trainings give the weights of an undisturbed one.

    python benchmarks/killed_trainings.py [FOLDER] [--kills=20] [--seed=0]

A whole network with dropout trains in two stages. It is killed with SIGKILL at a random
moment between its first and last step, and then resumed. Its weights and the losses of
all epochs are compared, to the bit, with those of a training that was not killed.
"""

import hashlib
import random
import shutil
import subprocess
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
PRINT_DIGEST = """
import sys, keras, hashlib
model = keras.models.load_model(sys.argv[1])
data = b''.join(value.tobytes() for value in model.get_weights())
print(hashlib.sha256(data).hexdigest())
"""


def kill_training(run: Path, words: Sequence[str], after_s: float) -> bool:
    """Start train.py and kill it `after_s` seconds after its first step.

    Returns:
        False if the training had ended before.
    """
    process = measure.start_python("train.py", *words, start_new_session=True)
    while process.poll() is None and not (run / "first_batch.png").exists():
        time.sleep(0.01)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        measure.kill(process)
        return True
    return False


def read_results(run: Path) -> tuple[str, list[tuple[float, float]]]:
    """Return the SHA-256 of all weights, and both losses of each epoch."""
    digest = measure.run_python("-c", PRINT_DIGEST, str(run / "model.keras")).strip()
    epochs = measure.read_epochs(run)
    return digest, [(line["loss"], line["validation_loss"]) for line in epochs]


def main() -> None:
    """Print each result and how many are the same."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="number of kills (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        records = f"{scratch}/records"
        measure.convert(options.folder, records)
        recipe, undisturbed = (
            Path(scratch) / "recipe.toml",
            Path(scratch) / "undisturbed",
        )
        recipe.write_text(RECIPE)
        flags = (f"--recipe={recipe}", f"--data={records}")
        measure.run_python("train.py", *flags, f"--run_dir={undisturbed}")
        expected = read_results(undisturbed)
        seconds = sum(line["seconds"] for line in measure.read_epochs(undisturbed))
        num_same = 0
        for number in range(options.kills):
            run = Path(scratch) / f"run{number}"
            words = (*flags, f"--run_dir={run}")
            while not (
                kill_training(run, words, moments.uniform(0, 1) * seconds)
                and (run / "checkpoints").exists()
            ):
                shutil.rmtree(run)  # it had ended before it was killed
            snapshots = sorted(run.glob("checkpoints/step-*.npz"))
            measure.run_python("train.py", f"--resume={run}")
            is_same = read_results(run) == expected
            num_same += is_same
            step = snapshots[-1].stem if snapshots else "the beginning"
            result = "same" if is_same else "DIFFERENT"
            print(f"kill {number + 1}: resumed from {step}: {result}", flush=True)
            shutil.rmtree(run)
    digest = hashlib.sha256(repr(expected).encode()).hexdigest()[:12]
    print(
        f"{num_same} of {options.kills} resumed trainings equal the undisturbed one "
        f"(digest {digest})"
    )


if __name__ == "__main__":
    main()
