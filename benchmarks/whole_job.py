"""Measure the complete job: train.py and evaluate.py, including process starts.

    python benchmarks/whole_job.py [FOLDER] [--rounds=3] [--epochs=10]
        [--heads=pooling,flatten] [--torch=PYTHON]

Graft trains with --ckpt=alexnet and otherwise default flags. The baseline is
keras_guide.py on the same photos and splits. Its time is taken at the epoch where it
first reaches Graft's accuracy, or after --epochs if it never does. It runs once as in
the guide (pooling), and once with all 9,216 values of pool5 (flatten). With --torch,
the Python of an environment with PyTorch, torchvision and scikit-learn,
pytorch_features.py is a further baseline: the time of its process. Each round tests on
a different one of five folds.
"""

import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import measure
import numpy as np


def run_graft(records: str, run: str) -> tuple[float, float]:
    """Return seconds and test accuracy of both commands with default flags."""
    start = time.perf_counter()
    figures = measure.train_and_evaluate(records, run, "--ckpt=alexnet")
    return time.perf_counter() - start, figures["accuracy"]


def link_splits(source: Path, records: str, target: Path) -> list[str]:
    """Link the photos of each split into class folders; return the splits' folders."""
    for line in (Path(records) / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["action"] == "skipped":
            continue
        link = target / row["split"] / row["path"]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((source / row["path"]).resolve())
    return [str(target / name) for name in ("train", "validation", "test")]


def run_keras(
    folders: list[str], epochs: int, head: str, target_accuracy: float
) -> tuple[float, float, str]:
    """Return seconds, accuracy and epoch at which the target is reached, or at the end.

    At the end, the accuracy is the best of all epochs.
    """
    words = ("benchmarks/keras_guide.py", *folders, str(epochs), head)
    lines = [json.loads(line) for line in measure.run_python(*words).splitlines()]
    for line in lines:
        if line["accuracy"] >= target_accuracy:
            break
    else:
        line = {**lines[-1], "accuracy": max(line["accuracy"] for line in lines)}
    return line["seconds"], line["accuracy"], str(line["epoch"])


def save_convolutions(path: Path) -> None:
    """Write AlexNet's restored convolutions as {layer/variable: array}."""
    from model.weights import named_weights, restore

    weights = named_weights.resolve("alexnet")
    values = restore.restore_checkpoint(weights.checkpoint).values
    np.savez(
        path,
        **{
            f"{layer}/{variable}": array
            for layer, variables in values.items()
            for variable, array in variables.items()
        },
    )


def run_pytorch(python: str, folders: list[str], weights: Path) -> tuple[float, float]:
    """Return seconds, process start included, and test accuracy."""
    script = Path(__file__).with_name("pytorch_features.py")
    start = time.perf_counter()
    printed = subprocess.run(
        [python, str(script), *folders, str(weights)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return time.perf_counter() - start, json.loads(printed)["accuracy"]


def main() -> None:
    """Print the table."""
    parser = measure.argument_parser(__doc__, rounds=3)
    parser.add_argument(
        "--epochs", type=int, default=10, help="epochs of the baseline (10)"
    )
    parser.add_argument(
        "--heads", default="pooling,flatten", help="comma-separated baselines"
    )
    parser.add_argument("--torch", help="Python with PyTorch and scikit-learn")
    options = parser.parse_args()
    rows = [["fold", "", "seconds", "best accuracy", "at epoch", "ratio to graft"]]
    heads = list(filter(None, options.heads.split(",")))
    ratios: dict[str, list[float]] = {
        name: [] for name in (*heads, *["PyTorch"] * bool(options.torch))
    }
    with tempfile.TemporaryDirectory() as scratch:
        records = f"{scratch}/records"
        measure.convert(options.folder, records)
        weights = Path(scratch) / "alexnet.npz"
        save_convolutions(weights)
        for number in range(options.rounds):
            fold = str(number % 5)
            split = ("pipeline.split", records, "--folds=5", f"--fold={fold}")
            measure.run_python("-m", *split)
            target = Path(scratch) / f"split{number}"
            folders = link_splits(options.folder, records, target)
            # A folder of runs per round, so that no features are cached yet.
            graft_s, accuracy = run_graft(records, f"{scratch}/runs{number}/run")
            rows.append([fold, "graft", f"{graft_s:.1f}", f"{accuracy:.4f}", "", "1.0"])
            for head, values in ratios.items():
                if head == "PyTorch":
                    seconds, best = run_pytorch(options.torch, folders, weights)
                    epoch = ""
                else:
                    seconds, best, epoch = run_keras(
                        folders, options.epochs, head, accuracy
                    )
                ratio = seconds / graft_s
                values.append(ratio)
                figures = (f"{seconds:.1f}", f"{best:.4f}", epoch, f"{ratio:.2f}")
                rows.append([fold, f"baseline: {head}", *figures])
    for head, values in ratios.items():
        median = f"{statistics.median(values):.2f}"
        rows.append(["median", f"baseline: {head}", "", "", "", median])
    measure.print_table("Complete job: train and evaluate", rows)


if __name__ == "__main__":
    main()
