import hashlib
import json

import keras
import numpy as np
import pytest

from model.runs import finished_run, run_folder
from model.runs.run_folder import RunError
from tests.model.runs.test_run_folder import CONFIG, SPEC, finish, result, small_network


@pytest.fixture
def directory(tmp_path):
    return finish(tmp_path / "a").directory


def test_a_finished_run_is_read_whole(directory):
    run = finished_run.read(str(directory))
    assert run.directory == directory
    assert run.class_names == ("cat", "dog")
    assert run.spec == SPEC
    assert run.temperature == 1.5
    model = directory / "model.keras"
    assert run.model_digest() == hashlib.sha256(model.read_bytes()).hexdigest()
    image = np.arange(192.0).reshape(1, 8, 8, 3)
    expected = small_network()(image)
    assert np.array_equal(run.load_model()(image), expected)


@pytest.mark.parametrize("kind", ["missing", "link", "file", "empty"])
def test_a_folder_that_is_not_a_run_is_refused(tmp_path, kind):
    path = tmp_path / "runs" / "latest"
    path.parent.mkdir()
    if kind == "link":
        path.symlink_to("gone")
    elif kind == "file":
        path.write_text("x")
    elif kind == "empty":
        path.mkdir()
    expected = {
        "missing": r"latest: no such run folder\. .*python train\.py",
        "link": "latest: no such run",
        "file": r"latest: config\.json is missing",
        "empty": r"latest: config\.json is missing",
    }
    with pytest.raises(RunError, match=expected[kind]):
        finished_run.read(str(path))


def test_a_run_without_a_model_is_refused(tmp_path):
    run_folder.RunFolder(directory=tmp_path).start(CONFIG, ["cat", "dog"])
    with pytest.raises(
        RunError,
        match=r"model\.keras is missing.*was stopped before",
    ):
        finished_run.read(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        "\xff",
        "{}",
        json.dumps(CONFIG | {"data": []}),
        json.dumps(CONFIG | {"data": {"class_names": ["a"], "path": "b"}}),
        json.dumps(CONFIG | {"data": {"class_names": [], "manifest_digest": ""}}),
        json.dumps(CONFIG | {"data": {**CONFIG["data"], "resize_min": -1}}),
        json.dumps(CONFIG | {"input_spec": {"size_px": 8}}),
        json.dumps(CONFIG | {"input_spec": {**CONFIG["input_spec"], "mean": 1}}),
        json.dumps(CONFIG | {"input_spec": {**CONFIG["input_spec"], "size": 1}}),
        json.dumps(CONFIG | {"input_spec": {**CONFIG["input_spec"], "scale": 0}}),
    ],
    ids=range(15),
)
def test_a_damaged_config_is_an_error(directory, text):
    (directory / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        RunError, match=r"a/config\.json: cannot be read \(.+\)\. Train again"
    ):
        finished_run.read(str(directory))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"temperature": "x"}', '{"temperature": null}'],
)
def test_a_damaged_calibration_is_an_error(directory, text):
    (directory / "calibration.json").write_text(text)
    run = finished_run.read(str(directory))
    with pytest.raises(
        RunError,
        match=r"a/calibration\.json: cannot be read \(.+\)\. Train ag",
    ):
        _ = run.temperature


@pytest.mark.parametrize("value", ["0", "-1", "NaN", "Infinity"])
def test_a_temperature_not_above_0_is_an_error(directory, value):
    (directory / "calibration.json").write_text(f'{{"temperature": {value}}}')
    with pytest.raises(RunError, match=r"temperature expected above 0, found"):
        _ = finished_run.read(str(directory)).temperature


def test_a_missing_calibration_is_an_error(directory):
    (directory / "calibration.json").unlink()
    with pytest.raises(RunError, match=r"calibration\.json: cannot be read"):
        _ = finished_run.read(str(directory)).temperature


@pytest.mark.parametrize("text", ["{", '{"epoch": 1}\n{"epo', "7", "\0"])
def test_damaged_metrics_name_their_line(directory, text):
    (directory / "metrics.jsonl").write_text(text)
    line = text.count("\n") + 1
    with pytest.raises(RunError, match=rf"a/metrics\.jsonl line {line}: "):
        finished_run.read(str(directory)).results()


def test_the_validation_curve_pairs_epoch_and_accuracy(directory):
    run_folder.RunFolder(directory=directory).append_metrics(
        result(2, validation_accuracy=0.7)
    )
    run = finished_run.read(str(directory))
    assert run.validation_curve() == [(1, 0.1), (2, 0.7)]
    (directory / "metrics.jsonl").unlink()
    assert run.validation_curve() == []


def test_the_best_epoch_is_that_with_the_lowest_validation_loss(directory):
    record = run_folder.RunFolder(directory=directory)
    record.append_metrics(result(2, validation_loss=0.05, validation_accuracy=0.75))
    record.append_metrics(result(3, validation_loss=0.2, validation_accuracy=0.9))
    assert finished_run.read(str(directory)).best_epoch() == (
        "best epoch 2 of 3 (lowest validation loss): validation accuracy 0.7500, loss "
        "0.0500"
    )


@pytest.mark.parametrize("value", ['"much"', "null", "[]"])
def test_a_damaged_validation_curve_is_an_error(directory, value):
    line = f'{{"epoch": 1, "validation_accuracy": {value}}}'
    (directory / "metrics.jsonl").write_text(line)
    with pytest.raises(RunError, match=r"a/metrics\.jsonl: damaged"):
        finished_run.read(str(directory)).validation_curve()


def test_an_evaluation_of_other_records_has_their_digest_in_its_name(directory):
    run = finished_run.read(str(directory))
    folder = run.directory / "evaluation"
    assert run.evaluation_path("test", "0" * 64) == folder / "test.json"
    other = run.evaluation_path("test", "1234567890")
    assert other == folder / "test-12345678.json"


def test_several_runs_keep_their_order(directory, tmp_path):
    finish(tmp_path / "b")
    run = finished_run.read_several([str(tmp_path / "b"), str(directory)])
    assert list(run) == ["b", "a"]
    assert run["a"].directory == directory.resolve()


def test_runs_of_one_name_are_named_by_path(directory, tmp_path):
    finish(tmp_path / "deeper" / "a")
    names = [str(directory.resolve()), str((tmp_path / "deeper" / "a").resolve())]
    assert list(finished_run.read_several(names)) == names


def test_a_run_named_twice_is_refused(directory, tmp_path):
    """Also by the link to the newest."""
    with pytest.raises(RunError, match=r"a: named twice .* as .*latest\."):
        finished_run.read_several([str(directory), str(tmp_path / "latest")])


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_model_that_was_cut_off_is_an_error(directory, share):
    path = directory / "model.keras"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(
        RunError,
        match=r"a/model\.keras: cut off, or not a Keras model",
    ):
        finished_run.read(str(directory)).load_model()


def test_a_flipped_byte_in_the_model_is_an_error_or_harmless(directory):
    """Wherever it is: an error of ours, or it did not matter to the model."""
    path = directory / "model.keras"
    data = path.read_bytes()
    expected = small_network().get_weights()
    errors = 0
    for place in range(0, len(data), len(data) // 60):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            model = finished_run.read(str(directory)).load_model()
        except RunError as error:
            errors += 1
            assert str(path) in str(error)
        else:
            assert all(map(np.array_equal, model.get_weights(), expected))
    assert errors > 50


def test_model_with_code_in_it_is_refused(directory):
    """A Lambda layer could run anything when the model is loaded."""
    image = keras.Input((8, 8, 3))
    bad = keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image))
    bad.save(directory / "model.keras")
    with pytest.raises(RunError, match=r"a/model\.keras: cannot be read"):
        finished_run.read(str(directory)).load_model()
