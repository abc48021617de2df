"""Draw what a network saw, where it looked, and the most similar training photos."""

import dataclasses
import re
from pathlib import Path

import numpy as np

from model.predict import classifier, photo_batches
from model.predict.output_formats import Prediction
from model.runs import pictures
from pipeline.batches.input_spec import InputSpec
from pipeline.images import opencv
from pipeline.records.manifest_row import ImageError, Row
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

_LONGEST_NAME = 60


class Pictures:
    """Write one picture for each photo into a folder."""

    def __init__(
        self, folder: Path, explainer: classifier.Explainer, spec: InputSpec
    ) -> None:
        """Make the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._explainer = explainer
        self._network_input = photo_batches.NetworkInput(spec)
        self._grey = np.full((spec.size_px, spec.size_px, 3), 128, np.uint8)
        self._count = 0
        self._unreadable: set[str] = set()

    def draw(
        self,
        prediction: Prediction,
        pixels: np.ndarray,
        explanation: classifier.Explanation,
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
