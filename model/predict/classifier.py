"""A run, or a weight file as it is -> what says of which class photos are, and why."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import grad_cam
from model.loop import metrics, traced_function, training_loop
from model.predict import similar_photos
from model.runs import finished_run
from model.weights import preprocessing_overrides, pretrained_classifier
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest, stored_photo
from pipeline.sources import source_settings
from pipeline.system.errors import DataError

UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network and how to read its answers.

    Attributes:
        name: of the run, or of the weights.
        model: keras.Model, float32: image -> logits.
        spec: of its input.
        class_names: in label order.
        temperature: that logits are divided by for calibrated probabilities.
        finished: the run; None for a weight file.
        resize_min: longest short side of a photo, in pixels, that is not shrunk before
            the network's window is cut, as its training photos were; 0: no limit.
    """

    name: str
    model: Any
    spec: InputSpec
    class_names: Sequence[str]
    temperature: float = 1.0
    finished: finished_run.FinishedRun | None = None
    resize_min: int = source_settings.RESIZE_MIN

    def predict_step(self) -> Callable[[Any], Any]:
        """Images, float32 [batch, size_px, size_px, 3], 0..255 -> logits."""
        return training_loop.make_predict_step(self.model)

    def probabilities(self, logits: Any) -> np.ndarray:
        """Calibrated probabilities.

        Args:
            logits: float [num_photos, num_classes].

        Returns:
            float64, of the same shape; rows sum to 1.
        """
        scaled = np.asarray(logits, np.float64) / self.temperature
        return np.exp(metrics.log_softmax(scaled))

    def likeliest(
        self, probabilities: np.ndarray, top: int
    ) -> tuple[tuple[str, float], ...]:
        """Names and probabilities of the likeliest classes, the first the likeliest.

        Args:
            probabilities: float [num_classes], of one photo.
            top: how many, at least 1.
        """
        best = np.argsort(-probabilities, kind="stable")[:top]
        return tuple((self.class_names[n], float(probabilities[n])) for n in best)


def of_run(run_dir: str) -> Classifier:
    """Loads a run.

    Raises:
        run.RunError: it is missing, unfinished or damaged.
    """
    finished = finished_run.read(run_dir)
    return Classifier(
        name=finished.directory.name,
        model=finished.load_model(),
        spec=finished.spec,
        class_names=finished.class_names,
        temperature=finished.temperature,
        finished=finished,
        resize_min=finished.resize_min,
    )


def of_weights(
    ckpt: str, *, arch: str, overrides: preprocessing_overrides.Overrides, labels: str
) -> Classifier:
    """Loads weights as they are; see pretrained.load.

    Raises:
        errors.CheckpointError: the weights cannot be used.
    """
    weights = pretrained_classifier.load(
        ckpt, arch=arch, overrides=overrides, labels=labels
    )
    return Classifier(
        name=Path(ckpt).name,
        model=weights.model,
        spec=weights.spec,
        class_names=weights.class_names,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a network says what it says of a photo.

    Attributes:
        overlay: uint8 [size_px, size_px, 3], RGB: where it looked; None if its layers
            do not keep places apart.
        nearest: the training photos that it finds most alike, the likest first.
    """

    overlay: np.ndarray | None
    nearest: Sequence[similar_photos.Neighbour] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What an Explainer keeps of photos that it has classified.

    Attributes:
        images: uint8 [batch, size_px, size_px, 3].
        heat: of explain.grad_cam for the likeliest classes; None without.
        embeddings: what the head sees, float [batch, ...]; None if not needed.
    """

    images: np.ndarray
    heat: np.ndarray | None
    embeddings: np.ndarray | None


class Explainer:
    """A classifier that can say why.

    Attributes:
        index: of the training photos; None if they are not to be had.
        missing: what is not explained, and why; one line each.
    """

    def __init__(self, classifier: Classifier, data: str = "") -> None:
        """Prepares; the features of training photos are computed if none are kept.

        Args:
            classifier: to be explained.
            data: folder of a run's records, if they were moved; "" otherwise.

        Raises:
            DataError: nothing can be explained.
        """
        self.index: similar_photos.Index | None = None
        self.missing: list[str] = []
        model, finished = classifier.model, classifier.finished
        if finished is None:
            self.missing.append("no nearest training photos: a weight file has none")
        else:
            try:
                self.index = similar_photos.build(finished, model, data)
            except (DataError, OSError) as error:
                self.missing.append(f"no nearest training photos: {error}")
        both: Any = None  # what the head sees, and logits
        if self.index is not None and finished is not None:
            both = similar_photos.embedder(finished, model)
        self._has_heat = True
        try:
            self._step = grad_cam.with_answer(model, both.outputs[:1] if both else ())
        except grad_cam.NoSpatialLayer as error:
            self.missing.insert(0, str(error))
            if both is None:
                raise DataError("; ".join(self.missing)) from error
            self._has_heat = False
            self._step = traced_function.for_any_batch(
                lambda images: both(images, training=False)[::-1]
            )

    def classify(self, images: np.ndarray) -> tuple[np.ndarray, "Seen"]:
        """What the network says, and what it saw.

        Args:
            images: uint8 [batch, size_px, size_px, 3], RGB, 0..255.

        Returns:
            The logits, float32 [batch, num_classes], and what `explain` needs.
        """
        found = [np.asarray(one) for one in self._step(images.astype(np.float32))]
        heat = found.pop(0) if self._has_heat else None
        logits, *embeddings = found
        seen = Seen(
            images=images, heat=heat, embeddings=embeddings[0] if embeddings else None
        )
        return np.asarray(logits, np.float32), seen

    def explain(self, seen: "Seen", which: Sequence[int], k: int) -> list[Explanation]:
        """Why it says that a photo is most likely of a class.

        Args:
            seen: of `classify`.
            which: of its photos.
            k: training photos to name for each.
        """
        overlays: list[np.ndarray | None] = [None] * len(which)
        if seen.heat is not None:
            overlays = [grad_cam.overlay(seen.images[n], seen.heat[n]) for n in which]
        nearest: Sequence[Sequence[similar_photos.Neighbour]] = [()] * len(which)
        if self.index is not None and seen.embeddings is not None:
            nearest = self.index.nearest(seen.embeddings[list(which)], k)
        return [
            Explanation(overlay=overlay, nearest=near)
            for overlay, near in zip(overlays, nearest, strict=True)
        ]

    def training_photo(self, row: manifest.Row) -> bytes:
        """The encoded image of a training photo, JPEG or PNG, upright.

        Raises:
            DataError: its record is damaged, or not that of the manifest.
            OSError: it is gone.
        """
        if self.index is None:
            raise DataError("there are no training photos")
        photos = stored_photo.StoredPhotos(self.index.found.directory)
        return photos.image(row)
