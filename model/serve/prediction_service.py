"""Classify single photos for many threads at the same time.

Photos are decoded by processes that may crash or hang. The network classifies one photo
after the other. On 2 cores, batches of waiting photos reached 0.76 to 0.81 of that
rate: all threads wait for a batch, and meanwhile nothing is decoded.
"""

import threading
from typing import NamedTuple

import numpy as np

from model.predict import photo_batches
from model.predict.classifier import Classifier, Explainer, Explanation
from model.serve.serve_settings import Config
from pipeline.images import isolated_decoder, opencv
from pipeline.records.manifest_row import ImageError
from pipeline.system import command_line
from pipeline.system.errors import DataError

NUM_SIMILAR = 6
THUMBNAIL_PX, LARGE_PX = 160, 1024  # sides of a training photo on the page


class ClassifiedPhoto(NamedTuple):
    """A photo, its probabilities, and the explanation of the most probable class."""

    view: np.ndarray  # uint8 [size_px, size_px, 3], RGB: what the network sees
    probabilities: np.ndarray  # float64 [num_classes], calibrated
    explanation: Explanation  # empty if not requested
    stranger_score: float | None = None  # as in output_formats.Prediction


class Service:
    """Classify photos from several threads at the same time."""

    def __init__(self, classifier: Classifier, config: Config) -> None:
        """Prepare, but start no process yet."""
        self.classifier = classifier
        self.explainer: Explainer | None = None  # None if nothing can be explained
        try:
            self.explainer = Explainer(classifier, config.data)
        except DataError as error:
            command_line.note(str(error))
        index = self.explainer.index if self.explainer else None
        self._rows = {row.sha256: row for row in index.rows} if index else {}
        self._network_input = photo_batches.NetworkInput(classifier.spec)
        self._decoders = isolated_decoder.Decoders(
            command_line.available_cpus(),
            timeout_s=config.decode_timeout_s,
            resize_min=classifier.resize_min,
            white_level=classifier.white_level,
            max_pixels=config.max_megapixels * 1_000_000,
        )
        self._step = classifier.predict_step()
        self._lock = threading.Lock()  # of the network

    def warm_up(self) -> None:
        """Start the processes and classify a photo, so that no visitor waits for it."""
        self._decoders.start()
        grey = opencv.page_jpeg(np.full((64, 64, 3), 128, np.uint8))
        try:
            self.classify(grey, explained=True)
            self.classify(grey, explained=False)
        except ImageError as error:
            raise DataError(
                f"A small grey photo cannot be decoded: {error}. Raise "
                "--decode_timeout_s, or free memory."
            ) from error

    def classify(self, data: bytes, *, explained: bool) -> ClassifiedPhoto:
        """Classify an image file, or raise ImageError; explain it if requested."""
        view = self._network_input(self._decoders.decode(data))
        explanation = Explanation()
        with self._lock:
            if explained and self.explainer is not None:
                logits, scores, (explanation,) = self.explainer.explain(
                    view[None], NUM_SIMILAR
                )
            else:
                logits, scores = self._step(np.float32(view[None]))
        return ClassifiedPhoto(
            view,
            self.classifier.probabilities(logits)[0],
            explanation,
            None if scores is None else float(scores[0]),
        )

    def close(self) -> None:
        """End the processes."""
        self._decoders.close()

    def thumbnail(self, sha256: str, side: int = THUMBNAIL_PX) -> bytes:
        """Return a small JPEG of the training photo of this SHA-256, or raise KeyError.

        Browsers cache it, and a number would stand for another photo in another run.
        """
        row, explainer = self._rows[sha256], self.explainer
        if explainer is None:
            raise KeyError(sha256)
        return opencv.thumbnail_jpeg(explainer.training_photo(row), side)
