import json

import numpy as np
import pytest

from model.evaluation import evaluate_split, unseen_photos
from model.runs import run_folder
from pipeline.records import manifest
from tests.model import judgements


def test_photos_that_were_trained_on_do_not_count(found, tmp_path):
    seen = {row.sha256 for row in found.included("train", "validation")}
    judged = judgements.judged(tmp_path / "run", found, seen=seen)
    assert judged.held_out.rows == list(found.included("test"))
    doubts = judged.figures["label_doubts"]
    assert doubts["num_examples"] == len(found.included("test"))
    assert judged.figures["photos_seen"] == len(seen)


def test_none_is_left(found, tmp_path):
    seen = {row.sha256 for row in found.included()}
    judged = judgements.judged(tmp_path / "run", found, seen=seen)
    doubts = judged.figures["label_doubts"]
    assert (doubts["num_examples"], doubts["photos"]) == (0, [])


def test_doubts_name_photos_and_classes():
    kind = {"class_name": "a", "source_bytes": 1, "action": "copied"}
    rows = [manifest.Row(path=f"{n}.jpg", sha256=str(n), **kind) for n in range(4)]
    unseen = unseen_photos.HeldOut(
        rows=rows,
        labels=np.array([0, 0, 1, 1]),
        probabilities=np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]]),
        source="a test",
    )
    assert unseen.doubts(["cat", "dog"]) == {
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
        """Two runs of three, each judged on a part of the photos."""
        plan = {"settings": {"folds": 3}}
        (tmp_path / run_folder.REPEATS).write_text(json.dumps(plan))
        runs = []
        for number, split in enumerate(("test", "validation")):
            finished = judgements.write_run(tmp_path / f"fold-{number}", found)
            judged = evaluate_split.judge_run(finished, found, split)
            for name in ("json", "npz"):  # as if it had been this fold's test split
                path = judged.path.with_suffix(f".{name}")
                path.rename(path.with_stem("test"))
            runs.append(finished)
        return runs

    def test_all_photos_that_any_has_judged(self, folds, found):
        unseen = unseen_photos.of_folds(folds[0], found)
        assert unseen.source == "out-of-fold probabilities of 2 of 3 folds"
        expected = [*found.included("test"), *found.included("validation")]
        assert [row.path for row in unseen.rows] == [row.path for row in expected]
        labels = [found.labels[row.class_name] for row in expected]
        assert unseen.labels.tolist() == labels
        np.testing.assert_allclose(unseen.probabilities.sum(axis=1), 1)
        here = evaluate_split.judge_run(folds[0], found, "test")
        np.testing.assert_allclose(
            unseen.probabilities[: len(found.included("test"))],
            here.judgement.probabilities(),
            rtol=1e-6,
        )
        assert here.figures["label_doubts"]["num_examples"] == len(expected)

    def test_a_fold_whose_model_has_changed_does_not_count(self, folds, found):
        path = folds[1].directory / "model.keras"
        path.write_bytes(path.read_bytes() + b"\0")
        assert unseen_photos.of_folds(folds[0], found) is None  # the other one is alone

    def test_a_run_that_is_no_fold(self, found, tmp_path):
        finished = judgements.write_run(tmp_path / "run", found)
        assert unseen_photos.of_folds(finished, found) is None

    @pytest.mark.parametrize("plan", ["", "{}", '{"settings": {"folds": "many"}}'])
    def test_a_damaged_plan(self, found, tmp_path, plan):
        finished = judgements.write_run(tmp_path / "fold-0", found)
        (tmp_path / run_folder.REPEATS).write_text(plan)
        assert unseen_photos.of_folds(finished, found) is None
