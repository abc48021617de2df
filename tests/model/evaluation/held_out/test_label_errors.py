import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from model.evaluation import run_evaluation
from model.evaluation.held_out import label_errors
from model.evaluation.run_evaluation import EvaluationData
from model.evaluation.stored_logits import Predictions
from model.runs import run_folder
from pipeline.records.manifest_row import Row
from pipeline.system.errors import DataError
from tests.support import evaluated_runs

# Self-confidence of class 0 is on average 0.55, of class 1 it is 0.8.
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]])
LABELS = np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("probabilities", "labels", "doubts", "num_probable"),
    [
        # The third photo is confidently of neither class.
        (PROBABILITIES, LABELS, [(1, 1)], 1),
        ([[0.1, 0.9], [0.1, 0.9]], [0, 0], [(0, 1), (1, 1)], 0),
        # Class 1 is the most probable, but less sure than for the photos of class 1.
        (
            *([[0.45, 0.55], [0.9, 0.1], [0.05, 0.95], [0.1, 0.9]], [0, 0, 1, 1]),
            *([(0, 1)], 0),
        ),
        # 0.1 + 0.1 + 0.1 is more than 3 x 0.1.
        ([[0.1, 0.9]] * 3, [1, 1, 0], [(2, 1)], 1),
        (
            [[0.3, 0.7], [0.05, 0.95], [0.51, 0.49]],
            [0, 0, 1],
            [(1, 1), (0, 1), (2, 0)],
            3,
        ),
        (np.zeros((0, 2)), np.zeros(0, int), [], 0),
    ],
    ids=["by hand", "a class without photos", "unsure", "equal", "order", "no photos"],
)
def test_doubts_match_those_computed_by_hand(
    probabilities, labels, doubts, num_probable
):
    photos, suggested, number = label_errors.find_doubts(
        np.array(probabilities), np.array(labels)
    )
    assert list(zip(photos.tolist(), suggested.tolist(), strict=True)) == doubts
    assert number == num_probable


def test_the_most_probable_error_comes_first_with_the_most_probable_class():
    own = np.eye(3)[[0, 0, 1, 1, 2, 2]] * 0.9 + 0.05
    odd = np.array([[0.02, 0.03, 0.95], [0.01, 0.98, 0.01]])
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 0])
    examples, suggested, _ = label_errors.find_doubts(np.append(own, odd, 0), labels)
    assert (examples.tolist(), suggested.tolist()) == ([7, 6], [1, 2])


def doubts_of(rows, labels=LABELS, probabilities=PROBABILITIES):
    predictions = Predictions(
        rows=rows,
        labels=labels,
        logits=np.log(probabilities),
        class_names=["cat", 'do"g,\n'],
    )
    return label_errors.figures(predictions, "a test")


KIND = {"class_name": "a", "source_bytes": 1, "action": "copied"}
ROWS = [Row(path=f"{n},\udcff.jpg", sha256=str(n), **KIND) for n in range(4)]
DOUBT = {
    "path": "1,\udcff.jpg",
    "label": "cat",
    "suggested": 'do"g,\n',
    "label_probability": 0.2,
    "suggested_probability": 0.8,
    "sha256": "1",
}


def test_doubts_name_photos_and_classes():
    assert doubts_of(ROWS) == {
        "source": "a test",
        "num_examples": 4,
        "num_doubts": 1,
        "num_probable": 1,
        "photos": [DOUBT],
    }


def test_the_table_of_doubts_survives_odd_names(tmp_path):
    path = label_errors.write(tmp_path, doubts_of(ROWS))
    assert path == tmp_path / "evaluation" / "doubts.csv"
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        (row,) = csv.DictReader(file)
    assert row == {name: str(value) for name, value in DOUBT.items()}


def test_a_line_says_how_many_doubts_there_are(tmp_path):
    line = label_errors.in_words(doubts_of(ROWS), tmp_path)
    assert (
        line == f"doubtful labels: 1 of 4 photos, 1 of them probably wrong: {tmp_path}"
    )
    none = label_errors.in_words(doubts_of([], LABELS[:0], PROBABILITIES[:0]), tmp_path)
    assert none == "no label of 0 photos is doubtful"


def test_a_network_that_doubts_most_photos_is_said_to_be_poor():
    line = label_errors.in_words(doubts_of(ROWS, 1 - LABELS))
    assert line == (
        "doubtful labels: 3 of 4 photos, too many to be wrong: the network tells these "
        "classes apart poorly"
    )


@pytest.mark.parametrize(
    ("seen", "unseen"),
    [(("train", "validation"), "test"), (("train", "validation", "test"), "none")],
)
def test_training_photos_do_not_count(found, tmp_path, seen, unseen):
    seen_photos = {row.sha256 for row in found.included(*seen)}
    evaluation = evaluated_runs.judged(tmp_path / "run", found, seen=seen_photos)
    entry = evaluation.figures["label_doubts"]
    assert entry["source"] == "held-out probabilities of the photos evaluated here"
    assert entry["num_examples"] == len(found.included(unseen))
    assert evaluation.figures["photos_seen"] == len(seen_photos)


@pytest.fixture
def doubted(found, tmp_path):
    """A run, and what its training has found: three of its photos are not its own."""
    run = evaluated_runs.write_run(tmp_path / "run", found)
    rows = list(found.included("train"))[:4]
    rows[1] = dataclasses.replace(rows[1], sha256="0" * 64)
    rows[2] = dataclasses.replace(rows[2], path="elsewhere.jpg")
    labels = np.array([found.labels[row.class_name] for row in rows])
    labels[3] = (labels[3] + 1) % 3
    predictions = Predictions(
        rows=rows,
        labels=labels,
        logits=50 * np.eye(3)[(labels + 1) % 3],
        class_names=found.class_names,
    )
    doubts = label_errors.figures(predictions, "the training")
    return run, rows, doubts


def evaluated(run, found, split="test"):
    return run_evaluation.evaluate_run(run, EvaluationData(records=found, split=split))


def test_the_doubts_of_all_photos_that_a_training_found_are_shown(doubted, found):
    run, rows, doubts = doubted
    label_errors.write(run.directory, doubts)
    entry = evaluated(run, found).figures["label_doubts"]
    assert [photo["path"] for photo in entry["photos"]] == [rows[0].path]
    assert entry | {"photos": []} == doubts | {"photos": []}


@pytest.mark.parametrize("name", ["fold-1", "seed-0", "scratch"])
def test_a_run_of_several_has_the_doubts_of_all(found, tmp_path, doubted, name):
    _, _, doubts = doubted
    whole = tmp_path / "several"
    label_errors.write(whole, doubts)
    run = evaluated_runs.write_run(whole / name, found)
    assert evaluated(run, found).figures["label_doubts"]["source"] != "the training"
    (whole / run_folder.REPEATS).write_text("{}")
    assert evaluated(run, found).figures["label_doubts"]["source"] == "the training"


@pytest.mark.parametrize(
    "change",
    [
        {"num_doubts": "3"},
        {"source": None},
        {"photos": [DOUBT | {"suggested": "nothing"}]},
        {"photos": [DOUBT | {"label_probability": "0.5"}]},
        {"photos": [{}]},
    ],
    ids=str,
)
def test_damaged_doubts_are_an_error_of_one_line(doubted, found, change):
    run, _, doubts = doubted
    label_errors.write(run.directory, doubts)
    path = run.directory / "evaluation" / "doubts.json"
    path.write_text(json.dumps({**doubts, **change}))
    with pytest.raises(DataError, match=r"doubts\.json: damaged .* Remove it"):
        evaluated(run, found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_doubts": -1}, "is not possible"),
        ({"num_doubts": 3}, "is not possible"),  # four are listed
        ({"num_doubts": 5}, "is not possible"),  # of four examples
        ({"num_examples": 61}, "is not possible"),  # of 60 in the records
        ({"num_probable": -1}, "is not possible"),
        ({"num_probable": 5}, "is not possible"),
        ({"suggested_probability": math.nan}, r"impossible probabilities .*nan"),
        ({"suggested_probability": 1.5}, r"impossible probabilities .*1\.5"),
        ({"label_probability": -0.5}, r"impossible probabilities .*-0\.5"),
        ({"label_probability": 1.0, "suggested_probability": 0.9}, "impossible prob"),
    ],
    ids=str,
)
def test_impossible_numbers_of_doubts_are_refused(doubted, found, changes, message):
    run, _, doubts = doubted
    label_errors.write(run.directory, doubts)
    if changes.keys() & doubts.keys():
        doubts = doubts | changes
    else:
        doubts["photos"][0] |= changes
    path = run.directory / "evaluation" / "doubts.json"
    path.write_text(json.dumps(doubts))
    with pytest.raises(DataError, match=rf"doubts\.json: damaged .*{message}"):
        evaluated(run, found)
