import collections
import dataclasses
import os

import cv2
import numpy as np
import pytest
import tensorflow as tf

from pipeline.batches import (
    augment_images,
    augmentation_settings,
    crop_and_resize,
    dataset,
    image_batches,
    random_augmentation,
)
from pipeline.batches.input_spec import InputSpec
from pipeline.convert import conversion, convert_settings
from pipeline.records import manifest
from pipeline.system.errors import DataError

SPEC = InputSpec(size_px=28, short_side_px=32, source="a test")


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


@pytest.fixture
def copy(shared_records, tmp_path):
    """A copy of the records that a test may damage."""
    for path in shared_records.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return manifest.read(tmp_path)


def element_spec(label):
    """The whole element_spec of batches whose labels are as given."""
    return {
        "image": tf.TensorSpec([None, 28, 28, 3], tf.uint8),
        "label": label,
        "row": tf.TensorSpec([None], tf.int64),
    }


def test_element_specs_are_as_announced(found):
    expected = element_spec(tf.TensorSpec([None], tf.int32))
    training = dataset.Training(found, SPEC, batch_size=4, seed=0)
    evaluation = dataset.Evaluation(found, "test", SPEC, batch_size=4)
    for images in (training.images, evaluation.images):
        assert images.dataset.element_spec == expected


@pytest.mark.parametrize("batch_size", [1, 7, 48, 100])
def test_an_epoch_has_each_training_photo_once(found, batch_size):
    training = dataset.Training(found, SPEC, batch_size=batch_size, seed=0)
    rows = found.included("train")
    for epoch in range(2):
        batches = list(training.epoch(epoch))
        sizes = [len(batch["row"]) for batch in batches]
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        values = collect(batches)
        assert sorted(values["row"]) == list(range(len(rows)))
        names = [found.class_names[label] for label in values["label"]]
        assert names == [rows[number].class_name for number in values["row"]]


@pytest.mark.parametrize("split", ["train", "validation", "test", ""])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_evaluation_sees_each_photo_once_in_order(found, split, batch_size):
    evaluation = dataset.Evaluation(found, split, SPEC, batch_size=batch_size)
    rows = found.included(split) if split else found.included()
    values = collect(evaluation)
    assert values["row"].tolist() == list(range(len(rows)))
    assert values["label"].tolist() == [found.labels[r.class_name] for r in rows]
    assert (collect(evaluation)["image"] == values["image"]).all()  # and again


def test_batches_are_mixed_although_files_hold_one_class_each(found):
    training = dataset.Training(found, SPEC, batch_size=16, seed=0)
    for batch in list(training.epoch(0))[:-1]:
        assert len(set(batch["label"].numpy())) == 3


def test_order_and_windows_are_a_function_of_seed_and_epoch(found):
    def epoch(seed, number):
        training = dataset.Training(found, SPEC, batch_size=16, seed=seed)
        return collect(training.epoch(number))

    one, same = epoch(0, 1), epoch(0, 1)
    assert all((one[name] == same[name]).all() for name in one)
    for other in (epoch(0, 2), epoch(1, 1)):
        assert one["row"].tolist() != other["row"].tolist()
        number = one["row"][0]
        place = other["row"].tolist().index(number)
        assert (one["image"][0] != other["image"][place]).any()


def test_an_epoch_can_start_in_the_middle(found):
    training = dataset.Training(found, SPEC, batch_size=8, seed=0)
    whole, rest = collect(training.epoch(3)), collect(training.epoch(3, start=16))
    for name, values in whole.items():
        assert (rest[name] == values[16:]).all()


def test_pixels_are_those_of_the_source_photo(found, shared_records):
    """Decoded with OpenCV from the source folder, cropped and resized by hand."""
    images = images_of(found)
    views = crop_and_resize.random_views(images.sizes, SPEC, (5,))
    values = collect(images.run(np.arange(len(images.rows)), views))
    source = shared_records.parent / "photos"
    kinds = collections.Counter()
    for number, row in enumerate(images.rows):
        pixels = cv2.imread(str(source / row.path), cv2.IMREAD_COLOR_RGB)
        top, left, height, width = views.windows[number]
        window = pixels[top : top + height, left : left + width].astype(np.float32)
        while min(window.shape[:2]) >= 2 * SPEC.size_px:
            size = (window.shape[1] // 2, window.shape[0] // 2)
            even = window[: size[1] * 2, : size[0] * 2]
            window = cv2.resize(even, size, interpolation=cv2.INTER_AREA)
        expected = cv2.resize(window, (SPEC.size_px,) * 2)
        if views.mirrored[number]:
            expected = expected[:, ::-1]
        difference = np.abs(values["image"][number] - expected)
        kinds[row.format] += 1
        assert difference.mean() < 1, row.path
        assert difference.max() < (1.1 if row.format == "png" else 20), row.path
    assert min(kinds["png"], kinds["jpeg"]) > 5


def test_memory_and_disk_give_the_same(found):
    order = np.random.default_rng(0).permutation(len(found.included()))
    stored, read = (images_of(found, memory_bytes=size) for size in (1 << 30, 0))
    one, other = (collect(i.run(order, central(i))) for i in (stored, read))
    assert all((one[name] == other[name]).all() for name in one)


def test_records_in_memory_need_no_file(copy):
    images = images_of(copy, memory_bytes=1 << 30)
    for row in copy.included():
        (copy.directory / row.file).unlink(missing_ok=True)
    assert len(collect(images.run(np.arange(5), central(images)))["row"]) == 5


def test_no_rows_give_no_batches(found):
    images = images_of(found, rows=())
    assert list(images.run(np.zeros(0, np.int64), central(images))) == []


def flip_byte(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_a_damaged_record_is_named(copy):
    row = copy.included()[3]
    flip_byte(copy.directory / row.file, row.offset + row.length // 2)
    images = images_of(copy)
    with pytest.raises(DataError) as caught:
        collect(images.run(np.arange(len(images.rows)), central(images)))
    for part in (row.file, row.path, str(row.offset)):
        assert part in str(caught.value)
    # The others are still to be had.
    others = np.delete(np.arange(len(images.rows)), 3)
    assert len(collect(images.run(others, central(images)))["row"]) == len(others)


def test_a_file_cut_short_is_named(copy):
    row = copy.included()[-1]
    path = copy.directory / row.file
    path.write_bytes(path.read_bytes()[:-10])
    images = images_of(copy)
    with pytest.raises(DataError, match=row.file):
        collect(images.run(np.arange(len(images.rows)), central(images)))


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
    with pytest.raises(DataError, match="differ from the manifest"):
        collect(images.run(np.arange(len(rows)), central(images)))


def test_a_window_outside_the_image_is_an_error_not_garbage(copy):
    """A manifest whose sizes lie: the decoder refuses, and the folder is named."""
    rows = [dataclasses.replace(row, height=5000) for row in copy.included()]
    images = images_of(copy, rows=[row for row in rows if row.format == "jpeg"])
    views = crop_and_resize.random_views(images.sizes, SPEC, (0,))
    with pytest.raises(DataError, match="does not decode") as caught:
        collect(images.run(np.arange(len(images.rows)), views))
    assert str(copy.directory) in str(caught.value)


def test_permutations_are_even():
    """Over many epochs every photo comes first about as often."""
    firsts = [dataset.permutation(8, (0, epoch))[0] for epoch in range(800)]
    counts = np.bincount(firsts, minlength=8)
    assert counts.min() > 60
    assert counts.max() < 140


def test_deterministic_ops_change_nothing(found):
    """They used to take all parallelism from a pipeline; and they must not fail."""
    images = images_of(found)
    before = collect(images.run(np.arange(20), central(images)))
    tf.config.experimental.enable_op_determinism()
    images = images_of(found)
    after = collect(images.run(np.arange(20), central(images)))
    assert (before["image"] == after["image"]).all()


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
        return dataset.Training(
            found, spec, batch_size=batch_size, seed=seed, augmentation=augmentation
        )

    def epoch(self, found, number=1, start=0, **how):
        return collect(self.training(found, **how).epoch(number, start))

    def test_off_is_bit_by_bit_what_it_was(self, found):
        images = images_of(found, rows=found.included("train"), batch_size=8)
        views = crop_and_resize.random_views(images.sizes, SPEC, (0, 1, 1))
        order = crop_and_resize.seeded_generator((0, 1, 0)).permutation(
            len(images.rows)
        )
        before = collect(images.run(order, views))
        now = self.epoch(found)
        assert all((now[name] == before[name]).all() for name in before)

    @pytest.mark.parametrize(
        "settings",
        [{"crop_area": "0.08,1"}, {"cutout": 0.3}, EVERYTHING],
        ids=["crop_area", "cutout", "everything"],
    )
    def test_the_same_seed_gives_the_same_and_no_other_does(self, found, settings):
        one, same = (self.epoch(found, **settings) for _ in range(2))
        assert all((one[name] == same[name]).all() for name in one)
        plain = self.epoch(found)
        assert (plain["row"] == one["row"]).all()
        changed = (plain["image"] != one["image"]).any(axis=(1, 2, 3))
        assert changed.mean() > 0.9
        for other in ({"number": 2}, {"seed": 1}):
            images = self.epoch(found, **other, **settings)["image"]
            seen = {image.tobytes() for image in images}
            assert not seen & {image.tobytes() for image in one["image"]}

    def test_can_start_in_the_middle(self, found):
        training = self.training(found, **EVERYTHING)
        whole, rest = collect(training.epoch(3)), collect(training.epoch(3, start=16))
        for name, values in whole.items():
            assert (rest[name] == values[16:]).all()

    def test_validation_is_never_changed(self, found):
        before = collect(dataset.Evaluation(found, "validation", SPEC, batch_size=5))
        self.epoch(found, **EVERYTHING)
        after = collect(dataset.Evaluation(found, "validation", SPEC, batch_size=5))
        assert all((before[name] == after[name]).all() for name in before)
        assert after["label"].dtype == np.int32

    def test_images_are_those_of_the_operations_on_the_plain_ones(self, found):
        augmentation = augmentation_settings.Augmentation(**CHANGES)
        plain, changed = self.epoch(found), self.epoch(found, **CHANGES)
        rows = found.included("train")
        sizes = np.array([(row.height, row.width) for row in rows])
        order = dataset.permutation(len(rows), (0, 1))
        views = random_augmentation.draw_views(augmentation, sizes, SPEC, order, (0, 1))
        kinds = collections.Counter()
        for place, number in enumerate(changed["row"]):
            image = tf.constant(plain["image"][place])
            expected = augment_images.augment(
                augmentation, image, views.numbers[number]
            )
            assert (changed["image"][place] == expected.numpy()).all()
            kinds[rows[number].format] += 1
        assert min(kinds["png"], kinds["jpeg"]) > 2

    def test_crops_are_those_parts_of_the_photo(self, found, shared_records):
        crops = {"crop_area": "0.3,1", "mirror": False}
        values = self.epoch(found, **crops)
        rows = found.included("train")
        sizes = np.array([(row.height, row.width) for row in rows])
        order = dataset.permutation(len(rows), (0, 1))
        augmentation = augmentation_settings.Augmentation(**crops)
        windows = random_augmentation.draw_views(
            augmentation, sizes, SPEC, order, (0, 1)
        ).windows
        for number, image in zip(values["row"], values["image"], strict=True):
            path = shared_records.parent / "photos" / rows[number].path
            pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB).astype(np.float32)
            top, left, height, width = windows[number]
            window = pixels[top : top + height, left : left + width]
            whole = cv2.resize(window, (28, 28), interpolation=cv2.INTER_AREA)
            assert np.abs(image - whole).mean() < 8

    @pytest.mark.parametrize("batch_size", [1, 7, 48])
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
            own = one["label"].numpy()
            partners = np.roll(own, 1)
            inside = (np.arange(3) == own[:, None]) | (
                np.arange(3) == partners[:, None]
            )
            assert not labels[~inside].any()

    def test_views_of_another_augmentation_are_refused(self, found):
        training = self.training(found, **CHANGES)
        images = training.images
        with pytest.raises(ValueError, match="0 numbers an image, expected 11"):
            list(images.run(np.arange(2), central(images)))

    @pytest.mark.parametrize("resize", ["crop", "squash"])
    def test_grey_tiny_and_thin_photos(self, tmp_path, resize):
        random = np.random.default_rng(0)
        sizes = [(1, 1), (3, 200), (200, 3), (40, 64), (90, 30), (33, 33)]
        for name in ("one", "two"):
            (tmp_path / "photos" / name).mkdir(parents=True)
            for number, size in enumerate(sizes):
                pixels = random.integers(0, 256, size, np.uint8)
                kind = "png" if number % 2 == 0 else "jpg"
                path = tmp_path / "photos" / name / f"{number}.{kind}"
                cv2.imwrite(str(path), pixels)
        config = convert_settings.Config(
            source=str(tmp_path / "photos"), out=str(tmp_path / "records"), workers=1
        )
        found = conversion.convert(config).manifest
        rows = tuple(dataclasses.replace(r, split="train") for r in found.included())
        assert len(rows) == 12
        found = dataclasses.replace(found, rows=rows)
        spec = dataclasses.replace(SPEC, resize=resize)
        settings = {"crop_area": "0.08,1", **CHANGES, "spec": spec}
        for number in range(3):
            values = self.epoch(found, number, **settings)
            assert len(values["row"]) == len(rows)
            channels = values["image"].astype(int)
            assert np.abs(channels - channels[..., :1]).max() <= 1
        mixed = self.epoch(found, **settings, **MIXES)
        assert mixed["label"].shape == (12, 2)

    def test_deterministic_ops_change_nothing(self, found):
        before = self.epoch(found, **EVERYTHING)
        tf.config.experimental.enable_op_determinism()
        after = self.epoch(found, **EVERYTHING)
        assert all((before[name] == after[name]).all() for name in before)

    def test_the_number_of_threads_changes_nothing(self, found, monkeypatch):
        before = self.epoch(found, **EVERYTHING)
        cpus = set(list(os.sched_getaffinity(0))[:1])
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus)
        alone = self.epoch(found, **EVERYTHING)
        assert all((before[name] == alone[name]).all() for name in before)
