import json

import numpy as np
import pytest

from model.evaluation import label_errors, run_evaluation
from model.runs import run_folder
from pipeline.records.manifest_row import Row
from tests.support import evaluated_runs

# Self-confidence of class 0 is on average 0.55, of class 1 it is 0.8.
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]])
LABELS = np.array([0, 0, 1, 1])


def test_thresholds_match_those_computed_by_hand():
    found = label_errors.class_thresholds(PROBABILITIES, LABELS)
    np.testing.assert_allclose(found, [0.55, 0.8])


def test_a_class_without_photos_is_never_suggested():
    probabilities = np.array([[0.1, 0.9], [0.1, 0.9]])
    labels = np.array([0, 0])
    assert label_errors.class_thresholds(probabilities, labels).tolist() == [
        0.1,
        np.inf,
    ]
    assert label_errors.find_label_errors(probabilities, labels) == []


def test_label_errors_match_those_computed_by_hand():
    """The third photo is confidently of neither class."""
    assert label_errors.find_label_errors(PROBABILITIES, LABELS) == [
        label_errors.LabelError(
            example=1,
            label=0,
            suggested=1,
            label_probability=0.2,
            suggested_probability=0.8,
        )
    ]


def test_a_mistake_that_is_not_confident_is_no_doubt():
    """Taken for class 1 by argmax, but less surely than photos of class 1 are."""
    probabilities = np.array([[0.45, 0.55], [0.9, 0.1], [0.05, 0.95], [0.1, 0.9]])
    assert label_errors.find_label_errors(probabilities, np.array([0, 0, 1, 1])) == []


def test_the_likeliest_first_and_the_most_probable_class():
    own = np.eye(3)[[0, 0, 1, 1, 2, 2]] * 0.9 + 0.05
    odd = np.array([[0.02, 0.03, 0.95], [0.01, 0.98, 0.01]])
    probabilities = np.concatenate([own, odd])
    found = label_errors.find_label_errors(
        probabilities, np.array([0, 0, 1, 1, 2, 2, 0, 0])
    )
    assert [(one.example, one.suggested) for one in found] == [(7, 1), (6, 2)]


def test_planted_labels_are_found():
    """Of 300 photos, 15 were given another label; the network was not told."""
    random = np.random.default_rng(0)
    true = random.integers(0, 3, 300)
    logits = random.normal(0, 1, (300, 3)) + 5 * np.eye(3)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = true.copy()
    labels[:15] = (true[:15] + 1) % 3
    errors = label_errors.find_label_errors(probabilities, labels)
    assert {error.example for error in errors[:13]} <= set(range(15))


def test_equal_probabilities_are_above_their_own_mean():
    """0.1 + 0.1 + 0.1 is more than 3 x 0.1."""
    probabilities = np.array([[0.1, 0.9]] * 3)
    found = label_errors.find_label_errors(probabilities, np.array([1, 1, 0]))
    assert [one.example for one in found] == [2]


def test_no_photos_have_no_label_errors():
    assert label_errors.find_label_errors(np.zeros((0, 2)), np.zeros(0, int)) == []


def test_training_photos_do_not_count(found, tmp_path):
    seen = {row.sha256 for row in found.included("train", "validation")}
    evaluation = evaluated_runs.judged(tmp_path / "run", found, seen=seen)
    assert evaluation.unseen.rows == list(found.included("test"))
    entry = evaluation.figures["label_doubts"]
    assert entry["num_examples"] == len(found.included("test"))
    assert evaluation.figures["photos_seen"] == len(seen)


def test_without_unseen_photos_there_are_no_label_errors(found, tmp_path):
    seen = {row.sha256 for row in found.included()}
    evaluation = evaluated_runs.judged(tmp_path / "run", found, seen=seen)
    entry = evaluation.figures["label_doubts"]
    assert (entry["num_examples"], entry["photos"]) == (0, [])


def test_label_errors_name_photos_and_classes():
    kind = {"class_name": "a", "source_bytes": 1, "action": "copied"}
    rows = [Row(path=f"{n}.jpg", sha256=str(n), **kind) for n in range(4)]
    unseen = label_errors.UnseenPhotos(
        rows=rows,
        labels=np.array([0, 0, 1, 1]),
        probabilities=PROBABILITIES,
        source="a test",
    )
    assert unseen.figures(["cat", "dog"]) == {
        "source": "a test",
        "num_examples": 4,
        "num_doubts": 1,
        "photos": [
            {
                "path": "1.jpg",
                "label": "cat",
                "label_probability": 0.2,
                "suggested": "dog",
                "suggested_probability": 0.8,
            }
        ],
    }


class TestFolds:
    @pytest.fixture
    def folds(self, found, tmp_path):
        """Two runs of three, each evaluated on a part of the photos."""
        plan = {"settings": {"folds": 3}}
        (tmp_path / run_folder.REPEATS).write_text(json.dumps(plan))
        runs = []
        for number, split in enumerate(("test", "validation")):
            finished = evaluated_runs.write_run(tmp_path / f"fold-{number}", found)
            evaluation = run_evaluation.evaluate_run(finished, found, split)
            for name in ("json", "npz"):  # as if it had been this fold's test split
                path = evaluation.path.with_suffix(f".{name}")
                path.rename(path.with_stem("test"))
            runs.append(finished)
        return runs

    def test_photos_of_all_evaluated_folds_count(self, folds, found):
        unseen = label_errors.unseen_in_folds(folds[0], found)
        assert unseen.source == "out-of-fold probabilities of 2 of 3 folds"
        expected = [*found.included("test"), *found.included("validation")]
        assert [row.path for row in unseen.rows] == [row.path for row in expected]
        labels = [found.labels[row.class_name] for row in expected]
        assert unseen.labels.tolist() == labels
        np.testing.assert_allclose(unseen.probabilities.sum(axis=1), 1)
        here = run_evaluation.evaluate_run(folds[0], found, "test")
        np.testing.assert_allclose(
            unseen.probabilities[: len(found.included("test"))],
            here.predictions.probabilities(),
            rtol=1e-6,
        )
        assert here.figures["label_doubts"]["num_examples"] == len(expected)

    def test_a_fold_whose_model_has_changed_does_not_count(self, folds, found):
        path = folds[1].directory / "model.keras"
        path.write_bytes(path.read_bytes() + b"\0")
        # One evaluated fold alone is not enough.
        assert label_errors.unseen_in_folds(folds[0], found) is None

    def test_a_run_outside_folds_has_none(self, found, tmp_path):
        finished = evaluated_runs.write_run(tmp_path / "run", found)
        assert label_errors.unseen_in_folds(finished, found) is None

    @pytest.mark.parametrize("plan", ["", "{}", '{"settings": {"folds": "many"}}'])
    def test_a_damaged_plan_counts_as_no_folds(self, found, tmp_path, plan):
        finished = evaluated_runs.write_run(tmp_path / "fold-0", found)
        (tmp_path / run_folder.REPEATS).write_text(plan)
        assert label_errors.unseen_in_folds(finished, found) is None
