import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
import shutil
import zipfile

import keras
import numpy as np
import pytest

from model.runs import finished_run, run_folder
from model.runs.run_folder import RunError, RunFolder
from pipeline.system.errors import DataError
from tests.support import files, small_runs

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
    image = np.arange(1728.0).reshape(1, 24, 24, 3)
    expected = small_runs.one_layer_model()(image)
    assert np.array_equal(run.load_model()(image), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"missing: no such run folder\. .*python train\.py"),
        ("link", "link: the run gone, to which this link points, was moved"),
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


DEEP = "[" * 100_000
DATA, SPEC = CONFIG["data"], CONFIG["input_spec"]
EPOCH = dataclasses.asdict(small_runs.epoch_result(1))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", "null", "\xff", "{}", DEEP, None),
        *(
            json.dumps(CONFIG | changes)
            for changes in (
                *({"data": []}, {"network": 3}, {"features": 3}, {"versions": []}),
                *({"weights": "x"}, {"input_spec": 3}),
                {"data": {"class_names": ["cat", "dog"], "path": "b"}},
                *({"data": DATA | {"path": 3}}, {"data": DATA | {"resize_min": -1}}),
                {"data": DATA | {"resize_min": True}},
                *(
                    {"data": DATA | {"class_names": names}}
                    for names in ([], [1, 2], [None], "cat", ["cat", "cat"], ["", "a"])
                ),
                {"data": DATA | {"class_names": ["dog", "cat"]}},  # unlike labels.txt
                *({"input_spec": {"size_px": 8}}, {"input_spec": SPEC | {"mean": 1}}),
                *({"input_spec": SPEC | {"a": 1}}, {"input_spec": SPEC | {"scale": 0}}),
            )
        ),
    ],
    ids=itertools.count(),
)
def test_a_damaged_or_missing_config_is_an_error(directory, text):
    path = directory / "config.json"
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    message = r"a/?:? ?config\.json(: damaged \(.+\)\. Train again| is missing)"
    with pytest.raises(RunError, match=message):
        finished_run.read(str(directory))


@pytest.mark.parametrize(
    ("name", "content", "use"),
    [
        ("calibration.json", {}, lambda run: run.temperature),
        *(
            ("calibration.json", {"temperature": value}, lambda run: run.temperature)
            for value in ("x", None, True, 10**400, 0, -1, math.nan, math.inf)
        ),
        ("photos.json", {"train": []}, finished_run.FinishedRun.seen_photos),
        ("photos.json", {"train": "abc"}, finished_run.FinishedRun.seen_photos),
        ("metrics.jsonl", {"epoch": 1}, finished_run.FinishedRun.best_epoch),
        ("metrics.jsonl", {"epoch": True}, finished_run.FinishedRun.results),
        *(
            ("metrics.jsonl", EPOCH | {"loss": loss}, finished_run.FinishedRun.results)
            for loss in ("much", None, 10**400)
        ),
    ],
    ids=itertools.count(),
)
def test_damaged_values_are_an_error(run, name, content, use):
    (run.directory / name).write_text(json.dumps(content))
    with pytest.raises(RunError, match=rf"a/{name}( line 1)?: damaged \(.+\)\. Train"):
        use(run)


def test_figures_and_photos_of_another_run_are_refused(tmp_path):
    """Each fits only the run that it was written for."""
    photos = {"train": ["1"], "validation": ["2"]}
    runs = []
    for seed, split in (("a", "train"), ("b", "validation")):
        data = DATA | {"photos_sha256": run_folder.digest_of(photos)}
        config = CONFIG | {"settings": {"seed": seed}, "data": data}
        record = small_runs.write_bare_run(tmp_path / seed, config)
        record.write_json("photos.json", photos)
        values = {"temperature": 1.5, "run": record.identity}
        record.write_json("calibration.json", values)
        runs.append(finished_run.read(str(tmp_path / seed)))
        photos[split] = []
    assert runs[0].temperature == 1.5
    assert runs[1].seen_photos() == {"2"}
    for name in ("calibration.json", "photos.json"):
        shutil.copy(tmp_path / "a" / name, tmp_path / "b" / name)
    with pytest.raises(RunError, match=r"calibration.json: damaged \(is another run's"):
        assert runs[1].temperature
    with pytest.raises(RunError, match=r"photos.json: damaged \(is another run's"):
        runs[1].seen_photos()


def test_a_model_of_the_first_version_is_said_to_be_anybodys(run, capsys):
    path = run.directory / run_folder.MODEL_NAME
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b""
    run.load_model()
    assert "note: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "model.keras", "calibration.json"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(run, name, monkeypatch):
    """Root may read everything, so that opening the file has to fail here."""

    def refuse(path, *options, **more):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, *options, **more)

    before = pathlib.Path.open
    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(PermissionError, match=name):
        finished_run.read(str(run.directory))
        run.load_model() if name == "model.keras" else run.temperature


@pytest.mark.parametrize("name", ["config.json", "model.keras", "calibration.json"])
def test_a_pointer_of_git_lfs_is_called_that(run, name):
    (run.directory / name).write_bytes(files.LFS_POINTER)
    with pytest.raises(DataError, match=f"{name}: .*Git LFS.* Run git lfs pull"):
        finished_run.read(str(run.directory))
        run.load_model() if name == "model.keras" else run.temperature


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\0", DEEP, None])
def test_damaged_or_missing_files_are_an_error(run, text):
    path = run.directory / "photos.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunError, match=r"a/photos\.json: .+\. Train again"):
        run.seen_photos()


@pytest.mark.parametrize("text", ["{", '{"epo', "7", "\0", DEEP])
def test_damaged_metrics_name_their_line(run, text):
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write(text)
    with pytest.raises(RunError, match=r"a/metrics\.jsonl line 2: damaged"):
        run.results()


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


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.99])
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
    for place in range(0, len(data), len(data) // 20):
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
    assert errors > 15


def test_files_of_two_runs_that_were_mixed_are_refused(run, tmp_path):
    config = CONFIG | {"settings": {"seed": 1}}
    other = small_runs.write_bare_run(tmp_path / "b", config).directory
    shutil.copy(other / "model.keras", run.directory)
    with pytest.raises(RunError, match=MIXED):
        run.load_model()


MIXED = r"a/model\.keras: does not belong to this run's"


@pytest.mark.parametrize("size_px, classes", [(20, 2), (24, 3)])
def test_a_model_of_other_photos_or_classes_is_refused(run, size_px, classes):
    """Without identity, as runs of Graft's first version."""
    image = keras.Input((size_px, size_px, 3))
    flat = keras.layers.Flatten()(image)
    model = keras.Model(image, keras.layers.Dense(classes)(flat))
    model.save(run.directory / run_folder.MODEL_NAME)
    with pytest.raises(RunError, match=MIXED):
        run.load_model()


def test_the_folder_is_shown_relative_to_the_current_one(directory, monkeypatch):
    for here, shown in (("..", "a"), (".", str(directory)), ("evaluation", None)):
        place = (directory / here).resolve()
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        run = finished_run.read(str(directory.parent / "latest"))
        assert str(run.directory) == (shown or str(directory))


def test_a_model_with_code_in_it_is_refused(run):
    """A Lambda layer could run anything when the model is loaded."""
    image = keras.Input((8, 8, 3))
    bad = keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image))
    bad.save(run.directory / run_folder.MODEL_NAME)
    with pytest.raises(RunError, match=r"a/model\.keras: cannot be read"):
        run.load_model()


def run_on(records, path):
    """Return a run that was trained on these records when they lay at `path`."""
    data = {"path": str(path), "manifest_digest": records.digest}
    return finished_run.FinishedRun(
        directory=pathlib.Path("runs/a"), config={"data": data}
    )


def test_records_are_read_where_they_are_now(found, tmp_path):
    assert run_on(found, found.directory).read_records().digest == found.digest
    run = run_on(found, tmp_path / "gone")
    with pytest.raises(DataError, match=r"gone: .*--data=FOLDER"):
        run.read_records()
    assert run.read_records(str(found.directory)).digest == found.digest


@pytest.mark.parametrize("is_moved", [False, True])
def test_records_that_were_split_again_are_refused(found, tmp_path, is_moved):
    """The advice fits commands that have no --another_dataset."""
    rows = [
        dataclasses.replace(row, split="train") if row.split == "test" else row
        for row in found.rows
    ]
    dataclasses.replace(found, rows=tuple(rows)).stage(tmp_path)
    run = run_on(found, "gone" if is_moved else tmp_path)
    with pytest.raises(DataError, match="not the records that run") as raised:
        run.read_records(str(tmp_path) if is_moved else "")
    assert "another_dataset" not in str(raised.value)
