"""Answers of many threads at once; with why."""

import concurrent.futures
import dataclasses
import os
import signal

import cv2
import numpy as np
import pytest

from model.predict import classifier
from model.serve import prediction_service
from pipeline.images import isolated_decoder
from pipeline.images.errors import ImageError
from pipeline.records.reasons import Code
from pipeline.system.errors import DataError
from tests import conftest


@pytest.fixture(scope="module")
def answering(shared_run):
    found = prediction_service.Service(
        classifier.of_run(str(shared_run)),
        max_pixels=1_000_000,
        decode_timeout_s=30,
        most_together=8,
    )
    found.warm_up()
    yield found
    found.close()


def photo(class_name="red", number=1):
    pixels = conftest.draw_photo(class_name, number)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def test_an_answer(answering):
    found = answering.answer(photo(), explained=False)
    assert answering.chosen.class_names[found.shares.argmax()] == "red"
    assert found.shares.sum() == pytest.approx(1)
    assert (found.overlay, found.similar) == (None, ())


def test_why(answering):
    found = answering.answer(photo(), explained=True)
    assert found.overlay.shape == found.pixels.shape == (224, 224, 3)
    assert (found.overlay != found.pixels).any()
    assert len(found.similar) == prediction_service.NEIGHBOURS
    rows = answering.explainer.index.rows
    assert {near.row for near in found.similar} <= {*rows}


def test_many_at_once_are_answered_as_one_by_one(answering):
    files = [photo(name, n) for name in conftest.COLOURS for n in range(8)]
    alone = [answering.answer(data, explained=False).shares for data in files]
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        together = list(
            threads.map(
                lambda n: answering.answer(files[n], explained=n % 3 == 0),
                range(len(files)),
            )
        )
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert other.shares == pytest.approx(one, abs=1e-4)
        assert (other.overlay is not None) == (number % 3 == 0)


def test_what_does_not_decode_harms_nobody(answering):
    with pytest.raises(ImageError, match="not an image"):
        answering.answer(b"no photo", explained=False)
    with pytest.raises(ImageError, match="larger than 1,000,000 pixels"):
        large = np.zeros((1001, 1000, 3), np.uint8)
        answering.answer(cv2.imencode(".png", large)[1].tobytes(), explained=False)
    assert answering.answer(photo(), explained=False)


def test_processes_that_are_killed_are_replaced(answering):
    before = answering.decoder_pids
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for _ in before:
        with pytest.raises(isolated_decoder.Crashed):
            answering.answer(photo(), explained=False)
        # The last one used comes first, so that the other is met next.
        break
    answers = [answering.answer(photo(), explained=False) for _ in range(3)]
    assert len(answers) == 3


def test_a_fault_of_the_network_is_told_and_the_thread_goes_on(answering, monkeypatch):
    def fail(_):
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(answering, "_step", fail)
        with pytest.raises(RuntimeError, match="no memory"):
            answering.answer(photo(), explained=False)
    assert answering.answer(photo(), explained=False)


def test_thumbnails(answering):
    """By what the photo is, which is the same for every run."""
    for row in answering.explainer.index.rows[:2]:
        found = np.frombuffer(answering.thumbnail(row.sha256), np.uint8)
        small = cv2.imdecode(found, 1)
        assert max(small.shape) == min(160, max(row.height, row.width))
        colour = conftest.COLOURS[row.class_name]
        np.testing.assert_allclose(small.mean(axis=(0, 1)), colour, atol=45)
    for name in ("", "0", "f" * 64, "9" * 5000):
        with pytest.raises(KeyError):
            answering.thumbnail(name)


def test_a_start_that_fails_is_told_in_a_line(answering, monkeypatch):
    def too_slow(_):
        raise isolated_decoder.TooSlow(
            Code.DECODER_TOO_SLOW, "takes longer than 0.01 s to decode"
        )

    monkeypatch.setattr(
        answering, "_decoders", isolated_decoder.Decoders(0, timeout_s=1)
    )
    monkeypatch.setattr(answering._decoders, "decode", too_slow)
    with pytest.raises(DataError, match=r"than 0\.01 s.*--decode_timeout_s"):
        answering.warm_up()


def test_records_that_were_moved(answering, shared_records):
    data = {**answering.chosen.finished.config["data"], "path": "gone"}
    config = {**answering.chosen.finished.config, "data": data}
    finished = dataclasses.replace(answering.chosen.finished, config=config)
    moved = dataclasses.replace(answering.chosen, finished=finished)
    found = prediction_service.Service(
        moved, max_pixels=1_000_000, decode_timeout_s=30, data=str(shared_records)
    )
    assert found.explainer.index is not None
    found.close()
