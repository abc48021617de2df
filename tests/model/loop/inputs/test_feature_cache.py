import os
import time

import keras
import numpy as np
import pytest

from model.loop.inputs import cache_key, feature_cache
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec

SPEC = InputSpec(size_px=8, short_side_px=9, source="test")
BATCH_SIZE = 16


def build_trunk(seed=0, gain=1.0):
    """A frozen network: [8, 8, 3] pixels -> [2, 2, 3] features."""
    image = keras.Input((8, 8, 3), name="image")
    kernel = keras.initializers.RandomNormal(0, gain, seed=seed)
    layer = keras.layers.Conv2D(3, 4, 4, kernel_initializer=kernel, name="conv")
    trunk = keras.Model(image, layer(image))
    trunk.trainable = False
    return trunk


class Watched(image_batches.Images):
    """Keeps what was asked for; can be stopped as by Ctrl-C."""

    def __init__(self, found, stop_after=None):
        super().__init__(found, found.included(), SPEC, batch_size=BATCH_SIZE)
        self.asked = []
        self._left = stop_after

    def run(self, order, views):
        self.asked += list(order)
        for batch in super().run(order, views):
            if self._left == 0:
                raise KeyboardInterrupt
            if self._left:
                self._left -= 1
            yield batch


@pytest.fixture
def trunk():
    return build_trunk()


@pytest.fixture
def every(found):
    return np.arange(len(found.included()))


@pytest.fixture
def extract(found, trunk, tmp_path):
    """Computes features in the test's cache; returns them and the images watched."""

    def extract(rows, *, precision="float32", stop_after=None, trunk=trunk):
        images = Watched(found, stop_after)
        identity = cache_key.describe(trunk, "conv", SPEC, precision, found)
        made = feature_cache.extract(
            trunk, images, rows, cache_dir=tmp_path, identity=identity
        )
        return made, images.asked

    return extract


@pytest.fixture
def central(found, trunk, every):
    """What the trunk says of the central windows, worked out without a cache."""
    images = image_batches.Images(found, found.included(), SPEC, batch_size=len(every))
    views = crop_and_resize.central_views(images.sizes, SPEC)
    (batch,) = images.run(every, views)
    return np.asarray(trunk(np.asarray(batch["image"], np.float32)))


def gather(found, rows, view=0):
    return found.gather(np.asarray(rows), np.full(len(rows), view)).numpy()


def the_folder(cache_dir):
    (folder,) = [path.parent for path in cache_dir.glob("*/about.json")]
    return folder


def test_view_0_is_the_central_window(extract, central, every):
    found, asked = extract({0: every})
    assert sorted(asked) == list(every)
    assert len(every) % BATCH_SIZE
    values = gather(found, every)
    assert values.dtype == np.float32
    assert values.shape == (len(every), 2, 2, 3)
    np.testing.assert_allclose(values, central, rtol=1e-5, atol=1e-3)


def test_gather_takes_rows_in_any_order_and_more_than_once(extract, central, every):
    found, _ = extract({0: every})
    rows = np.array([7, 3, 3, 41, 0])
    np.testing.assert_allclose(gather(found, rows), central[rows], rtol=1e-5, atol=1e-3)


def test_other_views_are_other_windows_and_always_the_same(
    extract, trunk, every, found, tmp_path
):
    rows = {0: every, 1: every, 2: every}
    first, _ = extract(rows)
    values = [gather(first, every, view) for view in rows]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        differ = (values[one] != values[other]).any(axis=(1, 2, 3))
        assert differ.mean() > 0.8
    again = feature_cache.extract(
        trunk,
        Watched(found),
        rows,
        cache_dir=tmp_path / "other",
        identity=cache_key.describe(trunk, "conv", SPEC, "float32", found),
    )
    for view in rows:
        assert (gather(again, every, view) == values[view]).all()


def test_a_batch_mixes_views(extract, every):
    found, _ = extract({0: every, 1: every})
    rows, views = np.array([5, 6, 7, 5]), np.array([1, 0, 1, 0])
    mixed = found.gather(rows, views).numpy()
    for number, (row, view) in enumerate(zip(rows, views, strict=True)):
        assert (mixed[number] == gather(found, [row], view)[0]).all()


class TestReuse:
    def test_a_complete_cache_computes_nothing(self, extract, every):
        first, _ = extract({0: every, 1: every})
        again, asked = extract({0: every, 1: every})
        assert asked == []
        for view in (0, 1):
            assert (gather(again, every, view) == gather(first, every, view)).all()

    def test_only_missing_rows_are_computed(self, extract, central, every):
        """Another split asks for other rows: a fold after the other."""
        _, asked = extract({0: every[:20], 1: every[:10]})
        # Once for both views, then what is wanted in one alone.
        assert (sorted(asked[:10]), sorted(asked[10:])) == (
            list(every[:10]),
            list(every[10:20]),
        )
        found, asked = extract({0: every[10:30], 1: every[5:15]})
        assert (sorted(asked[:10]), sorted(asked[10:])) == (
            list(every[20:30]),
            list(every[10:15]),
        )
        np.testing.assert_allclose(
            gather(found, every[10:30]), central[10:30], rtol=1e-5, atol=1e-3
        )

    def test_the_mirrored_view_is_the_same_computed_with_or_without_the_central_one(
        self, extract, every
    ):
        together, _ = extract({0: every, 1: every[:20]})
        apart, _ = extract({0: every, 1: every[20:]})
        whole, asked = extract({0: every, 1: every})
        assert asked == []
        for part, rows in ((together, every[:20]), (apart, every[20:])):
            assert (gather(whole, rows, 1) == gather(part, rows, 1)).all()
            assert not (gather(whole, rows, 1) == gather(whole, rows, 0)).all()

    def test_more_views_reuse_the_cached_ones(self, extract, every):
        extract({0: every})
        _, asked = extract({0: every, 1: every[:4]})
        assert sorted(asked) == list(every[:4])

    def test_a_stopped_extraction_continues(self, extract, central, every):
        with pytest.raises(KeyboardInterrupt):
            extract({0: every}, stop_after=2)
        found, asked = extract({0: every})
        assert len(asked) == len(every) - 2 * BATCH_SIZE
        np.testing.assert_allclose(gather(found, every), central, rtol=1e-5, atol=1e-3)

    def test_an_extraction_stopped_in_a_later_view_continues(self, extract, every):
        with pytest.raises(KeyboardInterrupt):
            extract({0: every, 1: every, 2: every}, stop_after=4 + 1)
        _, asked = extract({0: every, 1: every, 2: every})
        assert len(asked) == len(every) - BATCH_SIZE


def test_each_description_has_a_folder(extract, every, tmp_path):
    for number, changes in enumerate(
        ({}, {"precision": "bfloat16"}, {"trunk": build_trunk(seed=1)}, {})
    ):
        _, asked = extract({0: every[:4]}, **changes)
        assert bool(asked) == (number < 3)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("harm", ["cut", "garbage", "gone", "empty", "other shape"])
@pytest.mark.parametrize("name", ["view0.npy", "view0.done.npy"])
def test_a_damaged_cache_is_computed_again(
    extract, central, every, tmp_path, name, harm
):
    extract({0: every})
    path = the_folder(tmp_path) / name
    data = path.read_bytes()
    if harm == "cut":
        path.write_bytes(data[: len(data) - 20])
    elif harm == "garbage":
        path.write_bytes(b"\x00" * len(data))
    elif harm == "gone":
        path.unlink()
    elif harm == "empty":
        path.write_bytes(b"")
    else:
        np.save(path, np.ones((3, 4)))
    found, _ = extract({0: every})
    np.testing.assert_allclose(gather(found, every), central, rtol=1e-5, atol=1e-3)


def test_narrow_storage_clips_what_it_cannot_hold(extract, every):
    """float16 ends at 65,504; bfloat16 features may be larger, and none is infinite."""
    found, _ = extract({0: every}, precision="bfloat16", trunk=build_trunk(gain=1000.0))
    values = gather(found, every)
    assert values.dtype == np.float32
    assert values.max() == 65504
    assert values.min() == -65504


def test_narrow_storage_is_close(extract, central, every):
    found, _ = extract({0: every}, precision="bfloat16")
    np.testing.assert_allclose(gather(found, every), central, rtol=1e-3, atol=1e-3)


def test_features_in_memory_and_on_disk_agree():
    """Beyond a gigabyte features stay on disk: here one that takes no memory."""
    random = np.random.default_rng(0)
    narrow = [random.normal(size=(60, 2)).astype(np.float16) for _ in range(2)]
    wide = [np.broadcast_to(view[:, None], (60, 5_000_000, 2)) for view in narrow]
    rows = {0: np.arange(60), 1: np.arange(20, 60)}
    assert sum(len(some) for some in rows.values()) * wide[0][0].nbytes > 1 << 30
    some, views = np.array([59, 0, 33]), np.array([1, 0, 1])
    memory = feature_cache.Features(narrow, rows).gather(some, views)
    disk = feature_cache.Features(wide, rows).gather(some, views)
    assert memory.dtype == disk.dtype == "float32"
    expected = [narrow[1][59], narrow[0][0], narrow[1][33]]
    assert (memory.numpy() == expected).all()
    assert (disk[:, 0].numpy() == expected).all()
    assert (disk[:, -1].numpy() == expected).all()


class TestEviction:
    PRECISIONS = ("float32", "bfloat16", "float16")

    def fill(self, extract, every, tmp_path):
        """Three caches, the first used longest ago; returns their folders by age."""
        folders = []
        for age, precision in enumerate(self.PRECISIONS):
            before = set(tmp_path.iterdir())
            extract({0: every}, precision=precision)
            (folder,) = set(tmp_path.iterdir()) - before
            then = time.time() - 1000 + age
            os.utime(folder / "about.json", (then, then))
            folders.append(folder)
        return folders

    def size(self, *folders):
        return sum(
            path.stat().st_blocks * 512
            for folder in folders
            for path in folder.iterdir()
        )

    def test_nothing_is_removed_below_the_cap(self, extract, every, tmp_path):
        folders = self.fill(extract, every, tmp_path)
        assert all(folder.exists() for folder in folders)

    def test_the_least_recently_used_cache_is_removed_first(
        self, extract, every, tmp_path, monkeypatch
    ):
        first, second, third = self.fill(extract, every, tmp_path)
        monkeypatch.setattr(feature_cache, "CAP_BYTES", self.size(first, third))
        extract({0: every}, precision="float32")  # now the first is the newest
        assert first.exists()
        assert not second.exists()
        assert third.exists()

    def test_the_cache_in_use_stays(self, extract, every, tmp_path, monkeypatch):
        monkeypatch.setattr(feature_cache, "CAP_BYTES", 0)
        found, asked = extract({0: every})
        assert len(asked) == len(every)
        assert [path.name for path in tmp_path.iterdir()] == [the_folder(tmp_path).name]
        assert np.abs(gather(found, every)).min() > 0

    def test_other_folders_stay(self, extract, every, tmp_path, monkeypatch):
        """Only folders that are caches are taken for caches."""
        monkeypatch.setattr(feature_cache, "CAP_BYTES", 0)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "photo.jpg").write_text("x")
        extract({0: every})
        assert (tmp_path / "mine" / "photo.jpg").exists()


def test_views_are_the_centre_the_same_mirrored_and_random_windows(
    extract, found, trunk, every, central
):
    made, _ = extract({0: every, 1: every, 2: every})
    first, second, third = (
        made.gather(every, np.full(len(every), view)).numpy() for view in range(3)
    )
    images = image_batches.Images(found, found.included(), SPEC, batch_size=len(every))
    (batch,) = images.run(every, crop_and_resize.central_views(images.sizes, SPEC))
    mirrored = np.asarray(batch["image"], np.float32)[:, :, ::-1]
    assert np.allclose(first, central, atol=1e-3)
    assert np.allclose(second, np.asarray(trunk(mirrored)), atol=1e-3)
    assert not np.allclose(third, first, atol=1)
    assert not np.allclose(third, second, atol=1)
