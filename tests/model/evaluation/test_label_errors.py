import json

import numpy as np
import pytest

from model.evaluation import label_errors, run_evaluation
from model.evaluation.split_evaluation import EvaluationData
from model.runs import run_folder
from pipeline.records.manifest_row import Row
from tests.support import evaluated_runs

# Self-confidence of class 0 is on average 0.55, of class 1 it is 0.8.
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]])
LABELS = np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("probabilities", "labels", "expected"),
    [
        # The third photo is confidently of neither class.
        (PROBABILITIES, LABELS, [(1, 1)]),
        ([[0.1, 0.9], [0.1, 0.9]], [0, 0], []),
        # Class 1 is the most probable, but less sure than for the photos of class 1.
        ([[0.45, 0.55], [0.9, 0.1], [0.05, 0.95], [0.1, 0.9]], [0, 0, 1, 1], []),
        # 0.1 + 0.1 + 0.1 is more than 3 x 0.1.
        ([[0.1, 0.9]] * 3, [1, 1, 0], [(2, 1)]),
        (np.zeros((0, 2)), np.zeros(0, int), []),
    ],
    ids=["by hand", "a class without photos", "unsure", "equal", "no photos"],
)
def test_label_errors_match_those_computed_by_hand(probabilities, labels, expected):
    errors = label_errors.find_label_errors(np.array(probabilities), np.array(labels))
    assert list(zip(*(part.tolist() for part in errors), strict=True)) == expected


def test_the_most_probable_error_comes_first_with_the_most_probable_class():
    own = np.eye(3)[[0, 0, 1, 1, 2, 2]] * 0.9 + 0.05
    odd = np.array([[0.02, 0.03, 0.95], [0.01, 0.98, 0.01]])
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 0])
    examples, suggested = label_errors.find_label_errors(np.append(own, odd, 0), labels)
    assert (examples.tolist(), suggested.tolist()) == ([7, 6], [1, 2])


@pytest.mark.parametrize(
    ("seen", "unseen"),
    [(("train", "validation"), "test"), (("train", "validation", "test"), "none")],
)
def test_training_photos_do_not_count(found, tmp_path, seen, unseen):
    seen_photos = {row.sha256 for row in found.included(*seen)}
    evaluation = evaluated_runs.judged(tmp_path / "run", found, seen=seen_photos)
    assert evaluation.unseen.rows == list(found.included(unseen))
    entry = evaluation.figures["label_doubts"]
    assert entry["num_examples"] == len(found.included(unseen))
    assert evaluation.figures["photos_seen"] == len(seen_photos)


def test_label_errors_name_photos_and_classes():
    kind = {"class_name": "a", "source_bytes": 1, "action": "copied"}
    rows = [Row(path=f"{n}.jpg", sha256=str(n), **kind) for n in range(4)]
    unseen = label_errors.UnseenPhotos(
        rows=rows, labels=LABELS, probabilities=PROBABILITIES, source="a test"
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
            data = EvaluationData(records=found, split=split)
            evaluation = run_evaluation.evaluate_run(finished, data)
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
        data = EvaluationData(records=found, split="test")
        here = run_evaluation.evaluate_run(folds[0], data)
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
