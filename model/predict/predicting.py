"""Predict the classes of photos, with a picture of the reasons if asked for."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from model.predict import classifier, explanation_picture, output_formats, photo_batches
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
    top: int = output_formats.TOP
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
) -> Iterator[output_formats.Prediction]:
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
            self._pictures = explanation_picture.Pictures(
                Path(config.explain), self._explainer, chosen.spec
            )

    def of_batch(
        self, batch: photo_batches.PhotoBatch
    ) -> Iterator[output_formats.Prediction]:
        """One for each photo of the batch."""
        found = iter(self._of_images(batch) if len(batch.images) else ())
        for photo, problem in zip(batch.photos, batch.problems, strict=True):
            if problem:
                yield output_formats.Prediction(photo=photo, problem=problem)
            else:
                yield next(found)

    def _of_images(
        self, batch: photo_batches.PhotoBatch
    ) -> Iterator[output_formats.Prediction]:
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
            prediction = output_formats.Prediction(
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
