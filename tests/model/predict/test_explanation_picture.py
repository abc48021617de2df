"""Pictures of photos and of what they are like; not all of that can be shown."""

import cv2
import numpy as np
import pytest

from model.predict import classifier, explanation_picture, similar_photos
from pipeline.system.errors import DataError
from tests import small_runs

SPEC = small_runs.SPEC
ERRORS = {
    "damaged": DataError("blue.tfrecord: the record is damaged"),
    "gone": FileNotFoundError(2, "No such file", "blue.tfrecord"),
}


class Explainer:
    """Has no training photo that can be read."""

    def __init__(self, error):
        self.error = error

    def training_photo(self, _):
        raise self.error


def test_a_file_in_place_of_the_folder(tmp_path):
    path = tmp_path / "why"
    path.touch()
    with pytest.raises(DataError, match=r"--explain=.*why: is a file"):
        explanation_picture.Pictures(path, None, SPEC)


@pytest.mark.parametrize("name", ERRORS)
def test_a_training_photo_that_cannot_be_shown_is_grey(tmp_path, found, capsys, name):
    """And told once; the pictures of all photos are drawn."""
    pictures = explanation_picture.Pictures(tmp_path, Explainer(ERRORS[name]), SPEC)
    near = [
        similar_photos.Neighbour(row=row, similarity=0.5)
        for row in found.included()[:2]
    ]
    why = classifier.Explanation(overlay=None, nearest=near)
    black = np.zeros((SPEC.size_px, SPEC.size_px, 3), np.uint8)
    for photo in ("a.jpg", "b.jpg"):
        drawn = cv2.imread(pictures.draw(photo, black, "red", why))
        grey = (drawn == 128).all(axis=2).sum()
        assert grey >= 2 * (drawn == 0).all(axis=2).sum() * 0.9 > 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all("grey" in line and "blue.tfrecord" in line for line in said)
