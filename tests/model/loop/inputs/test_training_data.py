import collections

import cv2
import keras
import numpy as np
import pytest

from model.loop.inputs import feature_cache, training_data
from pipeline.batches import augmentation_settings, crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest, stored_photo, tfrecord
from pipeline.records.manifest_row import Row

NUM_TRAINING, NUM_VALIDATION = 23, 70  # more than one validation batch
BATCH_SIZE, SEED = 5, 7
SPEC = InputSpec(size_px=4, short_side_px=6, source="test")
# Windows of these photos differ.
LARGE_SPEC = InputSpec(size_px=8, short_side_px=12, source="test")


def write_numbered(directory):
    """Records of which photo n is grey of level 2 n in any window, and of class n % 3.

    Training, validation and test photos alternate; a skipped file lies between.
    """
    splits = ["validation", "train", "validation", "test"] * NUM_TRAINING
    splits += ["validation"] * (NUM_VALIDATION - splits.count("validation"))
    rows = []
    with (directory / "all.tfrecord").open("wb") as file:
        for number, split in enumerate(splits):
            pixels = np.full((9, 12, 3), 2 * number, np.uint8)
            photo = {"path": f"{number:03d}.png", "class_name": "abc"[number % 3]}
            photo |= {"sha256": f"{number:064x}", "format": "png"}
            photo |= {"height": 9, "width": 12}
            stored = stored_photo.Record(
                encoded=cv2.imencode(".png", pixels)[1].tobytes(),
                label=number % 3,
                **photo,
            )
            record = tfrecord.frame(stored_photo.serialize(stored))
            place = {"offset": file.tell(), "length": len(record)}
            place |= {"file": "all.tfrecord", "split": split, "group": stored.sha256}
            rows.append(Row(**photo, **place, source_bytes=1, action="copied"))
            file.write(record)
    skipped = Row(
        path="004.txt", class_name="a", sha256="", source_bytes=1, action="skipped"
    )
    rows.insert(5, skipped)
    empty = {name: {} for name in ("shares", "settings", "versions", "ignored")}
    info = manifest.DatasetInfo(class_names=tuple("abc"), seed=0, **empty)
    return manifest.Manifest(info=info, rows=tuple(rows), directory=directory)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    return write_numbered(tmp_path_factory.mktemp("numbered"))


def cached(records, cache_dir, num_views=1, spec=SPEC, seed=SEED):
    """Features that are the mean of each channel."""
    image = keras.Input((spec.size_px, spec.size_px, 3))
    trunk = keras.Model(image, keras.layers.GlobalAveragePooling2D(name="mean")(image))
    trunk.trainable = False
    identity = feature_cache.identity_of(trunk, "mean", spec, "float32")
    features = training_data.compute_features(
        records, trunk, spec, num_views, cache_dir=cache_dir, identity=identity
    )
    return training_data.CachedFeatures(
        records, features, num_views=num_views, batch_size=BATCH_SIZE, seed=seed
    )


def photos(records, spec=LARGE_SPEC, seed=SEED, batch_size=100, **options):
    return training_data.Photos(
        records, spec, seed=seed, batch_size=batch_size, **options
    )


@pytest.fixture(params=["cached features", "cached features, 3 views", "photos"])
def build(request, numbered, tmp_path):
    """Return a function from a seed to one of the sources."""

    def build(seed=SEED):
        if request.param == "photos":
            return photos(numbered, SPEC, seed, BATCH_SIZE)
        return cached(numbered, tmp_path, 3 if "3" in request.param else 1, seed=seed)

    return build


def numbers_of(batches):
    """Return the photos of each batch by their grey; labels must be theirs."""
    photos = []
    for inputs, labels in batches:
        inputs = np.asarray(inputs, np.float64).reshape(len(labels), -1)
        assert (inputs == inputs[:, :1]).all()
        numbers = inputs[:, 0] / 2
        assert (np.asarray(labels) == numbers % 3).all()
        assert np.asarray(labels).dtype == np.int32
        photos.append([int(number) for number in numbers])
    return photos


def of_split(records, split):
    return [int(row.path[:3]) for row in records.included(split)]


def flat(batches):
    return [number for batch in batches for number in batch]


def test_an_epoch_has_each_training_photo_once(build, numbered):
    source = build()
    for epoch in (0, 1, 5):
        batches = numbers_of(source.training(epoch))
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
        assert sorted(flat(batches)) == of_split(numbered, "train")


def test_validation_has_each_photo_once_in_the_manifests_order(build, numbered):
    """The calibration pairs these logits with the manifest's labels."""
    source = build()
    for _ in range(2):
        assert flat(numbers_of(source.validation())) == of_split(numbered, "validation")


def test_seed_and_epoch_decide_the_order(build):
    source, again, other = build(), build(), build(seed=8)
    orders = [flat(numbers_of(source.training(epoch))) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert sorted(orders[0]) != orders[0]
    # Any epoch can be had at any time: that is what resuming needs.
    assert flat(numbers_of(again.training(2))) == orders[2]
    assert flat(numbers_of(again.training(0))) == orders[0]
    assert flat(numbers_of(other.training(0))) != orders[0]


def central_windows(records, split):
    """float64 [num_photos, 8, 8, 3] of a split, in the manifest's order."""
    rows = records.included(split)
    images = image_batches.Images(records, rows, LARGE_SPEC, batch_size=len(rows))
    views = crop_and_resize.central_views(images.sizes, LARGE_SPEC)
    (batch,) = images.run(np.arange(len(rows)), views)
    return np.asarray(batch["image"], np.float64)


def counts_of(source, epoch):
    """Return {features of a photo in a view: how often they came}."""
    batches = source.training(epoch)
    return collections.Counter(
        tuple(np.asarray(row)) for inputs, _ in batches for row in inputs
    )


@pytest.mark.parametrize("num_views", [1, 3])
def test_cached_validation_sees_the_central_window(found, tmp_path, num_views):
    (inputs, _), *_ = cached(found, tmp_path, num_views, LARGE_SPEC).validation()
    expected = central_windows(found, "validation").mean((1, 2))
    np.testing.assert_allclose(inputs, expected, rtol=1e-5)


def test_photos_validate_in_the_central_window(found):
    ((inputs, _),) = photos(found).validation()
    assert (inputs.numpy() == central_windows(found, "validation")).all()


def test_a_single_view_is_the_same_in_every_epoch(found, tmp_path):
    source = cached(found, tmp_path, 1, LARGE_SPEC)
    first, *others = (counts_of(source, epoch) for epoch in range(3))
    assert others == [first, first]


def test_views_take_turns(found, tmp_path):
    """Each photo comes in each of its three views, about equally often.

    These features are means, so the mirrored centre has those of the centre.
    """
    source = cached(found, tmp_path, 3, LARGE_SPEC)
    num_training = len(found.included("train"))
    counts = collections.Counter()
    for epoch in range(60):
        counts += counts_of(source, epoch)
    assert counts.total() == 60 * num_training
    assert len(counts) == 2 * num_training
    central = central_windows(found, "train").mean((1, 2))
    # Binomial(60, 2/3): mean 40, deviation 3.7.
    assert all(23 < counts[tuple(row)] < 57 for row in central)


def test_photos_have_new_windows_in_every_epoch(found):
    source = photos(found)
    ((first, labels),), ((second, _),) = (source.training(epoch) for epoch in (0, 1))
    assert first.shape == (len(labels), 8, 8, 3)
    assert not {image.tobytes() for image in first.numpy()} & {
        image.tobytes() for image in second.numpy()
    }
    ((again, _),) = photos(found).training(0)
    assert (again.numpy() == first.numpy()).all()


def test_augmentation_changes_training_photos_alone(found):
    augmentation = augmentation_settings.Augmentation(brightness=1.0, mixup=0.4)
    plain, changed = photos(found), photos(found, augmentation=augmentation)
    ((one, labels),), ((other, shares),) = plain.training(0), changed.training(0)
    assert (one.numpy() != other.numpy()).any(axis=(1, 2, 3)).mean() > 0.9
    assert shares.shape == (len(labels), 3)
    for before, after in zip(plain.validation(), changed.validation(), strict=True):
        assert all(map(np.array_equal, before, after))


def test_photos_that_do_not_train_are_cached_in_the_central_view_alone(found, tmp_path):
    cached(found, tmp_path, 2, LARGE_SPEC)
    (folder,) = tmp_path.iterdir()
    central, random = (
        np.fromfile(folder / f"view{view}.crc32c", np.uint32) != 0 for view in (0, 1)
    )
    splits = np.array([row.split for row in found.included()])
    assert central.all()
    assert set(splits[random]) == {"train"}
