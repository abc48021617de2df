"""Use Graft from Python as a user's program and notebook do."""

import json
import shutil
import subprocess
import sys
import threading

import nbclient
import nbformat
import numpy as np
import pytest

import graft
import train
from graft import functions, results
from tests.support import drawn_photos, files

SMALL = {"ckpt": "none", "arch": "cifar_cnn", "epochs": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_photos.write_photos(tmp_path_factory.mktemp("api") / "photos")


@pytest.fixture(scope="module")
def run(folder):
    """Run trained in a thread, from a folder of photos."""
    results = []

    def train():
        directory = folder.with_name("runs") / "a"
        results.append(graft.train(folder, run_dir=directory, **SMALL))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    return results[0]


def test_importing_graft_is_quick_and_changes_nothing():
    program = """
import os, signal, sys, time
def state():
    signals = [signal.getsignal(n) for n in signal.valid_signals()]
    return signals, dict(os.environ), os.listdir("/proc/self/fd"), sys.excepthook
before, start = state(), time.perf_counter()
import graft
seconds = time.perf_counter() - start
assert before == state()
assert not {"tensorflow", "keras", "cv2", "numpy"} & sys.modules.keys()
assert seconds < 0.3, seconds
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=files.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_photos_are_converted_beside_their_folder(folder, run):
    records = graft.convert(folder)
    assert records.directory == folder.with_name("photos-records")
    assert records.class_names == run.class_names == ("blue", "green", "red")
    counts = records.to_dict()["counts"]["red"]
    assert counts == {"train": 10, "validation": 1, "test": 1}
    assert records.skipped == {}
    assert "<td>green</td><td>10</td><td>1</td><td>1</td>" in records._repr_html_()


def test_a_photo_gives_a_prediction_and_several_give_several(folder, run):
    one = run.predict(folder / "red" / "red001.jpg")
    assert one.answer in run.class_names
    assert one.probability == one.classes[one.answer]
    assert json.loads(json.dumps(one.to_dict()))["photo"].endswith("red001.jpg")
    assert 'src="data:image/jpeg;base64,' in one._repr_html_()
    (folder.parent / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    both = run.predict([folder / "red" / "red001.jpg", folder.parent / "broken.jpg"])
    assert [p.answer for p in both] == [one.answer, None]
    assert both[1].problem
    assert len(run.predict(folder)) == 36


def test_a_notebook_counts_the_predictions_that_it_does_not_show():
    unreadable = graft.Prediction(
        photo="a.jpg",
        answer=None,
        probability=None,
        classes={},
        is_stranger=False,
        stranger_score=None,
        problem="empty",
    )
    page = results.Predictions([unreadable] * 52)._repr_html_()
    assert page.count("a.jpg") == 50
    assert page.endswith("<p>and 2 more photos</p>")
    assert "more" not in results.Predictions([unreadable] * 50)._repr_html_()


def test_what_is_no_path_of_a_photo_is_said(run):
    for photos, message in ((b"\xff\xd8", "found bytes. Save"), ("", "'' is no path")):
        with pytest.raises(graft.UsageError, match=message):
            run.predict(photos)
    assert run.predict(iter([])) == ()


def test_a_run_is_found_from_another_folder_and_a_removed_one_is_said(
    run, folder, tmp_path, monkeypatch
):
    shutil.copytree(run.directory, tmp_path / "copy" / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "copy")
    copy = graft.load("a")
    assert graft.load("~/copy/a").to_dict() == copy.to_dict()
    evaluation = graft.evaluate("a", report=True)
    monkeypatch.chdir("/")
    assert evaluation.report == tmp_path / "copy" / "a" / "evaluation" / "test.html"
    assert copy.predict(folder / "red" / "red001.jpg").answer in run.class_names
    shutil.rmtree(copy.directory)
    assert "no such run folder" in repr(copy)
    assert evaluation._repr_html_().startswith("<pre>")


@pytest.mark.parametrize("name", ["every", "spans", "sort_as", "suggest_into"])
def test_settings_of_videos_and_of_output_are_none_of_a_prediction(run, folder, name):
    with pytest.raises(graft.UsageError, match=f"{name}: no such setting"):
        run.predict(folder, **{name: "1s"})


def test_an_evaluation_has_its_interval_and_report(run):
    evaluation = run.evaluate()
    low, high = evaluation.interval
    assert low < evaluation.accuracy < high or evaluation.accuracy in (0, 1)
    assert evaluation.num_photos == 3
    assert evaluation.report.read_text().startswith("<!doctype html>")
    assert "<iframe srcdoc=" in evaluation._repr_html_()
    assert run.to_dict()["accuracy"] == evaluation.accuracy
    assert graft.load(run.directory).to_dict() == run.to_dict()
    assert graft.evaluate(run.directory, report=False).report is None


def test_a_second_training_in_the_same_process_is_the_same(folder, run):
    numbers = {"epochs": np.int64(SMALL["epochs"])}
    runs = folder.with_name("runs")
    again = graft.train(folder, run_dir=runs / "b", **{**SMALL, **numbers})
    photo = folder / "blue" / "blue002.jpg"
    assert again.predict(photo).classes == run.predict(photo).classes


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epoch": 3}, "epoch: no such setting. Did you mean epochs?"),
        ({"epochs": "three"}, "--epochs=three: expected a whole number"),
        ({"epochs": 1.0}, "--epochs=1.0: expected a whole number"),
        ({"ckpt": False}, "--ckpt=False: neither a file nor a name"),
        ({"plan": True}, "plan, find_rate: only the command"),
        ({"ckpt": ["alexnet", "nothing"]}, "nothing"),
    ],
)
def test_wrong_settings_raise_the_message_of_the_command(folder, settings, message):
    with pytest.raises((graft.UsageError, graft.UserError), match=message):
        graft.train(folder, **{**SMALL, **settings})


def test_a_guess_is_noted_once_when_photos_are_converted_first(
    folder, run, monkeypatch, capfd
):
    given = []
    monkeypatch.setattr(train, "train", lambda configs: given.append(configs) or run)
    monkeypatch.setattr(functions, "load", lambda found: found)
    assert graft.train(folder) is run
    assert [c.data for c in given[0]] == [str(folder.with_name("photos-records"))]
    assert capfd.readouterr().err.count("note: no --ckpt: using") == 1


def test_what_is_no_folder_of_photos_is_an_error(tmp_path):
    with pytest.raises(graft.UserError, match="no such folder"):
        graft.train(tmp_path / "nowhere", **SMALL)
    with pytest.raises(graft.UsageError, match="expected a folder of photos"):
        graft.train(**SMALL)
    with pytest.raises(graft.UserError, match="not a run folder"):
        graft.load(tmp_path)


def test_a_script_needs_no_guard_for_its_processes(folder):
    """Worker processes do not run the script again, which would start others."""
    script = folder.with_name("three_lines.py")
    out = folder.with_name("again")
    script.write_text(
        f"import graft\nprint(graft.convert({str(folder)!r}, {str(out)!r}, workers=2))"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(files.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("36 photos, 3 classes") == 1, done.stderr


@pytest.mark.slow
def test_the_tour_runs_in_a_notebook(tmp_path, weights_cache, monkeypatch):
    drawn_photos.write_photos(tmp_path / "flowers")
    monkeypatch.setenv("PYTHONPATH", str(files.ROOT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(weights_cache))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(files.ROOT / "docs" / "tour.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300)
    client.execute(cwd=str(tmp_path))
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    pages = [
        o["data"]["text/html"] for o in outputs if "text/html" in o.get("data", {})
    ]
    assert "<td>green</td><td>10</td>" in pages[0]
    assert any("<iframe srcdoc=" in page for page in pages)
    assert any('src="data:image/jpeg;base64,' in page for page in pages)
    printed = "".join(o.get("text", "") for o in outputs)
    assert "epoch: no such setting. Did you mean epochs?" in printed
    assert "Traceback" not in printed
    assert (tmp_path / "exported" / "saved_model.pb").exists()
