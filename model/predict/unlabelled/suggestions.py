"""Choose the photos that are most worth labelling, and write a page of them.

They are chosen one by one: each time the photo with the largest product of its
uncertainty (1 minus the difference of its two largest probabilities) and its squared
distance, in the network's features, from the nearest photo chosen before.
benchmarks/suggestions.py compares them with random photos.
"""

import collections
import dataclasses
import hashlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.loop.inputs import near_copies
from model.networks import fast_graphs
from model.predict import output_formats, similar_photos
from model.predict.classifier import Classifier
from model.predict.output_formats import Prediction
from model.predict.predict_settings import Config
from pipeline.images import photo_files, record_image
from pipeline.records import manifest
from pipeline.records.manifest_row import ImageError
from pipeline.review import photo_review
from pipeline.system import command_line, file_system, html_templates, platform_support
from pipeline.system.errors import DataError

_TEMPLATE = Path(__file__).parent / "suggestions.html"
_SIDE_PX = 400  # of a photo on the page
_MOST_BYTES = 128 << 20  # of features; those of the most uncertain photos are kept
# Share of the median squared distance below which two photos count as copies. Most
# flowers that were mirrored, brightened or cropped by 5 % lie below it, as does one in
# 500 other photos (AlexNet, EfficientNet-Lite0).
_COPY = 0.1
_MEDIAN_PHOTOS = 512


def choose(uncertainties: np.ndarray, vectors: np.ndarray, count: int) -> list[int]:
    """Return the indices of up to `count` photos, the most useful one first.

    There are fewer if all others are copies of these. Uncertainties are 0 or more; the
    vectors, float32 [num_photos, num_features], have length 1.
    """
    sample = vectors[:: -(-len(vectors) // _MEDIAN_PHOTOS)]
    between = (2 - 2 * sample @ sample.T)[np.triu_indices(len(sample), 1)]
    limit = _COPY * float(np.median(between)) if len(between) else 0.0
    distances, chosen = np.full(len(vectors), 2.0), list[int]()
    while len(chosen) < count and (distances > limit).any():
        # Among photos with certain predictions, too, the most distant come first.
        gains = np.where(distances > limit, (uncertainties + 1e-6) * distances, -1.0)
        chosen.append(int(np.argmax(gains)))
        distances = np.minimum(distances, 2 - 2 * vectors @ vectors[chosen[-1]])
        distances[chosen[-1]] = -1.0
    return chosen


class Pool:
    """The photos without a label, of which the most uncertain are kept in memory."""

    def __init__(self, config: Config, classifier: Classifier) -> None:
        """Read which photos the records of the run hold."""
        run = classifier.run
        if run is None:
            raise DataError("--suggest: expected a run, found a weight file")
        rows = manifest.read(run.records_folder(config.data)).rows
        known = (row.sha256 for row in rows if not row.is_gone)
        # {SHA-256 of a photo: why it is left out}
        self._known = dict.fromkeys(known, "in the records of the run")
        embedder = similar_photos.build_embedder(run, classifier.model)
        # Function from images to the input of the head, and logits.
        self.embed = fast_graphs.for_any_batch(fast_graphs.folded(embedder))
        self._config, self._classifier = config, classifier
        first, *others = config.photos
        # Paths start here, as pipeline.convert needs them.
        self._root = "." if others or not Path(first).is_dir() else first
        self._left_out: collections.Counter[str] = collections.Counter()
        self.num_photos = 0  # of which some are suggested
        self._kept: list[tuple[float, np.ndarray, Prediction]] = []

    def is_new(self, photo: str) -> bool:
        """Return whether neither the records nor an earlier file have a photo's bytes.

        A photo that cannot be read counts as new.
        """
        try:
            digest = hashlib.sha256(photo_files.read(photo)).hexdigest()
        except ImageError:
            return True
        if reason := self._known.get(digest):
            self._left_out[reason] += 1
            return False
        self._known[digest] = "exact copies of others"
        return True

    def add(
        self, prediction: Prediction, features: Any, probabilities: np.ndarray
    ) -> None:
        """Add a photo by the input of the head and the probabilities of all classes."""
        second, first = np.sort(np.append(probabilities, 0.0))[-2:]
        vector = near_copies.unit_vectors(np.asarray(features)[None])[0]
        self._kept.append((float(1 - first + second), vector, prediction))
        self.num_photos += 1
        most = max(2 * self._config.suggest, _MOST_BYTES // vector.nbytes)
        if len(self._kept) > 1.25 * most:
            self._kept.sort(key=lambda photo: -photo[0])
            del self._kept[most:]

    def suggest(self) -> Sequence[Prediction]:
        """Choose photos, write suggestions.csv and suggestions.html, and log both."""
        for what, number in self._left_out.items():
            photos = f"{number:,} photo{'s' * (number > 1)}"
            command_line.note(f"left out: {photos}, {what}")
        if not self._kept:
            text = "no photos without a label. Expected some outside the records"
            raise DataError(f"--suggest: {text}")
        uncertainties, vectors, predictions = zip(*self._kept, strict=True)
        chosen = choose(
            np.array(uncertainties), np.stack(vectors), self._config.suggest
        )
        if len(chosen) < min(len(predictions), self._config.suggest):
            command_line.note("all other photos look like copies of those suggested")
        suggested = [predictions[n] for n in chosen]
        out = Path(self._config.suggest_into)
        out.mkdir(parents=True, exist_ok=True)
        header, line = output_formats.writer(
            "csv", top=len(suggested[0].classes), num_similar=0
        )
        files = {
            "suggestions.csv": header + "".join(map(line, map(self._named, suggested))),
            "suggestions.html": self._page(suggested),
        }
        for name, text in files.items():
            with file_system.replacing(out / name) as partial:
                partial.write_text(command_line.as_utf8(text), encoding="utf-8")
        command_line.log(
            f"suggested: {len(chosen):,} of {self.num_photos:,} photos without a "
            f"label. To label them, open {out / 'suggestions.html'}"
        )
        return suggested

    def _named(self, photo: Prediction) -> Prediction:
        """Return a prediction with a path from the folder of the photos."""
        path = os.path.relpath(photo.photo, self._root)
        return dataclasses.replace(photo, photo=path)

    def _page(self, suggested: Sequence[Prediction]) -> str:
        review = photo_review.PhotoReview(
            key=(os.path.realpath(self._root), self._classifier.class_names),
            class_names=self._classifier.class_names,
            command=f"python -m model.predict {shlex.quote(self._root)} "
            f"--sort_into=CLASS_FOLDERS --sort_by={photo_review.LABELS}",
            file_name=photo_review.LABELS,
        )
        with platform_support.stderr_silenced():
            photos = photo_review.thumbnail_urls(self._encoded, suggested, _SIDE_PX)
        template = html_templates.load_template(_TEMPLATE, photo_review.TEMPLATES)
        return template.render(
            **photo_review.assets(),
            suggested=list(map(self._named, suggested)),
            photos=photos,
            review=review,
            num_photos=self.num_photos,
        )

    def _encoded(self, prediction: Prediction) -> bytes:
        """Return a photo as an upright JPEG or PNG."""
        return record_image.encode_for_record(
            photo_files.read(prediction.photo), white_level=self._classifier.white_level
        ).encoded
