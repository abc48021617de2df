"""Runs are compared on present photos after photos, labels and classes have changed."""

import dataclasses
import json
import os

import keras
import numpy as np
import pytest

import evaluate
from model.evaluation import evaluation_settings
from model.evaluation.compare import comparison
from model.runs import finished_run
from pipeline.records import manifest
from pipeline.system.errors import DataError
from tests.support import conversions, drawn_photos, evaluated_runs

OLD_CLASSES = ("blue", "green")


def narrow_network():
    """As evaluated_runs.network, without red."""
    model = evaluated_runs.network()
    below = model.layers[-2].output
    narrow = keras.Model(model.input, keras.layers.Dense(2, name="logits")(below))
    kernel, bias = model.get_layer("logits").get_weights()
    narrow.get_layer("logits").set_weights([kernel[:, :2], bias[:2]])
    narrow.get_layer("conv1").set_weights(model.get_layer("conv1").get_weights())
    return narrow


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Records of 200 photos of two classes, which grew to 600 of three; both runs."""
    folder = tmp_path_factory.mktemp("grown")
    photos, records = folder / "photos", folder / "records"
    drawn_photos.write_photos(photos, per_class=100, classes=OLD_CLASSES)
    before = conversions.convert(photos, records).manifest
    old = evaluated_runs.write_run(folder / "old", before, seen(before))
    narrow_network().save(old.directory / "model.keras")
    drawn_photos.write_photos(photos, per_class=200)
    after = conversions.convert(photos, records).manifest
    new = evaluated_runs.write_run(folder / "new", after, seen(after))
    for run, hour in ((old, 10), (new, 20)):
        os.utime(run.directory / "config.json", (hour, hour))
    return before, after, old, new


def seen(records):
    return sorted({row.sha256 for row in records.included("train", "validation")})


def compare(*runs, **options):
    names = ",".join(str(run.directory) for run in runs)
    config = evaluation_settings.Config(runs=names, **options)
    return evaluate.compare(config)


def test_runs_of_200_and_600_photos_are_compared_on_those_that_none_has_seen(grown):
    before, after, old, new = grown
    figures = compare(old, new)
    all_seen = {*seen(before), *seen(after)}
    rows = [row for row in after.included() if row.sha256 not in all_seen]
    assert 40 < len(rows) == figures["num_examples"] < 100
    count = {name: sum(row.class_name == name for row in rows) for name in after.labels}
    # The network knows every colour; the old one calls red photos blue or green.
    known = count["blue"] + count["green"]
    first, second = figures["runs"]
    assert first["accuracy"] == pytest.approx(known / len(rows))
    assert second["accuracy"] == 1
    (pair,) = figures["pairs"]
    assert (pair["only_first"], pair["only_second"]) == (0, count["red"])
    assert pair["difference"] == pytest.approx(count["red"] / len(rows))
    assert pair["p"] == pytest.approx(2.0 ** (1 - count["red"]))
    shared = figures["shared_classes"]
    assert shared["num_examples"] == known
    assert [run["accuracy"] for run in shared["runs"]] == [1, 1]
    assert [run["images_per_s"] for run in figures["runs"]] == [None, None]  # too few
    assert shared["pairs"][0]["p"] == 1
    lost = sum(row.sha256 in set(seen(before)) for row in after.included())
    text = comparison.as_text(figures)
    assert f"that no run has seen: {len(rows)} of 600" in text
    assert f"{lost} that old was trained on or chosen by, {len(seen(after))} " in text
    assert f"{count['red']} are of classes that old does not know (red)" in text
    assert f"classes that all runs know, {known} photos that none of" in text
    written = json.loads(
        next((old.directory / "evaluation").glob("*.json")).read_text()
    )
    assert written["pairs"] == figures["pairs"]


def test_labels_are_the_present_ones_and_groups_of_seen_photos_are_left_out(
    grown, tmp_path
):
    _, after, old, new = grown
    tested = after.included("test")
    corrected = dataclasses.replace(tested[0], class_name="red")
    similar = dataclasses.replace(tested[1], group=after.included("train")[0].group)
    changed = {tested[0].path: corrected, tested[1].path: similar}
    rows = tuple(changed.get(row.path, row) for row in after.rows)
    before = (after.directory / manifest.ROWS_NAME).read_bytes()
    head = (after.directory / manifest.HEAD_NAME).read_bytes()
    dataclasses.replace(after, rows=rows).stage(after.directory)
    try:
        with pytest.raises(DataError, match="label or SHA-256 differs"):
            compare(old, new)  # the record still has the old label
        rows = tuple(row if row is not corrected else tested[0] for row in rows)
        dataclasses.replace(after, rows=rows).stage(after.directory)
        figures = compare(old, new)
    finally:
        (after.directory / manifest.ROWS_NAME).write_bytes(before)
        (after.directory / manifest.HEAD_NAME).write_bytes(head)
    assert "1 in a group with such a photo" in "\n".join(figures["scope"])


def test_a_run_that_has_seen_all_photos_leaves_none(grown, monkeypatch):
    _, after, old, new = grown
    everything = {row.sha256 for row in after.included()}
    monkeypatch.setattr(finished_run.FinishedRun, "seen_photos", lambda _: everything)
    with pytest.raises(DataError, match=r"seen: 0 of 600; .*--another_dataset"):
        compare(old, new)


def test_an_old_run_is_evaluated_on_the_present_test_photos(grown, capsys):
    before, after, old, _ = grown
    path = old.directory / "photos.json"
    content = json.loads(path.read_text())
    content["test"] = [row.sha256 for row in before.included("test")]
    path.write_text(json.dumps(content))
    config = evaluation_settings.Config(run_dir=str(old.directory), report=False)
    figures = evaluate.evaluate(config)
    tested = [row for row in after.included("test") if row.class_name != "red"]
    same = sum(row.sha256 in content["test"] for row in tested)
    assert figures["num_examples"] == len(tested)
    assert figures["accuracy"] == 1
    assert "test-unseen" in figures["written"]
    red = sum(row.class_name == "red" for row in after.included("test"))
    line = capsys.readouterr().err
    total = len(after.included("test"))
    assert f"{len(tested)} of {total} photos of test are evaluated: {same} are " in line
    assert f"{len(tested) - same} are new" in line
    assert f"Left out: {red} of classes that it does not know (red)" in line


def test_photos_that_a_run_has_seen_are_left_out_of_its_evaluation(
    grown, monkeypatch, capsys
):
    _, after, old, _ = grown
    some = {row.sha256 for row in after.included("test") if row.class_name == "blue"}
    monkeypatch.setattr(finished_run.FinishedRun, "seen_photos", lambda _: some)
    config = evaluation_settings.Config(run_dir=str(old.directory), report=False)
    figures = evaluate.evaluate(config)
    count = sum(row.class_name == "green" for row in after.included("test"))
    assert figures["num_examples"] == count > 0
    assert f"{len(some)} that it was trained on or chosen by" in capsys.readouterr().err


def test_an_unknown_class_has_a_millionth_of_the_probability_of_the_others():
    logits = np.array([[2.0, 0.0], [5000.0, -5000.0]], np.float32)
    wide = comparison.with_unknown_classes(logits, [2, 0], 3, temperature=2.0)
    assert (wide[:, [2, 0]] == logits).all()
    share = np.exp(wide[0, 1] / 2) / np.exp(logits[0] / 2).sum()
    assert share == pytest.approx(1e-6, rel=1e-4)
    assert wide[1, 1] == pytest.approx(5000 + 2 * np.log(1e-6))
