"""Predict the classes of photos, with a picture of the reasons on request."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from model.predict import classifier, explanation_picture, output_formats, photo_batches
from model.predict.predict_settings import Config
from pipeline.images import photo_files
from pipeline.system import command_line
from pipeline.system.errors import DataError

NUM_SIMILAR = 5


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
