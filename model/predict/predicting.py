"""Predict the classes of photos, with a picture of the reasons on request."""

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

NUM_SIMILAR = 5


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


def load_classifier(config: Config) -> classifier.Classifier:
    """Load the run or the weights that predict.

    Raises:
        DataError: the run is not as expected.
        errors.CheckpointError: the weights cannot be used.
    """
    if not config.ckpt:
        return classifier.load_run(config.run_dir)
    return classifier.load_weights(
        config.ckpt,
        arch=config.arch,
        overrides=config.overrides,
        labels=config.labels,
    )


def predict(
    config: Config, photo_classifier: classifier.Classifier | None = None
) -> Iterator[output_formats.Prediction]:
    """Yield one prediction for each photo, in their order.

    Args:
        config: settings of the prediction.
        photo_classifier: classifier that predicts; None to load it.

    Raises:
        DataError: the run is not as expected, or there is no photo.
        errors.CheckpointError: the weights cannot be used.
    """
    names, ignored_folder = config.photos, config.explain
    ignored: collections.Counter[str] = collections.Counter()
    count = sum(1 for _ in photo_files.find(names, ignored, ignored_folder))
    if not count:
        raise DataError(
            f"{', '.join(names)}: there are no photos. Expected photos or folders of "
            "photos."
        )
    photo_classifier = photo_classifier or load_classifier(config)
    predictor = _Predictor(config, photo_classifier)
    photos = photo_files.find(names, collections.Counter(), ignored_folder)
    with command_line.progress(count, "photo", "predict") as progress:
        for batch in photo_batches.read(
            photos,
            photo_classifier.spec,
            batch_size=min(config.batch_size, count),
            resize_min=photo_classifier.resize_min,
        ):
            yield from predictor.predict(batch)
            progress.update(len(batch.photos))
    for kind, number in ignored.items():
        command_line.log(f"ignored: {number} {kind}")


class _Predictor:
    """Predict batches of photos, with explanations on request."""

    def __init__(self, config: Config, photo_classifier: classifier.Classifier) -> None:
        self._config = config
        self._classifier = photo_classifier
        self._step = photo_classifier.predict_step()
        self._explainer: classifier.Explainer | None = None
        if config.explain:
            self._explainer = classifier.Explainer(photo_classifier, config.data)
            for line in self._explainer.notes:
                command_line.log(f"note: {line}")
            self._pictures = explanation_picture.Pictures(
                Path(config.explain), self._explainer, photo_classifier.spec
            )

    def predict(
        self, batch: photo_batches.PhotoBatch
    ) -> Iterator[output_formats.Prediction]:
        """Yield one prediction for each photo of a batch, readable or not."""
        readable = [
            photo
            for photo, problem in zip(batch.photos, batch.problems, strict=True)
            if not problem
        ]
        predictions = iter(self._predict(readable, batch.images) if readable else ())
        for photo, problem in zip(batch.photos, batch.problems, strict=True):
            if problem:
                yield output_formats.Prediction(photo=photo, problem=problem)
            else:
                yield next(predictions)

    def _predict(
        self, photos: Sequence[str], images: np.ndarray
    ) -> Iterator[output_formats.Prediction]:
        explanations: Sequence[classifier.Explanation] = ()
        if self._explainer is None:
            logits = self._step(images.astype(np.float32))
        else:
            logits, explanations = self._explainer.explain(images, NUM_SIMILAR)
        for number, row in enumerate(self._classifier.probabilities(logits)):
            classes = self._classifier.most_probable(row, self._config.top)
            prediction = output_formats.Prediction(
                photo=photos[number],
                classes=classes,
                unknown=classes[0][1] < self._config.unknown_below,
            )
            if explanations:
                picture = self._pictures.draw(
                    prediction.photo,
                    images[number],
                    f"{classes[0][1]:.2f} {classes[0][0]}",
                    explanations[number],
                )
                prediction = dataclasses.replace(
                    prediction, picture=picture, similar=explanations[number].similar
                )
            yield prediction
