"""A run folder, or a weight file as it is -> an honest accuracy.

    python evaluate.py
    python evaluate.py --run_dir=runs/latest --split=test --min_accuracy=0.9
    python evaluate.py --ckpt=FILE --data=FOLDER --labels=synset_words.txt

Judges the newest run on the photos that neither training nor the choice of the best
epoch has seen, prints the figures and writes them to the run's evaluation folder. With
--ckpt it judges a pretrained network without any training.
"""

import pipeline.quiet  # noqa: F401

# isort: split
import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from model import inputs, judge, network, pretrained, run, zoo
from model.checkpoints import errors
from pipeline import command, convert, manifest, schema

_SHOWN_ERRORS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of an evaluation.

    Attributes:
        run_dir: the run.
        ckpt: name or path of weights to judge in place of a run; "" for the run.
        arch: network that the weights belong to; "" to find it.
        labels: file of the weights' class names, one a line.
        overrides: of the weights' preprocessing.
        data: folder of records, or of class folders of photos; "" for the records that
            the run was trained on.
        another_dataset: the records are others than the run's, on purpose.
        split: which part of them.
        batch_size: photos per call of the network.
        min_accuracy: below this top-1 accuracy the command fails, 0..1.
    """

    run_dir: str = "runs/latest"
    ckpt: str = ""
    arch: str = ""
    labels: str = ""
    overrides: inputs.Overrides = inputs.AS_WEIGHTS
    data: str = ""
    another_dataset: bool = False
    split: str = "test"
    batch_size: int = 64
    min_accuracy: float = 0.0

    def __post_init__(self) -> None:
        if self.ckpt and not self.data:
            raise ValueError("--ckpt: expected --data too, a folder to judge it on")
        if not 0 <= self.min_accuracy <= 1:
            raise ValueError(f"--min_accuracy={self.min_accuracy}: expected 0 to 1")


class TooInaccurate(schema.DataError):
    """The gate that --min_accuracy sets is not passed."""


def evaluate(config: Config) -> dict[str, Any]:
    """Evaluates as configured; returns what evaluation/<split>.json holds.

    Raises:
        schema.DataError: run or records are not as they should be, or not each other's.
    """
    if config.ckpt:
        return _evaluate_pretrained(config)
    finished = run.read(config.run_dir)
    with _records(config.data or finished.config["data"]["path"]) as found:
        return _evaluate_run(config, finished, found)


@contextlib.contextmanager
def _records(data: str) -> Iterator[manifest.Manifest]:
    """Records; those of a folder of photos are made for the time being."""
    folder = Path(data)
    if not folder.is_dir() or (folder / manifest.HEAD_NAME).exists():
        yield manifest.read(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        config = convert.Config(source=data, out=f"{scratch}/records")
        found = convert.convert(config).manifest
        for row in found.rows:
            if not row.taken:
                command.log(f"left out: {row.path}: {row.reason}")
        yield found


def _evaluate_run(
    config: Config, finished: run.Finished, found: manifest.Manifest
) -> dict[str, Any]:
    start = time.perf_counter()
    _check_data(finished, found, config.split, another=config.another_dataset)
    manifest.check_files(found)
    rows = found.taken(*([] if config.split == "all" else [config.split]))
    seen = len(finished.seen_photos() & {row.sha256 for row in rows})
    if seen and config.min_accuracy:
        raise schema.DataError(
            f"--min_accuracy: {finished.directory.name} has trained on {seen} of these "
            f"{len(rows)} photos, so their accuracy is no gate; expected the test "
            "split, or other photos"
        )
    judgement = judge.judge(
        finished.load_model(),
        found,
        "" if config.split == "all" else config.split,
        finished.spec,
        batch_size=config.batch_size,
        temperature=finished.temperature,
    )
    figures = {
        "run": finished.directory.name,
        "split": config.split,
        **judgement.figures(),
        "photos_seen": seen,
        "data": {"path": str(found.directory), "manifest_digest": found.digest},
        "model_sha256": finished.model_digest(),
        "seconds": time.perf_counter() - start,
        "versions": run.versions(),
    }
    folder = finished.directory / "evaluation"
    folder.mkdir(exist_ok=True)
    name = config.split
    if found.digest != finished.config["data"]["manifest_digest"]:
        name += f"-{found.digest[:8]}"
    with run.replacing(folder / f"{name}.npz") as partial:
        judgement.save_examples(partial)
    with run.replacing(folder / f"{name}.json") as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    figures["written"] = str(folder / f"{name}.json")
    return figures


def _evaluate_pretrained(config: Config) -> dict[str, Any]:
    start = time.perf_counter()
    weights = pretrained.load(
        config.ckpt,
        arch=config.arch,
        overrides=config.overrides,
        labels=config.labels,
    )
    with _records(config.data) as found:
        names = found.class_names
        if not config.labels and len(names) == len(weights.class_names):
            weights = dataclasses.replace(weights, class_names=names)
            command.log(
                "no --labels: the network's classes are taken to be those of the data, "
                f"in this order: {', '.join(names)}"
            )
        # Before the work, not after it.
        label_of_each = pretrained.label_of_each(names, weights.class_names)
        judgement = judge.judge(
            weights.model,
            found,
            "" if config.split == "all" else config.split,
            weights.spec,
            batch_size=config.batch_size,
            temperature=1.0,
            class_names=weights.class_names,
        )
    judgement = dataclasses.replace(judgement, labels=label_of_each[judgement.labels])
    return {
        "run": config.ckpt,
        "split": config.split,
        **judgement.figures(),
        "seconds": time.perf_counter() - start,
        "preprocessing": weights.spec.source,
    }


def _check_data(
    finished: run.Finished, found: manifest.Manifest, split: str, *, another: bool
) -> None:
    """Refuses records that are not those of the run."""
    expected = finished.config["data"]["manifest_digest"]
    if found.digest == expected:
        return
    if not another:
        raise schema.DataError(
            f"{found.directory}: manifest digest {found.digest[:12]}, but the run "
            f"{finished.directory.name} was trained on {expected[:12]}: photos or "
            "split have changed since, and test photos may have been trained on. Train "
            "again, or pass --another_dataset if these are other photos on purpose"
        )
    if tuple(found.class_names) != finished.class_names:
        raise schema.DataError(
            f"{found.directory}: classes {', '.join(found.class_names)}; the run knows "
            f"{', '.join(finished.class_names)}: same names in the same order expected"
        )
    rows = found.taken(*([] if split == "all" else [split]))
    seen = finished.seen_photos() & {row.sha256 for row in rows}
    if seen:
        raise schema.DataError(
            f"{found.directory}: {finished.directory.name} has trained on {len(seen)} "
            f"of these {len(rows)} photos; expected others, or the run's own records"
        )


def report(figures: dict[str, Any]) -> str:
    """The figures as text."""
    low, high = figures["accuracy_ci95"]
    classes = len(figures["class_names"])
    top5 = (
        f"{figures['top5_accuracy']:.4f}" if classes > 5 else "- (5 classes or fewer)"
    )
    seen = figures.get("photos_seen")
    lines = [
        f"{figures['run']}, {figures['split']} split, "
        f"{figures['num_examples']} photos"
        + (f", {seen} seen in training: no measure of new ones" if seen else ""),
        "",
        f"top-1 accuracy  {figures['accuracy']:.4f}   95 % interval "
        f"{low:.4f} to {high:.4f}",
        f"top-5 accuracy  {top5}",
        f"always answering the largest class: {figures['largest_class_share']:.4f}",
        "",
        *_class_table(figures),
        "",
        *_confusion_table(figures),
    ]
    errors = figures["errors"]
    if errors:
        lines += ["", f"the surest of {len(errors)} mistakes:"]
        lines += [
            f"  {error['probability']:.3f}  {error['true']} taken for "
            f"{error['predicted']}: {error['path']}"
            for error in errors[:_SHOWN_ERRORS]
        ]
    if "written" in figures:
        lines += ["", f"written: {figures['written']}"]
    return "\n".join(lines)


def _class_table(figures: dict[str, Any]) -> list[str]:
    rows = figures["per_class"]
    width = max(map(len, ("class", *(row["class_name"] for row in rows))))
    lines = [
        f"{'class':{width}} {'precision':>9} {'recall':>7} {'f1':>7} {'photos':>7}"
    ]
    for row in rows:
        values = [row[name] for name in ("precision", "recall", "f1")]
        cells = ["-" if value is None else f"{value:.3f}" for value in values]
        lines.append(
            f"{row['class_name']:{width}} {cells[0]:>9} {cells[1]:>7} {cells[2]:>7} "
            f"{row['support']:>7}"
        )
    return lines


def _confusion_table(figures: dict[str, Any]) -> list[str]:
    """True classes down, predicted across; of many classes only the worst mix-ups."""
    names, confusion = figures["class_names"], figures["confusion_matrix"]
    if len(names) > 15:
        mixed = [
            (count, true, predicted)
            for true, row in enumerate(confusion)
            for predicted, count in enumerate(row)
            if count and true != predicted
        ]
        mixed.sort(reverse=True)
        return ["most frequent confusions:"] + [
            f"  {count:5}  {names[true]} taken for {names[predicted]}"
            for count, true, predicted in mixed[:10]
        ]
    corner = "true, predicted:"
    width = max(map(len, (corner, *names)))
    widths = [max(6, len(name)) for name in names]
    header = " ".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))
    lines = [f"{corner:{width}} {header}"]
    for name, row in zip(names, confusion, strict=True):
        cells = " ".join(f"{count:>{w}}" for count, w in zip(row, widths, strict=True))
        lines.append(f"{name:{width}} {cells}")
    return lines


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config()
    flags.DEFINE_string("run_dir", default.run_dir, "Folder of the run.")
    flags.DEFINE_string(
        "ckpt",
        default.ckpt,
        f"Weights to judge as they are, in place of a run: {', '.join(zoo.NAMES)}, or "
        "the path of a weight file.",
    )
    flags.DEFINE_string(
        "arch",
        default.arch,
        "Network that the weights belong to: "
        f"{', '.join(network.NETWORKS)}; by default found by names and shapes.",
    )
    flags.DEFINE_string(
        "labels",
        default.labels,
        "File of the class names of --ckpt, one a line, as synset_words.txt.",
    )
    inputs.define_flags()
    flags.adopt_module_key_flags(inputs)  # so that --help shows them
    flags.DEFINE_string(
        "data",
        default.data,
        "Folder of records, or of one folder of photos per class; by default the "
        "records of the run.",
    )
    flags.DEFINE_bool(
        "another_dataset",
        default.another_dataset,
        "The records are others than the run's, on purpose; class names must agree.",
    )
    flags.DEFINE_enum(
        "split",
        default.split,
        [*manifest.SPLITS, "all"],
        "Part of the records to judge on; only test is unseen. With --ckpt, or a "
        "folder of photos, all is the default.",
    )
    flags.DEFINE_integer(
        "batch_size",
        default.batch_size,
        "Photos per step.",
        lower_bound=1,
        upper_bound=1 << 12,
    )
    flags.DEFINE_float(
        "min_accuracy",
        default.min_accuracy,
        "Fail with exit code 2 below this top-1 accuracy, 0..1.",
        lower_bound=0,
        upper_bound=1,
    )


def _split() -> str:
    """What was asked for, or what suits the data."""
    values = flags.FLAGS.flag_values_dict()
    folder = values["data"] and not (Path(values["data"]) / manifest.HEAD_NAME).exists()
    asked = flags.FLAGS["split"].present
    return "all" if (values["ckpt"] or folder) and not asked else values["split"]


def main(argv: Sequence[str]) -> None:
    """Evaluates as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; flags begin with --")
    config = command.config_from_flags(
        Config, overrides=inputs.from_flags(), split=_split()
    )
    figures = evaluate(config)
    command.say(report(figures))
    if figures["accuracy"] < config.min_accuracy:
        raise TooInaccurate(
            f"{figures['run']}: accuracy {figures['accuracy']:.6g} on {config.split}, "
            f"expected --min_accuracy={config.min_accuracy:.6g} or more"
        )


if __name__ == "__main__":
    define_flags()
    command.run(main, schema.DataError, errors.CheckpointError)
