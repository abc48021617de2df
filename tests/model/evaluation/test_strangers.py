import dataclasses
import math
import pathlib
import zipfile

import keras
import numpy as np
import pytest

from model.evaluation import strangers
from pipeline.system.errors import DataError

CLASSES, SIZE, RUN = 3, 40, "run of the test"
CENTRES = np.random.default_rng(1).normal(size=(CLASSES, SIZE))
SCALES = np.geomspace(0.4, 0.02, SIZE)


def photos(count, seed):
    """Features around one point per class, with other variances in each direction."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    noise = random.normal(size=(count, SIZE)) * SCALES
    return (CENTRES[labels] + noise).astype(np.float32), labels


def in_batches(features, labels, size=64):
    starts = range(0, len(labels), size)
    return ((features[n : n + size], labels[n : n + size]) for n in starts)


def fitted(num_training=600, num_validation=400, num_classes=CLASSES):
    return strangers.fit(
        in_batches(*photos(num_training, 2)),
        in_batches(*photos(num_validation, 3)),
        num_training=num_training,
        num_classes=num_classes,
    )


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def training_vectors():
    """Scaled features of the training photos, class means, and differences of both."""
    features, labels = photos(600, 2)
    vectors = unit(np.float64(features))
    means = np.stack([vectors[labels == n].mean(axis=0) for n in range(CLASSES)])
    return vectors, means, vectors - means[labels]


@pytest.fixture(scope="module")
def scorer():
    return fitted()


class TestScores:
    def test_are_mahalanobis_distances_from_the_nearest_class_mean(self, scorer):
        _, means, within = training_vectors()
        variances, directions = np.linalg.eigh(within.T @ within / len(within))
        variances[: SIZE // 2] = variances[: SIZE // 2].mean()
        inverse = directions / variances @ directions.T
        vectors = unit(photos(50, 4)[0])
        difference = vectors[:, None] - means
        squares = np.einsum("pci,ij,pcj->pc", difference, inverse, difference)
        expected = np.sqrt(squares.min(axis=1))
        scores = scorer.scores(photos(50, 4)[0])
        assert scores / scores[0] == pytest.approx(expected / expected[0], rel=1e-3)
        # Squares of half the numbers have the mean 1, the others are as large together.
        assert expected.mean() == pytest.approx(math.sqrt(SIZE), rel=0.1)

    def test_do_not_depend_on_the_length_of_features(self, scorer):
        features, _ = photos(9, 5)
        expected = scorer.scores(features)
        assert scorer.scores(7 * features) == pytest.approx(expected, rel=1e-4)

    def test_five_percent_of_new_photos_reach_the_threshold(self):
        shares = [
            (fitted(num_validation=n).scores(photos(4000, 6)[0]) >= 1).mean()
            for n in (1000, 2000)
        ]
        assert shares == pytest.approx([0.05, 0.05], abs=0.015)

    def test_few_validation_photos_leave_the_threshold_to_training_photos(self):
        few = fitted(num_training=200, num_validation=18)
        assert few.num_validation == 0
        assert (few.scores(photos(4000, 6)[0]) >= 1).mean() < 0.1
        enough = fitted(num_training=200, num_validation=19)
        assert enough.num_validation == 19

    def test_strangers_have_higher_scores(self, scorer):
        random = np.random.default_rng(7)
        others = random.normal(size=(200, SIZE)).astype(np.float32)
        assert (scorer.scores(others) >= 1).all()

    def test_more_training_photos_than_the_covariance_takes_are_spread_evenly(self):
        many, most = fitted(num_training=3000), fitted(num_training=30_000)
        features, _ = photos(50, 4)
        assert most.scores(features) == pytest.approx(many.scores(features), rel=0.15)

    def test_there_may_be_more_classes_than_photos_in_the_covariance(self):
        count, size = 1500, 24
        random = np.random.default_rng(0)
        centres = random.normal(size=(count, size))

        def photos_of_each(per_class):
            labels = np.repeat(np.arange(count), per_class)
            noise = random.normal(size=(len(labels), size))
            return np.float32(centres[labels] + 0.1 * noise), labels

        scorer = strangers.fit(
            in_batches(*photos_of_each(4)),
            in_batches(*photos_of_each(1)),
            num_training=4 * count,
            num_classes=count,
        )
        assert scorer.directions.shape == (size, size // 2)
        share = (scorer.scores(photos_of_each(2)[0]) >= 1).mean()
        assert share == pytest.approx(0.05, abs=0.02)
        others = np.float32(random.normal(size=(500, size)))
        assert (scorer.scores(others) >= 1).mean() > 0.9

    def test_a_class_without_photos_has_no_mean(self):
        scorer = fitted(num_classes=CLASSES + 2)
        assert scorer.offsets.shape == (CLASSES,)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x: x[:CLASSES], "3 training photos of 3 classes are too few"),
            (lambda x: np.ones_like(x), "all alike"),
            (lambda x: x * np.nan, "infinite or NaN"),
        ],
    )
    def test_what_shows_nothing_gives_no_score(self, change, message):
        features, labels = photos(60, 2)
        features = change(features)
        batch = [(features, labels[: len(features)])]
        with pytest.raises(strangers.NoScore, match=message):
            strangers.fit(batch, batch, num_training=60, num_classes=CLASSES)


@dataclasses.dataclass
class Photos:
    """A source of as many photos."""

    num_training: int
    num_validation: int

    def central_training(self, most):
        return in_batches(*photos(min(most, self.num_training), 2))

    def validation(self):
        return in_batches(*photos(self.num_validation, 3))


@dataclasses.dataclass
class Folder:
    directory: pathlib.Path
    identity: str = RUN


def write(folder, source):
    """Write as a training does whose cached features are the input of the head."""
    features = keras.Input((SIZE,))
    tail = keras.Model(features, keras.layers.Dense(CLASSES, name="logits")(features))
    strangers.write(folder, tail, source, CLASSES, source.num_training)


class TestFile:
    @pytest.fixture
    def path(self, tmp_path):
        write(Folder(tmp_path), Photos(600, 400))
        return tmp_path / strangers.FILE_NAME

    def read(self, path, run=RUN, num_classes=CLASSES, shape=(SIZE,)):
        return strangers.read(path, run=run, num_classes=num_classes, shape=shape)

    def test_gives_the_same_scores(self, path, scorer):
        features, _ = photos(50, 4)
        read = self.read(path)
        assert np.array_equal(read.scores(features), scorer.scores(features))
        assert read.num_validation == 400

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"run": np.zeros(3, np.uint8)}, "identity of this run"),
            ({"mean": None}, "mean"),
            ({"mean": np.zeros(7, np.float32)}, r"mean: expected float32 \[40\]"),
            ({"mean": np.zeros(SIZE)}, "mean: expected float32"),
            ({"directions": np.zeros((SIZE, 20, 1), np.float32)}, "directions"),
            ({"offsets": np.zeros(4, np.float32)}, "expected float32"),
            ({"offsets": np.full(3, np.nan, np.float32)}, "finite"),
            ({"weights": np.zeros((SIZE, 2), np.float32)}, "weights"),
            ({"scale": np.float32(0)}, "scores of the classes"),
            ({"scale": np.float32(-1)}, "scores of the classes"),
            ({"scale": np.zeros(2)}, "damaged"),
            ({"scale": np.array({"a": 1})}, "damaged"),
        ],
    )
    def test_of_other_content_is_refused(self, path, changes, message):
        with np.load(path) as arrays:
            content = {**arrays, **changes}
        kept = {name: array for name, array in content.items() if array is not None}
        np.savez(path, **kept)
        with pytest.raises(DataError, match=message) as refused:
            self.read(path)
        assert str(refused.value).startswith(f"{path}: damaged, or another run's (")

    def test_of_no_archive_or_a_cut_one_is_refused(self, path):
        content = path.read_bytes()
        for data in (b"", b"text", content[: len(content) // 2]):
            path.write_bytes(data)
            with pytest.raises(DataError, match="damaged, or another run's"):
                self.read(path)

    def test_that_unpacks_to_far_more_is_refused(self, path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("mean.npy", bytes(100 << 20))
        with pytest.raises(DataError, match="bytes unpacked"):
            self.read(path)

    def test_of_a_network_of_another_size_or_number_of_classes_is_refused(self, path):
        with pytest.raises(DataError, match="mean"):
            self.read(path, shape=(SIZE + 1,))
        with pytest.raises(DataError, match="scores of the classes"):
            self.read(path, num_classes=2)

    def test_is_not_written_if_nothing_can_be_fitted(self, tmp_path, capsys):
        write(Folder(tmp_path), Photos(CLASSES, 400))
        assert not list(tmp_path.iterdir())
        assert (
            "note: the run has no stranger score. 3 training" in capsys.readouterr().err
        )


class TestAuroc:
    def test_is_the_share_of_pairs_in_order(self):
        area, low, high = strangers.auroc(np.array([1.0, 2, 3]), np.array([2.5, 4]))
        assert area == pytest.approx(5 / 6)
        assert 0 < low < area < high <= 1
        equal = strangers.auroc(np.ones(5), np.ones(4))
        assert equal[0] == 0.5

    def test_the_interval_of_a_perfect_order_has_a_width(self):
        area, low, high = strangers.auroc(np.arange(50.0), 100 + np.arange(50.0))
        assert (area, high) == (1, 1)
        assert 0.9 < low < 0.99

    def test_the_interval_covers_the_true_area_in_95_percent_of_draws(self):
        random = np.random.default_rng(0)
        shift = 1.5
        truth = 0.5 * (1 + math.erf(shift / 2))
        draws = [
            strangers.auroc(random.normal(size=60), shift + random.normal(size=80))
            for _ in range(400)
        ]
        assert np.mean([area for area, *_ in draws]) == pytest.approx(truth, abs=0.01)
        covered = np.mean([low <= truth <= high for _, low, high in draws])
        assert 0.92 <= covered <= 0.985
