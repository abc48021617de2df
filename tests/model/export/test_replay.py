import itertools
import time

import numpy as np
import pytest

from model.export import replay


def test_calls_that_are_timed():
    pauses = itertools.chain([0.05] * 3, itertools.repeat(0.001))
    calls = (lambda: time.sleep(next(pauses)) for _ in itertools.count())
    found = replay.seconds_of(calls, 7)
    assert len(found) == 7
    assert min(found) >= 0.001
    assert sorted(found)[3] < 0.05  # the first ones do not count


def test_fewer_of_slow_ones(monkeypatch):
    now = itertools.count(0, 4)  # seconds pass between any two looks
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    assert replay.seconds_of(itertools.repeat(lambda: None), 100) == [4] * 5


def image(height, value):
    return np.full((height, 3, 3), value, np.uint8)


class TestBatchOf:
    def test_images_of_the_commonest_size(self):
        sizes = (5, 4, 4, 6, 4, 4, 4)
        images = [image(size, n) for n, size in enumerate(sizes)]
        numbers, some = replay.batch_of(images)
        assert numbers == [1, 2, 4, 5]
        assert np.stack(some)[:, 0, 0, 0].tolist() == numbers

    def test_photos_of_any_size(self):
        assert replay.batch_of([b"a", b"b", b"c"]) == ([0, 1, 2], [b"a", b"b", b"c"])

    @pytest.mark.parametrize("images", [[image(4, 1)], [image(4, 1), image(5, 2)]])
    def test_one_alone_is_there_twice(self, images):
        numbers, some = replay.batch_of(images)
        assert numbers == [0, 0]
        assert np.stack(some).shape == (2, 4, 3, 3)
