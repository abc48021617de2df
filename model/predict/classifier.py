"""Load a run or a weight file as a classifier, and explain and draw its predictions."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.evaluation import grad_cam, run_evaluation, strangers
from model.loop import metrics
from model.networks import fast_graphs
from model.predict import photo_batches, similar_photos
from model.predict.output_formats import Prediction
from model.runs import finished_run, pictures, run_list
from pipeline.batches.input_spec import InputSpec
from pipeline.images import file_headers, opencv
from pipeline.records import stored_photo
from pipeline.records.manifest_row import ImageError, Row
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

_LONGEST_NAME = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A network, with what turns its logits into predictions.

    Photos are decoded with `resize_min` and `white_level`, as training photos were.
    """

    name: str  # of the run or of the weights
    model: Any  # keras.Model, float32: image -> logits
    spec: InputSpec
    class_names: Sequence[str]  # in label order
    temperature: float = 1.0  # divides logits for calibrated probabilities
    run: finished_run.FinishedRun | None = None  # None for a weight file
    stranger_scorer: strangers.Scorer | None = None  # None: photos have no score
    resize_min: int = file_headers.RESIZE_MIN
    white_level: int = 0

    def describe(self) -> str:
        """Return lines: name, classes or test accuracy, and missing stranger scores."""
        if self.run is not None:
            line = run_evaluation.describe(self.run)
            if self.stranger_scorer is None:
                line += (
                    "\nnote: photos that show no class are not recognised, because "
                    f"the run has no {strangers.FILE_NAME}. Train again to the end"
                )
            return line
        num_classes = len(self.class_names)
        return f"weights {self.name}: {num_classes} classes, not trained on your photos"

    def predict_step(self) -> Callable[[Any], tuple[np.ndarray, np.ndarray | None]]:
        """Return a function from images, as the model takes them, to predictions.

        Predictions are logits and stranger scores [num_photos]; None without a scorer.
        """
        scorer = self.stranger_scorer
        if scorer is None or self.run is None:
            step = fast_graphs.for_any_batch(fast_graphs.folded(self.model))
            return lambda images: (np.asarray(step(images)), None)
        embedder = similar_photos.build_embedder(self.run, self.model)
        both = fast_graphs.for_any_batch(fast_graphs.folded(embedder))

        def predict(images: Any) -> tuple[np.ndarray, np.ndarray]:
            features, logits = both(images)
            return np.asarray(logits), scorer.scores(features)

        return predict

    def probabilities(self, logits: Any) -> np.ndarray:
        """Return calibrated probabilities: float64 [num_photos, num_classes]."""
        scaled = np.asarray(logits, np.float64) / self.temperature
        return np.exp(metrics.log_softmax(scaled))

    def most_probable(
        self, probabilities: np.ndarray, top: int
    ) -> tuple[tuple[str, float], ...]:
        """Return names and probabilities of a photo's `top` classes, best first."""
        best = np.argsort(-probabilities, kind="stable")[:top]
        return tuple((self.class_names[n], float(probabilities[n])) for n in best)


def load_run(run_dir: str) -> Classifier:
    """Load a finished run."""
    run = run_list.read(run_dir)
    model, path = run.load_model(), run.directory / strangers.FILE_NAME
    scorer = None
    if path.exists():
        scorer = strangers.read(
            path,
            run=run.identity,
            num_classes=len(run.class_names),
            shape=similar_photos.head_input(run, model)[1].shape[1:],
        )
    return Classifier(
        name=run.directory.name,
        model=model,
        spec=run.spec,
        class_names=run.class_names,
        temperature=run.temperature,
        run=run,
        stranger_scorer=scorer,
        resize_min=run.resize_min,
        white_level=run.white_level,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Reasons for a prediction: where the network looked, and similar training photos.

    The overlay is uint8 [size_px, size_px, 3], RGB; None if no layer is a feature map.
    The most similar photo comes first.
    """

    overlay: np.ndarray | None = None
    similar: Sequence[similar_photos.SimilarPhoto] = ()


class Explainer:
    """Classify photos and explain the predictions."""

    def __init__(self, classifier: Classifier, data: str = "") -> None:
        """Prepare, and log what cannot be explained; DataError if nothing can be.

        Features of training photos are computed if they are not cached. `data` is the
        folder of the run's records if they were moved.
        """
        # Training photos to compare with; None if they cannot be read.
        self.index: similar_photos.SimilarityIndex | None = None
        notes: list[str] = []
        model, run = classifier.model, classifier.run
        self._scorer = classifier.stranger_scorer
        embedder: Any = None  # image -> (input of the head, logits)
        if run is None:
            notes.append("No similar training photos: only runs have them.")
        else:
            try:
                embedder = similar_photos.build_embedder(run, model)
                self.index = similar_photos.build_index(run, model, data)
            except (DataError, OSError) as error:
                notes.append(f"No similar training photos: {error}")
        self._has_heat = True
        try:
            self._step = fast_graphs.for_any_batch(
                grad_cam.HeatMaps(model, embedder.outputs[:1] if embedder else ())
            )
        except grad_cam.NoSpatialLayer as error:
            notes.insert(0, str(error))
            if self.index is None:
                raise DataError(" ".join(notes)) from error
            self._has_heat = False
            self._step = fast_graphs.for_any_batch(
                lambda images: embedder(images, training=False)[::-1]
            )
        for line in notes:
            command_line.note(line)

    def explain(
        self, images: np.ndarray, num_similar: int
    ) -> tuple[np.ndarray, np.ndarray | None, list[Explanation]]:
        """Classify photos and explain the most probable class of each.

        Images are uint8 [batch, size_px, size_px, 3], RGB, 0..255; each gets at most
        `num_similar` photos. Returns logits, float32 [batch, num_classes], stranger
        scores as Classifier.predict_step does, and the explanations.
        """
        outputs = [np.asarray(array) for array in self._step(np.float32(images))]
        overlays: list[np.ndarray | None] = [None] * len(images)
        if self._has_heat:
            overlays = list(map(grad_cam.overlay, images, outputs.pop(0)))
        logits, *embeddings = outputs
        similar: Sequence[Sequence[similar_photos.SimilarPhoto]] = [()] * len(images)
        if self.index is not None:
            similar = self.index.most_similar(embeddings[0], num_similar)
        explanations = [
            Explanation(overlay=overlay, similar=photos)
            for overlay, photos in zip(overlays, similar, strict=True)
        ]
        scores = self._scorer.scores(embeddings[0]) if self._scorer else None
        return np.asarray(logits, np.float32), scores, explanations

    def training_photo(self, row: Row) -> bytes:
        """Read a photo of the index: a whole JPEG or PNG, upright."""
        if self.index is None:
            raise DataError("There are no training photos.")
        return stored_photo.StoredPhotos(self.index.records.directory).image(row)


class ExplanationPictures:
    """Write one picture for each photo into a folder."""

    def __init__(self, folder: Path, explainer: Explainer, spec: InputSpec) -> None:
        """Make the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._explainer = explainer
        self._network_input = photo_batches.NetworkInput(spec)
        self._grey = np.full((spec.size_px, spec.size_px, 3), 128, np.uint8)
        self._count = 0
        self._unreadable: set[str] = set()

    def draw(
        self, prediction: Prediction, pixels: np.ndarray, explanation: Explanation
    ) -> Prediction:
        """Draw a picture; return the prediction with its picture and similar photos.

        `pixels` are the photo as the network sees it. A training photo whose record is
        damaged or missing is grey, and is logged once.
        """
        self._count += 1
        tiles, titles = [pixels], ["photo"]
        if explanation.overlay is not None:
            tiles.append(explanation.overlay)
            titles.append(f"{prediction.probability:.2f} {prediction.classes[0][0]}")
        for similar in explanation.similar:
            tiles.append(self._training_photo(similar.row))
            titles.append(f"{similar.similarity:.2f} {similar.row.class_name}")
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(prediction.photo).stem)
        stem = stem[:_LONGEST_NAME] or "photo"
        path = self._folder / f"{self._count:05d}-{stem}.png"
        with file_system.replacing(path) as partial:
            pictures.draw_grid(np.stack(tiles), np.arange(len(tiles)), titles, partial)
        return dataclasses.replace(
            prediction, picture=str(path), similar=explanation.similar
        )

    def _training_photo(self, row: Row) -> np.ndarray:
        try:
            pixels = opencv.decode_rgb(self._explainer.training_photo(row))
            return self._network_input.of_pixels(pixels)
        except (ImageError, DataError, OSError) as error:
            if row.path not in self._unreadable:
                self._unreadable.add(row.path)
                problem = f"{row.file} ({row.path}): {error}"
                command_line.note(f"an unreadable training photo is grey: {problem}")
            return self._grey
