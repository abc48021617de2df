import hashlib
import json

import keras
import numpy as np
import pytest

from model.runs import finished_run, run_folder
from model.runs.run_folder import RunError, RunFolder
from tests.support import small_runs

CONFIG = small_runs.CONFIG


@pytest.fixture
def directory(tmp_path):
    return small_runs.write_bare_run(tmp_path / "a").directory


@pytest.fixture
def run(directory):
    return finished_run.read(str(directory))


def test_a_finished_run_is_read_whole(run, directory):
    assert run.directory == directory
    assert run.class_names == ("cat", "dog")
    assert run.spec == small_runs.SPEC
    assert run.temperature == small_runs.TEMPERATURE
    model = directory / "model.keras"
    assert run.model_digest() == hashlib.sha256(model.read_bytes()).hexdigest()
    image = np.arange(192.0).reshape(1, 8, 8, 3)
    expected = small_runs.one_layer_model()(image)
    assert np.array_equal(run.load_model()(image), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"missing: no such run folder\. .*python train\.py"),
        ("link", "link: no such run"),
        ("file", r"file: config\.json is missing"),
        ("empty", r"empty: config\.json is missing"),
        ("stopped", r"model\.keras is missing.*was stopped before"),
    ],
)
def test_a_folder_that_is_not_a_finished_run_is_refused(tmp_path, name, message):
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    RunFolder(directory=tmp_path / "stopped").start(CONFIG, ["cat"])
    with pytest.raises(RunError, match=message):
        finished_run.read(str(tmp_path / name))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", "null", "\xff", "{}"),
        *(
            json.dumps(CONFIG | changes)
            for changes in (
                {"data": []},
                {"data": {"class_names": ["a"], "path": "b"}},
                {"data": {"class_names": [], "manifest_digest": ""}},
                {"data": CONFIG["data"] | {"resize_min": -1}},
                {"input_spec": {"size_px": 8}},
                {"input_spec": CONFIG["input_spec"] | {"mean": 1}},
                {"input_spec": CONFIG["input_spec"] | {"size": 1}},
                {"input_spec": CONFIG["input_spec"] | {"scale": 0}},
            )
        ),
    ],
    ids=range(15),
)
def test_a_damaged_config_is_an_error(directory, text):
    (directory / "config.json").write_text(text, encoding="latin-1")
    message = r"a/config\.json: cannot be read \(.+\)\. Train again"
    with pytest.raises(RunError, match=message):
        finished_run.read(str(directory))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"temperature": "x"}', '{"temperature": null}', None]
)
def test_a_damaged_or_missing_calibration_is_an_error(run, text):
    path = run.directory / "calibration.json"
    path.unlink() if text is None else path.write_text(text)
    message = r"a/calibration\.json: cannot be read \(.+\)\. Train again"
    with pytest.raises(RunError, match=message):
        _ = run.temperature


@pytest.mark.parametrize("value", ["0", "-1", "NaN", "Infinity"])
def test_a_temperature_not_above_0_is_an_error(run, value):
    (run.directory / "calibration.json").write_text(f'{{"temperature": {value}}}')
    with pytest.raises(RunError, match=r"temperature expected above 0, found"):
        _ = run.temperature


@pytest.mark.parametrize("text", ["{", '{"epoch": 1}\n{"epo', "7", "\0"])
def test_damaged_metrics_name_their_line(run, text):
    (run.directory / "metrics.jsonl").write_text(text)
    line = text.count("\n") + 1
    with pytest.raises(RunError, match=rf"a/metrics\.jsonl line {line}: "):
        run.results()


def test_the_validation_curve_pairs_epoch_and_accuracy(run):
    record = RunFolder(directory=run.directory)
    record.append_metrics(small_runs.epoch_result(2, validation_accuracy=0.75))
    assert run.validation_curve() == [(1, 0.4), (2, 0.75)]
    (run.directory / "metrics.jsonl").unlink()
    assert run.validation_curve() == []


@pytest.mark.parametrize("value", ['"much"', "null", "[]"])
def test_a_damaged_validation_curve_is_an_error(run, value):
    line = f'{{"epoch": 1, "validation_accuracy": {value}}}'
    (run.directory / "metrics.jsonl").write_text(line)
    with pytest.raises(RunError, match=r"a/metrics\.jsonl: damaged"):
        run.validation_curve()


def test_the_best_epoch_is_that_with_the_lowest_validation_loss(run):
    record = RunFolder(directory=run.directory)
    for epoch, loss, accuracy in ((2, 0.05, 0.75), (3, 0.2, 0.9)):
        figures = {"validation_loss": loss, "validation_accuracy": accuracy}
        record.append_metrics(small_runs.epoch_result(epoch, **figures))
    assert run.best_epoch() == (
        "best epoch 2 of 3 (lowest validation loss): validation accuracy 0.7500, loss "
        "0.0500"
    )


def test_an_evaluation_of_other_records_has_their_digest_in_its_name(run):
    folder = run.directory / "evaluation"
    assert run.evaluation_path("test", "0" * 64) == folder / "test.json"
    other = run.evaluation_path("test", "1234567890")
    assert other == folder / "test-12345678.json"


def test_several_runs_keep_their_order(directory, tmp_path):
    small_runs.write_bare_run(tmp_path / "b")
    runs = finished_run.read_several([str(tmp_path / "b"), str(directory)])
    assert list(runs) == ["b", "a"]
    assert runs["a"].directory == directory.resolve()


def test_runs_of_one_name_are_named_by_path(directory, tmp_path):
    other = small_runs.write_bare_run(tmp_path / "deeper" / "a").directory
    names = [str(directory.resolve()), str(other.resolve())]
    assert list(finished_run.read_several(names)) == names


def test_a_run_named_twice_is_refused(directory, tmp_path):
    with pytest.raises(RunError, match=r"a: named twice .* as .*latest\."):
        finished_run.read_several([str(directory), str(tmp_path / "latest")])


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_model_that_was_cut_off_is_an_error(run, share):
    path = run.directory / run_folder.MODEL_NAME
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    message = r"a/model\.keras: cut off, or not a Keras model"
    with pytest.raises(RunError, match=message):
        run.load_model()


def test_a_flipped_byte_in_the_model_is_an_error_or_harmless(run):
    path = run.directory / run_folder.MODEL_NAME
    data = path.read_bytes()
    expected = small_runs.one_layer_model().get_weights()
    errors = 0
    for place in range(0, len(data), len(data) // 60):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            model = run.load_model()
        except RunError as error:
            errors += 1
            assert str(path) in str(error)
        else:
            assert all(map(np.array_equal, model.get_weights(), expected))
    assert errors > 50


def test_a_model_with_code_in_it_is_refused(run):
    """A Lambda layer could run anything when the model is loaded."""
    image = keras.Input((8, 8, 3))
    bad = keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image))
    bad.save(run.directory / run_folder.MODEL_NAME)
    with pytest.raises(RunError, match=r"a/model\.keras: cannot be read"):
        run.load_model()
