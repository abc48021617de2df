import collections
import dataclasses
import os
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf

from pipeline.batches import (
    augmentation_settings,
    crop_and_resize,
    image_batches,
    random_augmentation,
)
from pipeline.batches.input_spec import RESIZES, InputSpec
from pipeline.records import manifest
from pipeline.system.errors import DataError
from tests.support import conversions

SPEC = InputSpec(size_px=28, short_side_px=32, source="a test")


def random_views(sizes, spec, key):
    """Views that the key decides."""
    uniform = crop_and_resize.seeded_generator(key).random((len(sizes), 3))
    return crop_and_resize.drawn_views(sizes, spec, uniform)


def images_of(found, rows=None, batch_size=7, **kwargs):
    rows = found.included() if rows is None else rows
    return image_batches.Images(found, rows, SPEC, batch_size=batch_size, **kwargs)


def central(images):
    return crop_and_resize.central_views(images.sizes, SPEC)


def collect(batches):
    """All batches as one {name: array}."""
    parts = collections.defaultdict(list)
    for batch in batches:
        for name, values in batch.items():
            parts[name].append(values.numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def are_equal(one, other):
    return all((one[name] == other[name]).all() for name in one)


@pytest.fixture
def copy(shared_records, tmp_path):
    """A copy of the records that a test may damage."""
    return manifest.read(shutil.copytree(shared_records, tmp_path / "copy"))


def element_spec(label):
    """The whole element_spec of batches whose labels are as given."""
    return {
        "image": tf.TensorSpec([None, 28, 28, 3], tf.uint8),
        "label": label,
        "row": tf.TensorSpec([None], tf.int64),
    }


def test_element_specs_are_as_announced(found):
    expected = element_spec(tf.TensorSpec([None], tf.int32))
    training = image_batches.Training(found, SPEC, batch_size=4, seed=0)
    test = image_batches.Images(found, found.included("test"), SPEC, batch_size=4)
    for images in (training.images, test):
        assert images.dataset.element_spec == expected


@pytest.mark.parametrize("batch_size", [1, 7, 48, 100])
def test_an_epoch_has_each_training_photo_once(found, batch_size):
    training = image_batches.Training(found, SPEC, batch_size=batch_size, seed=0)
    rows = found.included("train")
    for epoch in range(2):
        batches = list(training.epoch(epoch))
        sizes = [len(batch["row"]) for batch in batches]
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        values = collect(batches)
        assert sorted(values["row"]) == list(range(len(rows)))
        names = [found.class_names[label] for label in values["label"]]
        assert names == [rows[number].class_name for number in values["row"]]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_evaluation_sees_each_photo_once_in_order(found, batch_size):
    rows = found.included("validation", "test")
    images = image_batches.Images(found, rows, SPEC, batch_size=batch_size)
    values = collect(images)
    assert values["row"].tolist() == list(range(len(rows)))
    assert values["label"].tolist() == [found.labels[r.class_name] for r in rows]
    assert (collect(images)["image"] == values["image"]).all()  # and again


def test_rows_are_evenly_spread():
    assert image_batches.evenly_spread(range(3), 32) == [0, 1, 2]
    assert image_batches.evenly_spread(range(10), 4) == [0, 2, 5, 7]


def test_batches_are_mixed_although_files_hold_one_class_each(found):
    training = image_batches.Training(found, SPEC, batch_size=16, seed=0)
    for batch in list(training.epoch(0))[:-1]:
        assert len(set(batch["label"].numpy())) == 3


def halve(window):
    """Halve both sides, then each alone, while the shorter one is twice too long."""
    for by in ((2, 2), (2, 1), (1, 2)):
        while min(n for n, k in zip(window.shape[:2], by, strict=True) if k == 2) >= 56:
            height, width = window.shape[0] // by[0], window.shape[1] // by[1]
            even = window[: height * by[0], : width * by[1]]
            window = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return window


@pytest.mark.parametrize("crop_area", ["", "0.3,1"], ids=["window", "crop"])
def test_pixels_are_those_of_the_source_photo(found, shared_records, crop_area):
    """Decoded with OpenCV from the source folder, cropped and resized by hand."""
    augmentation = augmentation_settings.Augmentation(crop_area=crop_area)
    images = images_of(found, augmentation=augmentation)
    order = np.arange(len(images.rows))
    views = random_augmentation.draw_views(
        augmentation, images.sizes, SPEC, order, (5, 0)
    )
    values = collect(images.run(order, views))
    kinds = collections.Counter()
    for number, row in enumerate(images.rows):
        path = shared_records.parent / "photos" / row.path
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB).astype(np.float32)
        top, left, height, width = views.windows[number]
        window = halve(pixels[top : top + height, left : left + width])
        expected = cv2.resize(window, (SPEC.size_px, SPEC.size_px))
        if views.mirrored[number]:
            expected = expected[:, ::-1]
        difference = np.abs(values["image"][number] - expected)
        kinds[row.format] += 1
        assert difference.mean() < 1, row.path
        assert difference.max() < (1.1 if row.format == "png" else 20), row.path
    assert min(kinds["png"], kinds["jpeg"]) > 5


def test_records_in_memory_give_the_same_without_their_files(copy):
    order = np.random.default_rng(0).permutation(len(copy.included()))
    stored, read = (images_of(copy, memory_bytes=size) for size in (1 << 30, 0))
    from_files = collect(read.run(order, central(read)))
    for path in copy.directory.glob("*.tfrecord"):
        path.unlink()
    assert are_equal(collect(stored.run(order, central(stored))), from_files)


def test_no_rows_give_no_batches(found):
    images = images_of(found, rows=())
    assert list(images.run(np.zeros(0, np.int64), central(images))) == []


def test_a_damaged_record_is_named(copy):
    row = copy.included()[3]
    with (copy.directory / row.file).open("r+b") as file:
        file.seek(row.offset + row.length // 2)
        file.write(b"damage")
    images = images_of(copy)
    with pytest.raises(DataError) as caught:
        collect(images.run(np.arange(len(images.rows)), central(images)))
    for part in (row.file, row.path, str(row.offset)):
        assert part in str(caught.value)
    # All others can still be read.
    others = np.delete(np.arange(len(images.rows)), 3)
    assert len(collect(images.run(others, central(images)))["row"]) == len(others)


def test_a_missing_file_is_named(copy):
    path = copy.directory / copy.included()[0].file
    path.unlink()
    images = images_of(copy)
    with pytest.raises(FileNotFoundError, match=path.name):
        collect(images.run(np.arange(3), central(images)))


@pytest.mark.parametrize("field", ["sha256", "class_name"])
def test_a_record_that_is_not_the_manifests_is_refused(copy, field):
    rows = list(copy.included())
    wrong = {"sha256": "0" * 64, "class_name": copy.class_names[-1]}
    rows[0] = dataclasses.replace(rows[0], **{field: wrong[field]})
    images = images_of(copy, rows=rows)
    with pytest.raises(DataError, match="differs from the manifest"):
        collect(images.run(np.arange(len(rows)), central(images)))


def test_a_window_outside_the_image_is_an_error_not_garbage(copy):
    """Wrong sizes in the manifest are refused by the decoder; the folder is named."""
    rows = [dataclasses.replace(row, height=5000) for row in copy.included()]
    images = images_of(copy, rows=[row for row in rows if row.format == "jpeg"])
    views = random_views(images.sizes, SPEC, (0,))
    with pytest.raises(DataError, match="does not decode") as caught:
        collect(images.run(np.arange(len(images.rows)), views))
    assert str(copy.directory) in str(caught.value)


# What changes an image by itself, and what mixes a batch.
CHANGES = {
    "rotation": 20.0,
    "shift": 0.1,
    "shear": 10.0,
    "zoom": 0.2,
    "brightness": 0.3,
    "contrast": 0.4,
    "saturation": 0.5,
    "cutout": 0.3,
}
MIXES = {"mixup": 0.4, "cutmix": 1.0}
EVERYTHING = {"crop_area": "0.08,1", **CHANGES, **MIXES}


class TestAugmented:
    def training(self, found, seed=0, batch_size=8, spec=SPEC, **settings):
        augmentation = augmentation_settings.Augmentation(**settings)
        return image_batches.Training(
            found, spec, batch_size=batch_size, seed=seed, augmentation=augmentation
        )

    def epoch(self, found, number=1, start=0, **how):
        return collect(self.training(found, **how).epoch(number, start))

    def test_without_settings_windows_are_random_and_mirrored(self, found):
        images = images_of(found, rows=found.included("train"), batch_size=8)
        views = random_views(images.sizes, SPEC, (0, 1, 1))
        generator = crop_and_resize.seeded_generator((0, 1, 0))
        order = generator.permutation(len(images.rows))
        assert are_equal(self.epoch(found), collect(images.run(order, views)))

    @pytest.mark.parametrize(
        "settings",
        [{"crop_area": "0.08,1"}, EVERYTHING],
        ids=["crop_area", "everything"],
    )
    def test_an_epoch_is_a_function_of_seed_and_number(self, found, settings):
        one, same = (self.epoch(found, **settings) for _ in range(2))
        assert are_equal(one, same)
        images = {image.tobytes() for image in one["image"]}
        for other in (
            self.epoch(found, 2, **settings),
            self.epoch(found, seed=1, **settings),
        ):
            assert one["row"].tolist() != other["row"].tolist()
            assert not images & {image.tobytes() for image in other["image"]}

    def test_an_epoch_can_start_in_the_middle(self, found):
        training = self.training(found, **EVERYTHING)
        whole, rest = collect(training.epoch(3)), collect(training.epoch(3, start=16))
        for name, values in whole.items():
            assert (rest[name] == values[16:]).all()

    def test_images_are_those_of_the_operations_on_the_plain_ones(self, found):
        augmentation = augmentation_settings.Augmentation(**CHANGES)
        plain, changed = self.epoch(found), self.epoch(found, **CHANGES)
        rows = found.included("train")
        sizes = np.array([(row.height, row.width) for row in rows])
        order = image_batches.permutation(len(rows), (0, 1))
        views = random_augmentation.draw_views(augmentation, sizes, SPEC, order, (0, 1))
        kinds = collections.Counter()
        for place, number in enumerate(changed["row"]):
            image = tf.constant(plain["image"][place])
            numbers = views.numbers[number]
            expected = random_augmentation.augment(augmentation, image, numbers)
            assert (changed["image"][place] == expected.numpy()).all()
            kinds[rows[number].format] += 1
        assert min(kinds["png"], kinds["jpeg"]) > 2

    @pytest.mark.parametrize("batch_size", [1, 7])
    def test_mixed_batches_are_as_announced(self, found, batch_size):
        training = self.training(found, batch_size=batch_size, **MIXES)
        shares = tf.TensorSpec([None, 3], tf.float32)
        assert training.images.dataset.element_spec == element_spec(shares)
        plain = list(self.training(found, batch_size=batch_size).epoch(0))
        mixed = list(training.epoch(0))
        assert len(mixed) == len(plain)
        for one, other in zip(plain, mixed, strict=True):
            assert (one["row"].numpy() == other["row"].numpy()).all()
            labels = other["label"].numpy()
            np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
            own = np.eye(3)[one["label"].numpy()]
            assert not labels[own + np.roll(own, 1, axis=0) == 0].any()

    @pytest.mark.parametrize("resize", RESIZES)
    def test_grey_tiny_and_thin_photos(self, tmp_path, resize):
        random = np.random.default_rng(0)
        sizes = [(1, 1), (3, 200), (200, 3), (40, 64), (90, 30), (33, 33)]
        for folder in (tmp_path / "photos" / "one", tmp_path / "photos" / "two"):
            folder.mkdir(parents=True)
            for number, size in enumerate(sizes):
                kind = "png" if number % 2 == 0 else "jpg"
                pixels = random.integers(0, 256, size, np.uint8)
                cv2.imwrite(str(folder / f"{number}.{kind}"), pixels)
        found = conversions.convert(tmp_path / "photos", tmp_path / "records").manifest
        rows = tuple(dataclasses.replace(r, split="train") for r in found.included())
        assert len(rows) == 12
        found = dataclasses.replace(found, rows=rows)
        spec = dataclasses.replace(SPEC, resize=resize, mean=(90.0, 90.0, 90.0))
        settings = {"crop_area": "0.08,1", **CHANGES, "spec": spec}
        values = self.epoch(found, **settings)
        assert len(values["row"]) == len(rows)
        channels = values["image"].astype(int)
        assert np.abs(channels - channels[..., :1]).max() <= 1
        mixed = self.epoch(found, **settings, **MIXES)
        assert mixed["label"].shape == (12, 2)

    def test_neither_deterministic_ops_nor_the_number_of_threads_change_anything(
        self, found, monkeypatch
    ):
        before = self.epoch(found, **EVERYTHING)
        tf.config.experimental.enable_op_determinism()
        cpus = set(list(os.sched_getaffinity(0))[:1])
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus)
        assert are_equal(before, self.epoch(found, **EVERYTHING))
