"""Photos, or folders of them -> their most likely classes.

    python -m model.predict photo.jpg
    python -m model.predict --run_dir=runs/latest holiday/ --format=csv > holiday.csv
    python -m model.predict holiday/ --unknown_below=0.5 --explain=why/
    python -m model.predict --ckpt=FILE --labels=synset_words.txt photo.jpg

With a run, probabilities are calibrated on its validation photos; those of a weight
file are as they are. A photo is decoded, turned upright and cut as conversion and
evaluation do it.
"""

import collections
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
from model import answers, classifier, contact_sheet, photo_batches
from model.checkpoints import errors
from model.runs import run_records
from model.weights import preprocessing_overrides, pretrained_classifier
from pipeline.images import photo_files
from pipeline.system import command_line
from pipeline.system.errors import DataError

NEIGHBOURS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a prediction.

    Attributes:
        photos: files and folders.
        run_dir: the run.
        ckpt: name or path of weights to use in place of a run; "" for the run.
        arch: network that the weights belong to; "" to find it.
        labels: file of the weights' class names, one a line.
        overrides: of the weights' preprocessing.
        top: number of classes to tell.
        format: of the results, one of answers.FORMATS.
        unknown_below: the answer is "unknown" where the likeliest class is less
            probable, 0..1.
        explain: folder for pictures of where the network looked and of the training
            photos most like each photo; "" for none.
        batch_size: photos per call of the network.
    """

    photos: tuple[str, ...]
    run_dir: str = "runs/latest"
    ckpt: str = ""
    arch: str = ""
    labels: str = ""
    overrides: preprocessing_overrides.Overrides = preprocessing_overrides.AS_WEIGHTS
    top: int = answers.TOP
    format: str = "text"
    unknown_below: float = 0.0
    explain: str = ""
    data: str = ""
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.unknown_below <= 1:
            raise ValueError(f"--unknown_below={self.unknown_below}: expected 0 to 1")
        if self.data and not self.explain:
            raise ValueError("--data: expected --explain beside it")
        if not self.ckpt:
            pretrained_classifier.refuse_without_ckpt(
                arch=self.arch, labels=self.labels, overrides=self.overrides
            )
        elif self.data or self.run_dir != type(self).run_dir:
            name = "data" if self.data else "run_dir"
            raise ValueError(f"--ckpt: does not go together with --{name}")


def load(config: Config) -> classifier.Classifier:
    """Loads what answers.

    Raises:
        DataError: the run is not as it should be.
        errors.CheckpointError: the weights cannot be used.
    """
    if not config.ckpt:
        return classifier.of_run(config.run_dir)
    return classifier.of_weights(
        config.ckpt,
        arch=config.arch,
        overrides=config.overrides,
        labels=config.labels,
    )


def predict(
    config: Config, chosen: classifier.Classifier | None = None
) -> Iterator[answers.Prediction]:
    """Predicts as configured; one answer per photo, in their order.

    Args:
        config: of the prediction.
        chosen: what answers; None to load it.

    Raises:
        DataError: the run is not as it should be, or there is no photo.
        errors.CheckpointError: the weights cannot be used.
    """
    names, own = config.photos, config.explain
    count = sum(1 for _ in photo_files.find(names, collections.Counter(), own))
    if not count:
        raise DataError(
            f"{', '.join(names)}: no files there; expected photos, or folders of them"
        )
    ignored: collections.Counter[str] = collections.Counter()
    chosen = chosen or load(config)
    answering = _Answering(config, chosen)
    photos = photo_files.find(names, ignored, own)
    with command_line.progress(count, "photo", "predict") as progress:
        for batch in photo_batches.read(
            photos,
            chosen.spec,
            batch_size=min(config.batch_size, count),
            resize_min=chosen.resize_min,
        ):
            yield from answering.of_batch(batch)
            progress.update(len(batch.photos))
    for kind, number in ignored.items():
        command_line.log(f"ignored: {number} {kind}")


class _Answering:
    """Batches of photos -> predictions, with explanations if they are asked for."""

    def __init__(self, config: Config, chosen: classifier.Classifier) -> None:
        self._config = config
        self._chosen = chosen
        self._step = chosen.predict_step()
        self._explainer: classifier.Explainer | None = None
        if config.explain:
            self._explainer = classifier.Explainer(chosen, config.data)
            for line in self._explainer.missing:
                command_line.log(f"note: {line}")
            self._pictures = contact_sheet.Pictures(
                Path(config.explain), self._explainer, chosen.spec
            )

    def of_batch(self, batch: photo_batches.PhotoBatch) -> Iterator[answers.Prediction]:
        """One for each photo of the batch."""
        found = iter(self._of_images(batch) if len(batch.images) else ())
        for photo, problem in zip(batch.photos, batch.problems, strict=True):
            if problem:
                yield answers.Prediction(photo=photo, problem=problem)
            else:
                yield next(found)

    def _of_images(
        self, batch: photo_batches.PhotoBatch
    ) -> Iterator[answers.Prediction]:
        readable = [
            photo
            for photo, problem in zip(batch.photos, batch.problems, strict=True)
            if not problem
        ]
        explanations: Sequence[classifier.Explanation] = ()
        if self._explainer is None:
            logits = self._step(batch.images.astype(np.float32))
        else:
            logits, seen = self._explainer.classify(batch.images)
            explanations = self._explainer.explain(seen, range(len(logits)), NEIGHBOURS)
        for number, shares in enumerate(self._chosen.probabilities(logits)):
            classes = self._chosen.likeliest(shares, self._config.top)
            prediction = answers.Prediction(
                photo=readable[number],
                classes=classes,
                unknown=classes[0][1] < self._config.unknown_below,
            )
            if explanations:
                why = explanations[number]
                picture = self._pictures.draw(
                    prediction.photo,
                    batch.images[number],
                    f"{classes[0][1]:.2f} {classes[0][0]}",
                    why,
                )
                prediction = dataclasses.replace(
                    prediction, picture=picture, nearest=why.nearest
                )
            yield prediction


def define_flags() -> None:
    """Declares the command's flags; defaults are those of Config."""
    default = Config(photos=())
    flags.DEFINE_string("run_dir", default.run_dir, "Folder of the run.")
    pretrained_classifier.define_flags()
    flags.adopt_module_key_flags(pretrained_classifier)  # so that --help shows them
    answers.define_flags()
    flags.adopt_module_key_flags(answers)  # so that --help shows them
    flags.DEFINE_enum(
        "format",
        default.format,
        answers.FORMATS,
        "Of the results: text for people; a table; or an object of JSON a line.",
    )
    flags.DEFINE_string(
        "explain",
        default.explain,
        "Folder for a picture of each photo: where the network looked, and the "
        "training photos that it finds most alike.",
    )
    flags.DEFINE_string("data", default.data, run_records.HELP)
    flags.DEFINE_integer(
        "batch_size",
        default.batch_size,
        "Photos per step.",
        lower_bound=1,
        upper_bound=1 << 12,
    )


def main(argv: Sequence[str]) -> None:
    """Predicts the photos named on the command line."""
    if len(argv) < 2:
        raise app.UsageError("expected photos: python -m model.predict photo.jpg")
    config = command_line.config_from_flags(
        Config, photos=tuple(argv[1:]), overrides=preprocessing_overrides.from_flags()
    )
    chosen = load(config)
    header, written = answers.writer(
        config.format,
        top=min(config.top, len(chosen.class_names)),
        neighbours_each=NEIGHBOURS if config.explain else 0,
    )
    raw = config.format != "text" and not sys.stdout.isatty()
    _write(header, raw=raw)
    count, num_bad, first_bad = 0, 0, ""
    for prediction in predict(config, chosen):
        count += 1
        if prediction.problem:
            num_bad += 1
            first_bad = first_bad or prediction.photo
        _write(written(prediction), raw=raw)
    if num_bad:
        raise DataError(
            f"{num_bad} of {count} photos could not be read, the first: {first_bad}"
        )


def _write(text: str, *, raw: bool) -> None:
    """Results; for programs as they are, for people without a terminal's commands."""
    sys.stdout.write(text if raw else command_line.shown(text))


if __name__ == "__main__":
    define_flags()
    command_line.run(main, DataError, errors.CheckpointError)
