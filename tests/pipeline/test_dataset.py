import collections
import dataclasses

import cv2
import numpy as np
import pytest
import tensorflow as tf

from pipeline import dataset, manifest, preprocess, schema

SPEC = preprocess.InputSpec(size_px=28, short_side_px=32, source="a test")


def images_of(found, rows=None, batch_size=7, **kwargs):
    rows = found.taken() if rows is None else rows
    return dataset.Images(found, rows, SPEC, batch_size=batch_size, **kwargs)


def central(images):
    return preprocess.central_views(images.sizes, SPEC)


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


def test_element_specs_are_as_announced(found):
    expected = dataset.element_spec(SPEC.size_px)
    training = dataset.Training(found, SPEC, batch_size=4, seed=0)
    evaluation = dataset.Evaluation(found, "test", SPEC, batch_size=4)
    for images in (training.images, evaluation.images):
        assert images.dataset.element_spec == expected


@pytest.mark.parametrize("batch_size", [1, 7, 48, 100])
def test_an_epoch_has_each_training_photo_once(found, batch_size):
    training = dataset.Training(found, SPEC, batch_size=batch_size, seed=0)
    rows = found.taken("train")
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
    rows = found.taken(split) if split else found.taken()
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
    views = preprocess.random_views(images.sizes, SPEC, (5,))
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
    order = np.random.default_rng(0).permutation(len(found.taken()))
    stored, read = (images_of(found, memory_bytes=size) for size in (1 << 30, 0))
    one, other = (collect(i.run(order, central(i))) for i in (stored, read))
    assert all((one[name] == other[name]).all() for name in one)


def test_records_in_memory_need_no_file(copy):
    images = images_of(copy, memory_bytes=1 << 30)
    for row in copy.taken():
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
    row = copy.taken()[3]
    flip_byte(copy.directory / row.file, row.offset + row.length // 2)
    images = images_of(copy)
    with pytest.raises(schema.DataError) as caught:
        collect(images.run(np.arange(len(images.rows)), central(images)))
    for part in (row.file, row.path, str(row.offset)):
        assert part in str(caught.value)
    # The others are still to be had.
    others = np.delete(np.arange(len(images.rows)), 3)
    assert len(collect(images.run(others, central(images)))["row"]) == len(others)


def test_a_file_cut_short_is_named(copy):
    row = copy.taken()[-1]
    path = copy.directory / row.file
    path.write_bytes(path.read_bytes()[:-10])
    images = images_of(copy)
    with pytest.raises(schema.DataError, match=row.file):
        collect(images.run(np.arange(len(images.rows)), central(images)))


def test_a_missing_file_is_named(copy):
    path = copy.directory / copy.taken()[0].file
    path.unlink()
    images = images_of(copy)
    with pytest.raises(FileNotFoundError, match=path.name):
        collect(images.run(np.arange(3), central(images)))


@pytest.mark.parametrize("field", ["sha256", "class_name"])
def test_a_record_that_is_not_the_manifests_is_refused(copy, field):
    rows = list(copy.taken())
    wrong = {"sha256": "0" * 64, "class_name": copy.class_names[-1]}
    rows[0] = dataclasses.replace(rows[0], **{field: wrong[field]})
    images = images_of(copy, rows=rows)
    with pytest.raises(schema.DataError, match="differ from the manifest"):
        collect(images.run(np.arange(len(rows)), central(images)))


def test_a_window_outside_the_image_is_an_error_not_garbage(copy):
    """A manifest whose sizes lie: the decoder refuses, and the folder is named."""
    rows = [dataclasses.replace(row, height=5000) for row in copy.taken()]
    images = images_of(copy, rows=[row for row in rows if row.format == "jpeg"])
    views = preprocess.random_views(images.sizes, SPEC, (0,))
    with pytest.raises(schema.DataError, match="does not decode") as caught:
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
