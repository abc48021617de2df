"""Photos classified by many threads at the same time, with explanations."""

import concurrent.futures
import dataclasses

import cv2
import numpy as np
import pytest

from model.predict import classifier
from model.serve import prediction_service, serve_settings
from pipeline.system.errors import DataError
from tests.support import drawn_photos

photo = drawn_photos.encode_photo


def test_the_most_probable_class_is_right(service):
    result = service.classify(photo(), explained=False)
    assert service.classifier.class_names[result.probabilities.argmax()] == "red"
    assert result.probabilities.sum() == pytest.approx(1)
    assert result.explanation == classifier.Explanation(overlay=None)


def test_photos_of_many_threads_get_the_same_probabilities(service):
    files = [photo(name, n) for name in drawn_photos.COLOURS for n in range(8)]
    alone = [service.classify(data, explained=False) for data in files]
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        together = threads.map(
            lambda n: service.classify(files[n], explained=n % 3 == 0),
            range(len(files)),
        )
    for number, pair in enumerate(zip(alone, together, strict=True)):
        expected, result = pair
        assert result.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
        assert (result.explanation.overlay is not None) == (number % 3 == 0)


def test_a_thumbnail_shows_the_photo_of_a_sha256(service):
    for row in service.explainer.index.rows[:2]:
        encoded = np.frombuffer(service.thumbnail(row.sha256), np.uint8)
        small = cv2.imdecode(encoded, 1)
        assert max(small.shape) == min(160, max(row.height, row.width))
        colour = drawn_photos.COLOURS[row.class_name]
        np.testing.assert_allclose(small.mean(axis=(0, 1)), colour, atol=45)
    for name in ("", "0", "f" * 64, "9" * 5000):
        with pytest.raises(KeyError):
            service.thumbnail(name)


def test_a_start_that_fails_says_what_to_do(shared_run):
    service = prediction_service.Service(
        classifier.load_run(str(shared_run)),
        serve_settings.Config(decode_timeout_s=1e-4),
    )
    with pytest.raises(DataError, match=r"takes longer than .*--decode_timeout_s"):
        service.warm_up()
    service.close()


def test_records_that_were_moved_are_read_from_data(service, shared_records):
    data = {**service.classifier.run.config["data"], "path": "gone"}
    config = {**service.classifier.run.config, "data": data}
    run = dataclasses.replace(service.classifier.run, config=config)
    moved = prediction_service.Service(
        dataclasses.replace(service.classifier, run=run),
        serve_settings.Config(data=str(shared_records)),
    )
    assert moved.explainer.index is not None
    moved.close()
