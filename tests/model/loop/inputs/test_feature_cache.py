import dataclasses
import itertools
import os
import re
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from model.loop.inputs import feature_cache, feature_store
from model.networks import registry
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest

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
    """Records the rows that are computed; can be stopped as by Ctrl-C."""

    def __init__(self, records):
        super().__init__(records, records.included(), SPEC, batch_size=BATCH_SIZE)

    def begin(self, stop_after):
        self.computed = []
        self._left = stop_after
        return self

    def run(self, order, views):
        self.computed += list(order)
        for batch in super().run(order, views):
            if self._left == 0:
                raise KeyboardInterrupt
            if self._left:
                self._left -= 1
            yield batch


_built = {}


def watched(records, stop_after):
    """Photos of records; their graph takes longer to build than to run."""
    if records.rows not in _built:
        _built[records.rows] = Watched(records)
    return _built[records.rows].begin(stop_after)


@pytest.fixture(scope="module")
def trunk():
    return build_trunk()


@pytest.fixture(scope="module")
def found(shared_records):
    return manifest.read(shared_records)


@pytest.fixture(scope="module")
def every(found):
    return np.arange(len(found.included()))


@pytest.fixture
def extract(found, trunk, tmp_path):
    """Return a function that gives features and the rows computed for them."""

    def extract(
        rows,
        folder="",
        precision="float32",
        stop_after=None,
        trunk=trunk,
        records=found,
    ):
        images = watched(records, stop_after)
        identity = feature_cache.identity_of(trunk, "conv", SPEC, precision)
        features = feature_cache.extract(
            trunk, images, rows, cache_dir=tmp_path / folder, identity=identity
        )
        return features, images.computed

    return extract


@pytest.fixture(scope="module")
def pixels(found, every):
    """The central windows of all photos, float32."""
    images = image_batches.Images(found, found.included(), SPEC, batch_size=len(every))
    views = crop_and_resize.central_views(images.sizes, SPEC)
    (batch,) = images.run(every, views)
    return np.asarray(batch["image"], np.float32)


@pytest.fixture(scope="module")
def central(trunk, pixels):
    """The trunk's output for the central windows, without a cache."""
    return np.asarray(trunk(pixels))


def gather(features, rows, view=0):
    return features.gather(np.asarray(rows), np.full(len(rows), view)).numpy()


def assert_close(features, expected, tolerance=1e-5):
    np.testing.assert_allclose(features, expected, rtol=tolerance, atol=1e-3)


def test_views_are_the_centre_the_same_mirrored_and_random_windows(
    extract, trunk, every, pixels, central
):
    assert len(every) % BATCH_SIZE
    rows = {0: every, 1: every, 2: every, 3: every}
    features, computed = extract(rows)
    assert sorted(computed) == sorted([*every] * 3)  # the first two views at once
    values = [gather(features, every, view) for view in rows]
    first, mirrored, *_ = values
    assert (first.dtype, first.shape) == (np.float32, (len(every), 2, 2, 3))
    assert_close(first, central)
    assert_close(mirrored, np.asarray(trunk(pixels[:, :, ::-1])))
    for one, other in itertools.combinations(values, 2):
        assert (one != other).any(axis=(1, 2, 3)).mean() > 0.8
    again, _ = extract(rows, folder="another")
    assert all((gather(again, every, view) == values[view]).all() for view in rows)


def test_a_batch_mixes_views_and_takes_rows_in_any_order_and_more_than_once(
    extract, every
):
    features, _ = extract({0: every, 1: every})
    rows, views = np.array([41, 6, 7, 6, 6]), np.array([1, 0, 1, 0, 1])
    mixed = features.gather(rows, views).numpy()
    for number, (row, view) in enumerate(zip(rows, views, strict=True)):
        assert (mixed[number] == gather(features, [row], view)[0]).all()


class TestReuse:
    def test_only_missing_rows_are_computed(self, extract, central, every):
        """Another fold needs other rows of both views."""
        _, computed = extract({0: every[:20], 1: every[:10]})
        # Rows of both views at once, then those of a single one.
        assert sorted(computed[:10]) == list(every[:10])
        assert sorted(computed[10:]) == list(every[10:20])
        features, computed = extract({0: every[10:30], 1: every[5:15]})
        assert sorted(computed[:10]) == list(every[20:30])
        assert sorted(computed[10:]) == list(every[10:15])
        assert_close(gather(features, every[10:30]), central[10:30])

    def test_what_is_missing_is_counted_before(
        self, extract, every, trunk, found, tmp_path
    ):
        identity = feature_cache.identity_of(trunk, "conv", SPEC, "float32")
        where = {"cache_dir": tmp_path, "identity": identity}
        keys = feature_cache.photo_keys(found, found.included())
        rows = {0: every, 1: every[:10]}
        num_missing = feature_store.num_missing
        assert num_missing(keys, rows, **where) == len(every) + 10
        assert not list(tmp_path.iterdir())
        extract({0: every[:20]})
        assert num_missing(keys, rows, **where) == len(every) - 20 + 10

    def test_the_mirrored_view_is_the_same_computed_with_or_without_the_central_one(
        self, extract, every
    ):
        together, _ = extract({0: every, 1: every[:20]})
        apart, _ = extract({0: every, 1: every[20:]})
        whole, computed = extract({0: every, 1: every})
        assert computed == []
        for part, rows in ((together, every[:20]), (apart, every[20:])):
            assert (gather(whole, rows, 1) == gather(part, rows, 1)).all()
            assert not (gather(whole, rows, 1) == gather(whole, rows, 0)).all()

    @pytest.mark.parametrize(
        ("num_views", "stop_after", "complete"), [(1, 2, 2), (3, 4 + 1, 1)]
    )
    def test_a_stopped_extraction_continues(
        self, extract, central, every, num_views, stop_after, complete
    ):
        """In the second case within the third view, after four batches of two."""
        rows = dict.fromkeys(range(num_views), every)
        with pytest.raises(KeyboardInterrupt):
            extract(rows, stop_after=stop_after)
        features, computed = extract(rows)
        assert len(computed) == len(every) - complete * BATCH_SIZE
        assert_close(gather(features, every), central)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *(("view0.features", harm) for harm in ("cut", "garbage", "missing", "longer")),
        *(("view0.crc32c", harm) for harm in ("empty", "garbage", "longer")),
        *(("photos.keys", harm) for harm in ("cut", "garbage", "missing", "longer")),
    ],
)
def test_a_damaged_cache_is_computed_again(
    extract, central, every, tmp_path, name, harm
):
    extract({0: every})
    (path,) = tmp_path.glob(f"*/{name}")
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "longer":
        path.write_bytes(b"abc" + data)
    else:
        damaged = {"cut": data[:-20], "garbage": bytes(len(data)), "empty": b""}
        path.write_bytes(damaged[harm])
    features, _ = extract({0: every})
    assert_close(gather(features, every), central)


@pytest.mark.parametrize("name", ["view1.features", "view1.crc32c"])
def test_a_flipped_bit_is_noticed_and_its_photo_computed_again(
    extract, every, tmp_path, name, capsys
):
    rows = {0: every, 1: every}
    first, _ = extract(rows)
    capsys.readouterr()
    (path,) = tmp_path.glob(f"*/{name}")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of the last photo
    path.write_bytes(data)
    again, computed = extract(rows)
    assert computed == [every[-1]]
    line = f"view1.features: 1 of {len(every)} features are damaged"
    assert line in capsys.readouterr().err
    for view in rows:
        assert (gather(again, every, view) == gather(first, every, view)).all()


def test_narrow_storage_is_close_and_clips_what_it_cannot_hold(extract, central, every):
    """float16 ends at 65,504; bfloat16 features may be larger, and none is infinite."""
    features, _ = extract({0: every}, precision="bfloat16")
    assert_close(gather(features, every), central, tolerance=1e-3)
    large = build_trunk(gain=1000.0)
    features, _ = extract({0: every}, precision="bfloat16", trunk=large)
    values = gather(features, every)
    assert values.dtype == np.float32
    assert (values.min(), values.max()) == (-65504, 65504)


def test_features_in_memory_and_on_disk_agree():
    """Beyond a gigabyte features stay on disk: here one that takes no memory."""
    random = np.random.default_rng(0)
    narrow = [random.normal(size=(60, 2)).astype(np.float16) for _ in range(2)]
    wide = [np.broadcast_to(view[:, None], (60, 5_000_000, 2)) for view in narrow]
    filled = {0: np.arange(60), 1: np.arange(20, 60)}
    assert sum(map(len, filled.values())) * wide[0][0].nbytes > 1 << 30
    rows, views = np.array([59, 0, 33]), np.array([1, 0, 1])
    small = feature_cache.Features(narrow, filled, np.arange(60))
    small.load()
    memory = small.gather(rows, views)
    large = feature_cache.Features(wide, filled, np.arange(60))
    large.load()  # reads nothing
    disk = large.gather(rows, views)
    assert memory.dtype == disk.dtype == "float32"
    expected = [narrow[1][59], narrow[0][0], narrow[1][33]]
    assert (memory.numpy() == expected).all()
    assert (disk[:, 0].numpy() == expected).all()
    assert (disk[:, -1].numpy() == expected).all()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_gathered_features_do_not_stay_in_memory(tmp_path):
    def resident_kb():
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssFile:\s+(\d+)", status)[1])

    file = np.memmap(tmp_path / "features", np.float32, "w+", shape=(4096, 4096))
    features = feature_cache.Features([file], {0: np.arange(4096)}, np.arange(4096))
    before = resident_kb()
    for start in range(0, 4096, 256):
        rows = np.arange(start, start + 256)
        features.gather(rows, np.zeros_like(rows))
    assert resident_kb() - before < 16_384  # of 65,536


class TestEviction:
    def test_the_least_recently_used_cache_is_removed_first(
        self, extract, every, tmp_path, monkeypatch
    ):
        folders = []
        for age, precision in enumerate(("float32", "bfloat16", "float16")):
            before = set(tmp_path.iterdir())
            extract({0: every}, precision=precision)
            folders += set(tmp_path.iterdir()) - before
            then = time.time() - 1000 + age
            os.utime(folders[-1] / "about.json", (then, then))
        first, _, third = folders
        assert all(folder.exists() for folder in folders)  # below the cap
        files = [*first.iterdir(), *third.iterdir()]
        cap = sum(path.stat().st_size for path in files)
        monkeypatch.setattr(feature_store, "CAP_BYTES", cap)
        extract({0: every}, precision="float32")  # now the first is the newest
        assert [folder.exists() for folder in folders] == [True, False, True]

    def test_the_cache_in_use_and_other_folders_stay(
        self, extract, every, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(feature_store, "CAP_BYTES", 0)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "photo.jpg").write_text("x")
        features, computed = extract({0: every})
        assert len(computed) == len(every)
        assert (tmp_path / "mine" / "photo.jpg").exists()
        assert len(list(tmp_path.glob("*/view0.features"))) == 1
        assert np.abs(gather(features, every)).min() > 0


def without(found, *numbers):
    """The records without some photos."""
    kept = [row for n, row in enumerate(found.included()) if n not in numbers]
    return dataclasses.replace(found, rows=tuple(kept))


class TestOtherRecords:
    """Photos are found by their content, in whichever records they are."""

    def test_added_photos_alone_are_computed(self, found, extract, every):
        """Random windows, too, are those of the photo, not of its place."""
        views = (0, 1, 2)
        small = without(found, 0, 1, 2, 30)
        rest = np.arange(len(every) - 4)
        extract(dict.fromkeys(views, rest), records=small)
        grown, computed = extract(dict.fromkeys(views, every))
        assert sorted(computed) == [0, 0, 1, 1, 2, 2, 30, 30]
        fresh, _ = extract(dict.fromkeys(views, every), folder="fresh")
        for view in views:
            assert (gather(grown, every, view) == gather(fresh, every, view)).all()

    def test_a_corrected_label_a_removed_photo_and_another_order_compute_nothing(
        self, found, extract, every
    ):
        first, _ = extract({0: every})
        rows = list(found.included())[::-1]
        rows[3] = dataclasses.replace(rows[3], class_name=rows[-1].class_name)
        del rows[5]
        other = dataclasses.replace(found, rows=tuple(rows))
        some = np.arange(len(rows))
        again, computed = extract({0: some}, records=other)
        assert computed == []
        places = np.delete(every[::-1], 5)
        assert (gather(again, some) == gather(first, places)).all()

    def test_copies_of_a_photo_are_computed_once(self, found, extract, every):
        rows = found.included()
        twins = tuple(
            dataclasses.replace(row, path=f"2/{row.path}", length=row.length + 2)
            for row in rows
        )
        twice = dataclasses.replace(found, rows=(*rows, *twins))
        rows = {0: np.arange(2 * len(every))}
        features, computed = extract(rows, records=twice)
        assert sorted(computed) == list(every)
        values = gather(features, rows[0])
        assert (values[: len(every)] == values[len(every) :]).all()

    def test_a_full_cache_with_many_unused_photos_is_begun_again(
        self, found, extract, every, tmp_path, monkeypatch
    ):
        first, _ = extract({0: every})
        (path,) = tmp_path.glob("*/view0.features")
        reader = np.memmap(path, np.float32, "r")  # as another process
        before = reader.copy()
        half = len(every) // 2
        kept = without(found, *range(half))
        rest = np.arange(len(every) - half)
        assert extract({0: rest}, records=kept)[1] == []
        assert path.stat().st_size == before.nbytes  # not full
        monkeypatch.setattr(feature_store, "CAP_BYTES", before.nbytes - 1)
        again, computed = extract({0: rest}, records=kept)
        assert len(computed) == len(rest)
        assert (gather(again, rest) == gather(first, rest + half)).all()
        assert path.stat().st_size == before.nbytes * len(rest) // len(every)
        assert (reader == before).all()

    def test_a_slot_whose_key_was_lost_does_not_give_its_features_to_a_new_photo(
        self, found, extract, every, tmp_path, central
    ):
        extract({0: every})
        (path,) = tmp_path.glob("*/photos.keys")
        path.write_bytes(path.read_bytes()[: 16 * 10])
        some = without(found, *range(30))
        rest = np.arange(len(every) - 30)
        features, computed = extract({0: rest}, records=some)
        assert len(computed) == len(rest)
        assert_close(gather(features, rest), central[30:])


@pytest.mark.parametrize(
    ("name", "layer", "precision"),
    [
        ("cifar_cnn", "", "float32"),
        ("cifar_cnn", "", "bfloat16"),
        pytest.param("alexnet", "conv3", "float32", marks=pytest.mark.slow),
        pytest.param("efficientnet_lite0", "", "float32", marks=pytest.mark.slow),
    ],
)
def test_features_are_the_same_to_the_bit_in_whatever_batches_they_are_computed(
    found, every, tmp_path, name, layer, precision
):
    """Means of channels: a photo's rounding errors depend on the size of its batch."""
    network = registry.by_name(name)
    spec = network.input_spec
    keras.utils.set_random_seed(1)
    last = layer or network.features[-1]
    part = network.build_part(spec, [last], dtype=precision, repeat_per_column=True)
    output = part.output[last]
    if len(output.shape) == 4:
        output = keras.layers.GlobalAveragePooling2D()(output)
    trunk = keras.Model(part.input, output)
    images = image_batches.Images(
        found, found.included(), spec, batch_size=feature_cache.BATCH_SIZE
    )

    def extract(folder, *parts):
        for rows in parts:
            features = feature_cache.extract(
                *(trunk, images, {0: rows}),
                cache_dir=tmp_path / folder,
                identity={"precision": precision},
            )
        return gather(features, every)

    values = extract("at once", every)
    parts = every[-1:], every[::7], every[20:26], every
    assert (extract("in parts", *parts) == values).all()
    assert len(np.unique(values, axis=0)) == len(every)
