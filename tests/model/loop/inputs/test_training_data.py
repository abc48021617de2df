import collections

import cv2
import keras
import numpy as np
import pytest

from model.loop.inputs import cache_key, training_data
from model.networks import registry
from model.training import stages
from pipeline.batches import augmentation_settings, crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import example_format, manifest, tfrecord
from pipeline.records.manifest_row import Row

NUM_TRAINING, NUM_VALIDATION = 23, 70  # more than one validation batch
BATCH_SIZE = 5
SPEC = InputSpec(size_px=4, short_side_px=6, source="test")
PLAN = stages.StagePlan(
    network=registry.NETWORKS["alexnet"],  # no part of it is looked at
    spec=SPEC,
    features="mean",
    train_from="logits",
    cut="mean",
    num_classes=3,
    dropout=0.0,
    seed=7,
)


def write_numbered(directory):
    """Records of which photo n is grey of level 2 n in any window, and of class n % 3.

    Training, validation and test photos alternate; a skipped file lies between.
    """
    splits = ["validation", "train", "validation", "test"] * NUM_TRAINING
    splits += ["validation"] * (NUM_VALIDATION - splits.count("validation"))
    rows = []
    names = ("a", "b", "c")
    with (directory / "all.tfrecord").open("wb") as file:
        for number, split in enumerate(splits):
            pixels = np.full((9, 12, 3), 2 * number, np.uint8)
            sha256 = f"{number:064x}"
            stored = example_format.Record(
                encoded=cv2.imencode(".png", pixels)[1].tobytes(),
                format="png",
                height=9,
                width=12,
                label=number % 3,
                class_name=names[number % 3],
                path=f"{number:03d}.png",
                sha256=sha256,
            )
            record = tfrecord.frame(example_format.serialize(stored))
            row = Row(
                path=f"{number:03d}.png",
                class_name=names[number % 3],
                sha256=sha256,
                source_bytes=1,
                format="png",
                height=9,
                width=12,
                action="copied",
                group=sha256,
                split=split,
                file="all.tfrecord",
                offset=file.tell(),
                length=len(record),
            )
            rows.append(row)
            file.write(record)
    skipped = Row(
        path="004.txt", class_name="a", sha256="", source_bytes=1, action="skipped"
    )
    rows.insert(5, skipped)
    info = manifest.DatasetInfo(
        class_names=names, seed=0, shares={}, settings={}, versions={}, ignored={}
    )
    return manifest.Manifest(info=info, rows=tuple(rows), directory=directory)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    return write_numbered(tmp_path_factory.mktemp("numbered"))


def mean_trunk(size_px=SPEC.size_px):
    """A frozen network that says the mean of each channel."""
    image = keras.Input((size_px, size_px, 3))
    trunk = keras.Model(image, keras.layers.GlobalAveragePooling2D(name="mean")(image))
    trunk.trainable = False
    return trunk


def build_cached(found, cache_dir, num_views=1, plan=PLAN):
    trunk = mean_trunk(plan.spec.size_px)
    identity = cache_key.describe(trunk, plan.cut, plan.spec, "float32", found)
    cached = training_data.compute_features(
        found, trunk, plan.spec, num_views, cache_dir=cache_dir, identity=identity
    )
    return training_data.CachedFeatures(
        found, cached, num_views=num_views, batch_size=BATCH_SIZE, seed=plan.seed
    )


@pytest.fixture(params=["cached features", "cached features, 3 views", "photos"])
def build(request, numbered, tmp_path):
    """Makes one of the sources of examples, with a seed."""

    def build(seed=PLAN.seed):
        plan = stages.StagePlan(**{**vars(PLAN), "seed": seed})
        if request.param == "photos":
            return training_data.Photos(
                numbered, plan.spec, seed=plan.seed, batch_size=BATCH_SIZE
            )
        views = 3 if "3" in request.param else 1
        return build_cached(numbered, tmp_path, views, plan)

    return build


def numbers_of(batches):
    """The photos of each batch, told by their grey; labels must be theirs."""
    found = []
    for inputs, labels in batches:
        inputs = np.asarray(inputs, np.float64).reshape(len(labels), -1)
        assert (inputs == inputs[:, :1]).all()
        numbers = inputs[:, 0] / 2
        assert (np.asarray(labels) == numbers % 3).all()
        assert np.asarray(labels).dtype == np.int32
        found.append([int(number) for number in numbers])
    return found


def of_split(found, split):
    return [int(row.path[:3]) for row in found.included(split)]


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


def test_batches_mix_the_classes(build):
    batches = numbers_of(build().training(0))
    assert all(len({number % 3 for number in batch}) > 1 for batch in batches[:-1])


class TestViews:
    """With photos whose windows differ."""

    spec = InputSpec(size_px=8, short_side_px=12, source="test")
    plan = stages.StagePlan(**{**vars(PLAN), "spec": spec})

    def windows(self, found, split, views):
        """float64 [num_photos, 8, 8, 3] of a split, in the manifest's order."""
        rows = found.included(split)
        images = image_batches.Images(found, rows, self.spec, batch_size=len(rows))
        (batch,) = images.run(np.arange(len(rows)), views(images.sizes, self.spec))
        return np.asarray(batch["image"], np.float64)

    @pytest.mark.parametrize("num_views", [1, 3])
    def test_cached_validation_sees_the_central_window(
        self, found, tmp_path, num_views
    ):
        source = build_cached(found, tmp_path, num_views, self.plan)
        (inputs, _), *_ = source.validation()
        windows = self.windows(found, "validation", crop_and_resize.central_views)
        np.testing.assert_allclose(inputs, windows.mean((1, 2)), rtol=1e-5)

    def test_photos_validate_in_the_central_window(self, found):
        source = training_data.Photos(
            found, self.plan.spec, seed=self.plan.seed, batch_size=100
        )
        ((inputs, _),) = source.validation()
        windows = self.windows(found, "validation", crop_and_resize.central_views)
        assert (inputs.numpy() == windows).all()

    def test_a_single_view_is_the_same_in_every_epoch(self, found, tmp_path):
        source = build_cached(found, tmp_path, 1, self.plan)
        epochs = [self.features_of(source, epoch) for epoch in range(3)]
        assert epochs[0] == epochs[1] == epochs[2]

    def test_views_take_turns(self, found, tmp_path):
        """Each photo comes in each of its three views, about equally often.

        These features are means, so the mirrored centre has those of the centre.
        """
        source = build_cached(found, tmp_path, 3, self.plan)
        num_training = len(found.included("train"))
        counts = sum(
            (self.features_of(source, epoch) for epoch in range(60)),
            start=(collections.Counter()),
        )
        assert counts.total() == 60 * num_training
        assert len(counts) == 2 * num_training
        central = self.windows(found, "train", crop_and_resize.central_views).mean(
            (1, 2)
        )
        # Binomial(60, 2/3): mean 40, deviation 3.7.
        assert all(23 < counts[tuple(row)] < 57 for row in central)

    def features_of(self, source, epoch):
        """{features of a photo in a view: how often they came}."""
        return collections.Counter(
            tuple(np.asarray(row))
            for inputs, _ in source.training(epoch)
            for row in inputs
        )

    def test_photos_have_new_windows_in_every_epoch(self, found):
        source = training_data.Photos(
            found, self.plan.spec, seed=self.plan.seed, batch_size=100
        )
        (first, labels), (second, _) = (
            next(iter(source.training(epoch))) for epoch in (0, 1)
        )
        assert first.shape == (len(labels), 8, 8, 3)
        assert not {image.tobytes() for image in first.numpy()} & {
            image.tobytes() for image in second.numpy()
        }
        (again, _), *_ = training_data.Photos(
            found, self.plan.spec, seed=self.plan.seed, batch_size=100
        ).training(0)
        assert (again.numpy() == first.numpy()).all()

    def test_augmentation_changes_training_photos_alone(self, found):
        augmentation = augmentation_settings.Augmentation(brightness=1.0, mixup=0.4)
        plain = training_data.Photos(
            found, self.plan.spec, seed=self.plan.seed, batch_size=100
        )
        changed = training_data.Photos(
            found,
            self.plan.spec,
            seed=self.plan.seed,
            batch_size=100,
            augmentation=augmentation,
        )
        (one, labels), (other, shares) = (
            next(iter(source.training(0))) for source in (plain, changed)
        )
        assert (one.numpy() != other.numpy()).any(axis=(1, 2, 3)).mean() > 0.9
        assert shares.shape == (len(labels), 3)
        for mine, yours in zip(plain.validation(), changed.validation(), strict=True):
            for before, after in zip(mine, yours, strict=True):
                assert (before.numpy() == after.numpy()).all()

    def test_photos_that_do_not_train_are_cached_in_the_central_view_alone(
        self, found, tmp_path
    ):
        build_cached(found, tmp_path, 2, self.plan)
        (folder,) = tmp_path.iterdir()
        central, random = (np.load(folder / f"view{view}.done.npy") for view in (0, 1))
        splits = np.array([row.split for row in found.included()])
        assert set(splits[central]) == {"train", "validation"}
        assert set(splits[random]) == {"train"}
