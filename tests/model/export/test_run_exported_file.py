import itertools
import time

import numpy as np
import pytest

from model.export import run_exported_file


def test_fewer_calls_are_timed_when_they_are_slow(monkeypatch):
    now = itertools.count(0, 4)  # seconds pass between any two looks
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    assert run_exported_file.time_calls(itertools.repeat(lambda: None), 100) == [4] * 5


def image(height, value):
    return np.full((height, 3, 3), value, np.uint8)


class TestChooseBatch:
    def test_images_have_the_most_frequent_size(self):
        sizes = (5, 4, 4, 6, 4, 4, 4)
        images = [image(size, n) for n, size in enumerate(sizes)]
        indices, batch = run_exported_file.choose_batch(images)
        assert indices == [1, 2, 4, 5]
        assert np.stack(batch)[:, 0, 0, 0].tolist() == indices

    def test_photo_files_may_have_any_size(self):
        assert run_exported_file.choose_batch([b"a", b"b", b"c"]) == (
            [0, 1, 2],
            [b"a", b"b", b"c"],
        )

    @pytest.mark.parametrize("images", [[image(4, 1)], [image(4, 1), image(5, 2)]])
    def test_an_image_of_its_own_size_is_there_twice(self, images):
        indices, batch = run_exported_file.choose_batch(images)
        assert indices == [0, 0]
        assert np.stack(batch).shape == (2, 4, 3, 3)
