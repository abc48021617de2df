"""Run a model over a split: every photo once in each view, in float32."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from model.evaluation import test_time_augmentation
from model.evaluation.predictions import Predictions
from model.loop import traced_function, training_loop
from model.networks import head
from model.weights import pretrained_classifier
from pipeline.batches import dataset
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.system import command_line
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Options of an evaluation.

    Attributes:
        batch_size: number of photos in one call of the network.
        tta: views of each photo, one of `test_time_augmentation.CHOICES`.
        num_features: number of photos, evenly spread over the split, whose final-layer
            inputs are recorded; 0 for none. Needs a network with the head of a run.
    """

    batch_size: int = 64
    tta: str = test_time_augmentation.NONE
    num_features: int = 0


DEFAULT = EvaluationOptions()


def evaluate_split(
    model: Any,
    records: manifest.Manifest,
    split: str,
    spec: InputSpec,
    options: EvaluationOptions = DEFAULT,
    *,
    class_names: Sequence[str] = (),
) -> Predictions:
    """Predict every photo of a split; return predictions with temperature 1.

    `class_names` are those of the model, by default those of the data set. The labels
    returned are the data set's in either case.

    Raises:
        DataError: the split is empty, or its classes are not the model's.
    """
    class_names = class_names or records.class_names
    _check_num_classes(model, records, len(class_names))
    name = "" if split == "all" else split
    images = dataset.Evaluation(records, name, spec, batch_size=options.batch_size)
    rows, sizes = images.images.rows, images.images.sizes
    if not rows:
        raise DataError(
            f"{records.directory}: the {name or 'whole'} split has no photos. Make a "
            f"new split with: python -m pipeline.split {records.directory}"
        )
    views = test_time_augmentation.views_of(options.tta, sizes, spec)
    averaged = test_time_augmentation.AveragedLogits(
        len(views), (len(rows), len(class_names))
    )
    recorder = FeatureRecorder(model, len(rows), options.num_features)
    labels = np.full(len(rows), -1, np.int64)
    with command_line.progress(len(rows) * len(views), "photo", split) as progress:
        for view in views:
            for batch in images.seen_by(view):
                numbers = batch["row"].numpy()
                averaged.add(numbers, recorder.logits(numbers, batch["image"]))
                labels[numbers] = batch["label"].numpy()
                progress.update(len(numbers))
            recorder.stop_recording()
    return Predictions(
        rows=rows,
        labels=labels,
        logits=averaged.logits(),
        class_names=class_names,
        tta=options.tta,
        feature_examples=recorder.examples,
        features=recorder.features,
    )


def _check_num_classes(
    model: Any, records: manifest.Manifest, num_classes: int
) -> None:
    if (num_outputs := model.output.shape[-1]) != num_classes:
        raise DataError(
            f"{records.directory}: the records have {len(records.class_names)} "
            f"classes, but the network has {num_outputs}. Evaluate it on its own "
            f"records."
        )


class FeatureRecorder:
    """Computes logits, and records the final layer's inputs for some photos.

    Attributes:
        examples: int64 [num_features], indices of the photos, evenly spread.
        features: float32 [num_features, size]; None if there are none to record.
    """

    def __init__(self, model: Any, num_photos: int, num_features: int) -> None:
        """Prepares the graph to record `num_features` of the photos; 0 for none."""
        self._predict = training_loop.make_predict_step(model)
        count = min(num_features, num_photos)
        self.examples = np.rint(np.linspace(0, num_photos - 1, count)).astype(np.int64)
        self.features: np.ndarray | None = None
        self._features_and_logits: Any = None
        if count:
            final_input = model.get_layer(head.FINAL_LAYER).input
            both = keras.Model(model.input, [final_input, model.output])
            self._features_and_logits = traced_function.for_any_batch(
                lambda image: both(image, training=False)
            )
            self.features = np.zeros((count, final_input.shape[-1]), np.float32)

    def stop_recording(self) -> None:
        """Compute logits only from now on: features are those of the first view."""
        self._features_and_logits = None

    def logits(self, numbers: np.ndarray, images: Any) -> np.ndarray:
        """Return the logits of a batch, float32 [batch, num_classes].

        Args:
            numbers: int [batch], indices of the photos; each at most once.
            images: uint8 [batch, size_px, size_px, 3], RGB, 0..255.
        """
        images = tf.cast(images, tf.float32)
        if self._features_and_logits is None or self.features is None:
            return np.asarray(self._predict(images))
        features, logits = self._features_and_logits(images)
        common, in_batch, in_examples = np.intersect1d(
            numbers, self.examples, assume_unique=True, return_indices=True
        )
        if len(common):
            self.features[in_examples] = features.numpy()[in_batch]
        return np.asarray(tf.cast(logits, tf.float32))


def evaluate_weights(
    weights: pretrained_classifier.PretrainedClassifier,
    records: manifest.Manifest,
    split: str,
    options: EvaluationOptions,
    *,
    has_class_names: bool,
) -> dict[str, Any]:
    """Evaluate a pretrained network without training it.

    If the user has not named the network's classes (`has_class_names`), and it has as
    many as the data set, they are assumed to be the same.

    Returns:
        The figures of a run's evaluation, as far as they exist.

    Raises:
        DataError: the split is empty.
        errors.MismatchedCheckpoint: the network does not know a class of the data set.
    """
    start = time.perf_counter()
    names, class_names = records.class_names, weights.class_names
    if not has_class_names and len(names) == len(class_names):
        class_names = names
        command_line.log(
            "--labels was not given: the network's classes are assumed to be those of "
            f"the data, in this order: {', '.join(names)}"
        )
    # Unknown classes are an error before the work, not after it.
    label_of_each = pretrained_classifier.match_class_names(names, class_names)
    predictions = evaluate_split(
        weights.model, records, split, weights.spec, options, class_names=class_names
    )
    labels = label_of_each[predictions.labels]
    predictions = dataclasses.replace(predictions, labels=labels)
    return {
        "run": weights.name,
        "split": split,
        **predictions.figures(),
        "seconds": time.perf_counter() - start,
        "preprocessing": weights.spec.source,
    }
