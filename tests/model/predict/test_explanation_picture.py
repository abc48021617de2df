"""Pictures of explanations, also with training photos that cannot be read."""

import cv2
import numpy as np
import pytest

from model.predict import classifier, output_formats, similar_photos
from pipeline.system.errors import DataError
from tests.support import small_runs

SPEC = small_runs.SPEC
ERRORS = {
    "damaged": DataError("blue.tfrecord: the record is damaged"),
    "gone": FileNotFoundError(2, "No such file", "blue.tfrecord"),
}


class Explainer:
    """An explainer that can read no training photo."""

    def __init__(self, error):
        self.error = error

    def training_photo(self, _):
        raise self.error


@pytest.mark.parametrize("name", ERRORS)
def test_a_training_photo_that_cannot_be_read_is_grey(tmp_path, found, capsys, name):
    pictures = classifier.ExplanationPictures(tmp_path, Explainer(ERRORS[name]), SPEC)
    similar = [
        similar_photos.SimilarPhoto(row=row, similarity=0.5)
        for row in found.included()[:2]
    ]
    explanation = classifier.Explanation(overlay=None, similar=similar)
    black = np.zeros((SPEC.size_px, SPEC.size_px, 3), np.uint8)
    for photo in ("a.jpg", "b.jpg"):
        prediction = output_formats.Prediction(photo=photo, classes=(("red", 0.5),))
        drawn = cv2.imread(pictures.draw(prediction, black, explanation).picture)
        grey = (drawn == 128).all(axis=2).sum()
        assert grey >= 2 * (drawn == 0).all(axis=2).sum() * 0.9 > 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("grey" in line and "blue.tfrecord" in line for line in lines)
