"""Write the run folder: everything that a training leaves behind.

runs/20260101-120000-alexnet/
    checkpoints/       snapshots, present until training is complete
    config.json        every setting, versions, digests of data and weights
    ledger.json        which tensors were restored, which are new, which did not change
    metrics.jsonl      loss and accuracy, one line per epoch
    first_batch.png    photos of the first batch as the network receives them
    curves.png         losses and accuracies over the epochs
    tensorboard/       the same for TensorBoard
    model.keras        the weights with the lowest validation loss; loads in plain Keras
    labels.txt         class names in label order
    photos.json        SHA-256 of the photos used for training and validation
    ran_away.txt       why training ended early, if the loss became infinite or NaN
    calibration.json   temperature fitted on the validation split
    similar.csv        held-out photos that look like copies of training photos
    similar.json       the same, with the threshold of their similarity
    strangers.npz      class means and covariance, to score how strange a photo is
    comparison.json    networks of which this was the best, if there were several
    evaluation/        doubts.csv and doubts.json: labels that may be wrong; the other
                       files are written by evaluate.py
runs/latest            -> the newest run folder
"""

import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import re
import shutil
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.records import manifest
from pipeline.system import file_system, program_name
from pipeline.system.errors import DataError

if TYPE_CHECKING:
    from model.loop.training_loop import EpochResult
    from model.weights import restore

LATEST = "latest"
CONFIG_NAME = "config.json"
MODEL_NAME = "model.keras"
CHECKPOINTS = "checkpoints"  # exists until training is complete
REPEATS = "repeats.json"  # marks a folder of several runs
FOLD_RECORDS = "records"  # folder, beside the runs of folds, of their records
COMPARISON = "comparison.json"  # of networks
DIVERGED = "ran_away.txt"  # why training ended early
NEAR_COPIES = "similar.csv"  # for convert's --corrections
NEAR_COPIES_JSON = "similar.json"  # for evaluations


class RunError(DataError):
    """A run folder is missing, unfinished or belongs to other data."""


def versions() -> dict[str, str]:
    """Return the versions of Graft and the libraries that compute."""
    import keras
    import tensorflow as tf

    return {
        "graft": program_name.VERSION,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def digest_of(content: Any) -> str:
    """Return the SHA-256 of what JSON can hold."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shown(directory: Path) -> Path:
    """Resolve links of a path, and make it relative if it lies below this folder."""
    path, here = directory.resolve(), Path.cwd()
    is_copy = file_system.named(str(path)) != str(path)
    return path.relative_to(here) if here in path.parents and not is_copy else path


@contextlib.contextmanager
def reserved(run_dir: str, ckpt: str) -> Iterator[Path]:
    """Provide a `new_directory`, and remove it at the end if it is empty.

    With a default name it exists already, so that no other training takes this name.
    """
    while True:
        directory = new_directory(run_dir, ckpt)
        with contextlib.suppress(FileExistsError):
            if not run_dir:
                directory.mkdir(parents=True)
            break
    try:
        yield directory
    finally:
        with contextlib.suppress(OSError):
            directory.rmdir()


def new_directory(run_dir: str, ckpt: str) -> Path:
    """Return the folder for a new run, without creating it.

    `run_dir` is the requested one; "" for runs/<time>-<ckpt>, with -2 if this exists.
    """
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(ckpt).name.split(".")[0]) or "run"
    if not run_dir:
        name = f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{stem}"
        endings = itertools.chain([""], map("-{}".format, itertools.count(2)))
        return next(Path(name + e) for e in endings if not Path(name + e).exists())
    directory = Path(run_dir)
    if directory.name == LATEST:
        raise RunError(
            f"{directory}: this name is reserved for the link to the newest run. "
            "Choose another --run_dir."
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        problem = "already exists and is not an empty folder. Remove it"
        if (directory / CHECKPOINTS).exists():
            problem = (
                "the folder holds a stopped training. Continue it with "
                f"--resume={directory}, remove it"
            )
        raise RunError(f"{directory}: {problem}, or choose another --run_dir.")
    return directory


def cache_dir(directory: Path) -> Path:
    """Return the folder of feature caches, which all runs of a folder share.

    Runs of --seeds and --folds use the cache beside the folder of all of them.
    """
    return _whole(directory).parent / "cache"


def _whole(directory: Path) -> Path:
    """Return the folder of all runs of --seeds or --folds; else the run's own."""
    directory = directory.absolute()  # "." has no name of its own
    is_part = (directory.parent / REPEATS).exists()
    return directory.parent if is_part else directory


def is_run(directory: Path) -> bool:
    """Return whether a folder is a run, or holds the runs of --seeds or --folds."""
    return any((directory / name).exists() for name in (CONFIG_NAME, REPEATS))


def is_fold(directory: Path) -> bool:
    """Return whether a run is one of several folds."""
    is_part = (directory.absolute().parent / REPEATS).exists()
    return is_part and directory.name.startswith("fold-")


def check_records(
    run_directory: Path,
    manifest_digest: str,
    records: manifest.Manifest,
    *,
    source: str = "",
    advice: str = "",
) -> None:
    """Refuse records that are not exactly those that a run was trained on.

    `manifest_digest` is that of the run's records. `source` is what the user calls the
    records, by default their folder; `advice` is a sentence with another way out.
    """
    if records.digest != manifest_digest:
        message = (
            f"{source or records.directory}: these are not the records that run "
            f"{run_directory.name} was trained on: photos or their split have changed, "
            "so that test photos may have been used for training. Expected manifest "
            f"digest {manifest_digest[:12]}, found {records.digest[:12]}. Use the "
            f"run's own records, or train a new run on these. {advice}"
        )
        raise RunError(message.rstrip())


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run folder that is being written."""

    directory: Path
    # False in processes that leave writing to the chief; all methods do nothing there.
    writes: bool = True

    def start(self, config: dict[str, Any], class_names: Sequence[str]) -> None:
        """Create the folder with config.json and labels.txt."""
        if not self.writes:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        if any(self.directory.iterdir()):
            raise RunError(
                f"{self.directory}: another training has started here in the meantime. "
                "Choose another --run_dir."
            )
        self.write_json(CONFIG_NAME, config)
        self.write_text("labels.txt", "".join(f"{name}\n" for name in class_names))

    @property
    def identity(self) -> str:
        """SHA-256 of config.json, without the folder of the records: these may move."""
        config = json.loads((self.directory / CONFIG_NAME).read_bytes())
        del config["data"]["path"]
        return digest_of(config)

    def discard(self) -> None:
        """Remove the folder of a run that has nothing to show."""
        if self.writes:
            shutil.rmtree(self.directory, ignore_errors=True)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file of the folder atomically."""
        text = file_system.named(json.dumps(content, indent=2))
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the folder atomically."""
        if not self.writes:
            return
        with file_system.replacing(self.directory / name) as partial:
            # Names of classes may hold bytes of folder names that are not UTF-8.
            partial.write_bytes(text.encode("utf-8", "surrogateescape"))

    def write_csv(
        self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
    ) -> None:
        """Write a CSV file of the folder atomically."""
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(name, text.getvalue())

    def write_near_copies(self, result: dict[str, Any]) -> None:
        """Write similar.json, a result of near_copies.search, and similar.csv."""
        self.write_json(NEAR_COPIES_JSON, result)
        columns = ("path", "label", "note", "split", "similar_to", "similarity")
        rows = (
            photo | {"label": "skip", "note": f"similar to {photo['similar_to']}"}
            for photo in result["photos"]
        )
        self.write_csv(NEAR_COPIES, columns, rows)

    def write_metrics(self, results: "Sequence[EpochResult]") -> None:
        """Replace metrics.jsonl by one line for each result."""
        self.write_text("metrics.jsonl", "".join(map(_line, results)))

    def append_metrics(self, result: "EpochResult") -> None:
        """Append the line of an epoch to metrics.jsonl."""
        if self.writes:
            path = self.directory / "metrics.jsonl"
            file_system.refuse_link(path)
            with path.open("a", encoding="utf-8") as file:
                file.write(_line(result))

    def save_model(self, model: Any, metadata: dict[str, str]) -> None:
        """Write model.keras with metadata, a result of weight_file.describe.

        The comment of the archive is the identity of the run.
        """
        if not self.writes:
            return
        from model.weights import weight_file

        path = self.directory / MODEL_NAME
        with file_system.replacing(path, suffix=".partial.keras") as partial:
            model.save(partial)
            weight_file.mark_keras(partial, metadata)
            with zipfile.ZipFile(partial, "a") as file:
                file.comment = self.identity.encode()

    def point_latest(self) -> None:
        """Let the link `latest` in the parent folder point to this run.

        A run without a model gets the link too, as soon as it can be resumed. For a run
        of --seeds or --folds it points to the folder of all of them, and inside another
        run no link is made.
        """
        directory = _whole(self.directory)
        link = directory.parent / LATEST
        is_users = link.exists() and not link.is_symlink()
        if self.writes and not is_users and not is_run(directory.parent):
            try:
                with file_system.replacing(link) as partial:
                    partial.symlink_to(directory.name, target_is_directory=True)
            except OSError:  # a disk or system without links: see run_list.find
                link.unlink(missing_ok=True)

    def write_ledger(
        self,
        entries: "Sequence[restore.Entry]",
        metadata: dict[str, Any],
        before: dict[str, str],
        after: dict[str, str],
    ) -> None:
        """Write ledger.json with the entries of all tensors and variables.

        The SHA-256 of variables are those of the frozen ones `before` training and of
        all `after` it; `metadata` are facts about the weight file.
        """
        changed = sorted(name for name in before if before[name] != after.get(name))
        if changed:
            raise RuntimeError(f"frozen variables changed in training: {changed}")
        content = metadata | {
            "tensors": [dataclasses.asdict(entry) for entry in entries],
            "frozen": [
                {"variable": name, "sha256_before": digest, "sha256_after": after[name]}
                for name, digest in sorted(before.items())
            ],
        }
        self.write_json("ledger.json", content)


def _line(result: "EpochResult") -> str:
    return json.dumps(result.as_dict()) + "\n"
