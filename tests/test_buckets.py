"""Do everything with buckets: the results are those of folders of this machine."""

import contextlib
import errno
import io
import json
import runpy
import signal
import sys
from unittest import mock

import numpy as np
import pytest
import safetensors.numpy

import graft
from model.runs import run_folder
from pipeline.records import manifest, staging
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError
from pipeline.system.remote import bucket, mirror
from tests.support import conversions, drawn_photos, files, stores

pytestmark = [
    # Of aiohttp, through which gcsfs sends files.
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
    pytest.mark.filterwarnings(r"ignore:'[\w.]+' found in sys.modules:RuntimeWarning"),
]
SMALL = {"ckpt": "none", "arch": "cifar_cnn", "epochs": 1}
# Figures that no two evaluations share.
DIFFER = {"seconds", "images_per_s", "seal", "model_sha256"}


def run(module, *words):
    """Run a command in this process; return what it prints."""
    printed, handlers = io.StringIO(), (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in handlers]
    with (
        mock.patch.object(sys, "argv", ["graft", *words]),
        mock.patch.object(command_line, "_end", sys.exit),
        contextlib.redirect_stdout(printed),
        conversions.in_this_process(),
    ):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code, printed.getvalue()
        finally:
            for number, handler in zip(handlers, before, strict=True):
                signal.signal(number, handler)
    return printed.getvalue()


def run_all(place):
    """Run every command with files of a place, where photos are; return the lines."""
    records, at = f"{place}/records", f"--run_dir={place}/run"
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    lines = [
        run("pipeline.convert", f"{place}/photos", f"--out={records}"),
        run("pipeline.check", records, f"--out={place}/check"),
        run("pipeline.check", f"{place}/photos", f"--out={place}/checked"),
        run("train", f"--data={records}", at, *flags),
        run("evaluate", at),
        run("model.predict", f"{place}/photos/red", at, "--format=jsonl"),
        run("model.export", at, f"--weights={place}/out/w.safetensors"),
        run("pipeline.split", records, "--seed=7"),
    ]
    return "".join(lines)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Folder of photos, and of what the commands make of them."""
    folder = tmp_path_factory.mktemp("local")
    drawn_photos.write_photos(folder / "photos")
    with conversions.in_this_process():
        graft.convert(folder / "photos", folder / "unsplit")
    (folder / "lines").write_text(run_all(folder))
    return folder


@pytest.fixture
def place(new_bucket, local):
    """Address in S3 that has the photos."""
    return with_photos(new_bucket("s3"), local)


def with_photos(address, local):
    stores.upload(local / "photos", f"{address}/photos")
    return address


def weights(folder):
    import keras

    arrays = keras.saving.load_model(folder / "model.keras").get_weights()
    return [array.tobytes() for array in arrays]


def convert(place, **settings):
    with conversions.in_this_process():
        return graft.convert(f"{place}/photos", f"{place}/records", **settings)


@pytest.mark.parametrize("scheme", ["s3", pytest.param("gs", marks=pytest.mark.slow)])
def test_every_command_gives_what_it_gives_in_a_folder(scheme, new_bucket, local):
    place = with_photos(new_bucket(scheme), local)
    lines = run_all(place)
    expected = (local / "lines").read_text().replace(str(local), place)
    assert sorted(set(lines.splitlines()) ^ set(expected.splitlines())) == []
    found = stores.content(place)
    cache = str(file_system.cache_folder()).encode()
    assert [name for name, content in found.items() if cache in content] == []
    copied = {
        name: content.replace(str(local).encode(), place.encode())
        for name, content in files.folder_content(local).items()
        if not name.startswith(("lines", "cache/", "unsplit/"))
    }
    no_events = {name for name in found if "tfevents" not in name}
    assert no_events == {name for name in copied if "tfevents" not in name}
    assert {"run/evaluation/test.html", "run/model.keras"} < no_events
    same = [name for name in found if name.startswith(("photos/", "records/"))]
    same += ["checked/check.json", "check/check.json", "run/photos.json"]
    assert {n: found[n] for n in same} == {n: copied[n] for n in same}
    ours, theirs = (
        safetensors.numpy.load(content["out/w.safetensors"])
        for content in (found, copied)
    )
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)
    ours, theirs = (
        json.loads(content["run/evaluation/test.json"]) for content in (found, copied)
    )
    assert {name for name in ours if ours[name] != theirs[name]} <= DIFFER
    ours, theirs = (
        np.load(io.BytesIO(content["run/evaluation/test.npz"]))["logits"]
        for content in (found, copied)
    )
    assert ours.tobytes() == theirs.tobytes()
    config = json.loads(found["run/config.json"])
    assert config["data"]["path"] == config["settings"]["data"] == f"{place}/records"


def test_records_are_updated_in_place_or_not_at_all(place, local, monkeypatch):
    records = f"{place}/records"
    convert(place)
    before = stores.content(records)
    convert(place)
    assert stores.content(records) == before
    # Thirteen photos a class, of which twelve are known, and a class without photos.
    more = drawn_photos.write_photos(local / "more", per_class=13)
    with conversions.in_this_process():
        graft.convert(local / "photos", local / "updated")
        graft.convert(more, local / "updated")
    stores.upload(more, f"{place}/photos")
    with monkeypatch.context() as patch:
        patch.setattr(staging, "commit", fail)
        with pytest.raises(OSError, match="cut off"):
            convert(place)
    assert stores.content(records) == before
    convert(place)
    assert stores.content(records) == files.folder_content(local / "updated")


def fail(*_):
    raise OSError(errno.EIO, "cut off")


def test_an_interrupted_commit_is_completed_by_the_next_conversion(
    place, local, monkeypatch
):
    finish = staging.finish
    with monkeypatch.context() as patch:
        # Of the copy, before and after, and of the bucket.
        calls = iter([finish, finish, finish, fail])
        patch.setattr(staging, "finish", lambda directory: next(calls)(directory))
        with pytest.raises(DataError, match="were not copied there: cut off"):
            convert(place)
    in_bucket = stores.content(f"{place}/records")
    assert ".partial/COMMIT" in in_bucket
    message = "a conversion was interrupted while it put"
    with pytest.raises(DataError, match=message), mirror.copied_back():
        manifest.read(mirror.local(f"{place}/records"))
    convert(place)
    assert stores.content(f"{place}/records") == files.folder_content(local / "unsplit")


@pytest.mark.slow
def test_classifiers_are_exported_with_the_files_beside_them(place, local):
    stores.upload(local / "unsplit", f"{place}/records")
    stores.upload(local / "run", f"{place}/run")
    flags = [f"--run_dir={place}/run", f"--data={place}/records"]
    flags += [f"--out={place}/out/f.onnx", "--format=onnx"]
    assert f"written: {place}/out/f.onnx" in run("model.export", *flags)
    assert stores.content(f"{place}/out").keys() == {"README.md", "f.onnx"}


@pytest.mark.slow
def test_functions_take_photos_and_weights_of_buckets(place, local):
    stores.upload(local / "run", f"{place}/run")
    ckpt = f"{place}/run/model.keras"
    with conversions.in_this_process():
        ours = graft.train(f"{place}/photos", ckpt=ckpt, run_dir=f"{place}/new")
    config = json.loads(stores.content(f"{place}/new")["config.json"])
    assert config["weights"]["ckpt"] == config["weights"]["path"] == ckpt
    assert config["data"]["path"] == f"{place}/photos-records"
    ours.evaluate()
    assert "evaluation/test.json" in stores.content(f"{place}/new")
    photo = f"{place}/photos/red/red000.jpg"
    assert ours.predict(photo).photo == photo
    assert photo in ours.predict(photo)._repr_html_()
    assert next(iter(ours.predict(f"{place}/photos/red"))).photo == photo


def test_a_photo_that_the_store_does_not_give_ends_the_conversion(place, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("out of order")

    monkeypatch.setattr(bucket, "_PAUSES_S", (0, 0))
    monkeypatch.setattr(bucket._file_system(place), "cat_file", fail)
    with pytest.raises(DataError, match=rf"{place}/photos/\w+/\w+.jpg: out of order"):
        convert(place)
    monkeypatch.undo()
    assert not any("records" in name for name in stores.content(place))


def test_lists_are_read_from_buckets(place):
    rows = [
        f"{c}/{c}{n:03d}.jpg {i}"
        for i, c in enumerate(["red", "blue"])
        for n in (0, 1, 2)
    ]
    for name, text in (("train.txt", "\n".join(rows)), ("labels.txt", "red\nblue\n")):
        stores.store("s3").pipe_file(f"{place}/{name}", text.encode())
    records = convert(place, lists=f"{place}/train.txt", labels=f"{place}/labels.txt")
    assert records.to_dict()["counts"].keys() == {"red", "blue"}
    correction = b"path,label,note,sha256\nred/red000.jpg,blue,,\n"
    stores.store("s3").pipe_file(f"{place}/c.csv", correction)
    records = convert(
        place,
        lists=f"train={place}/train.txt",
        labels=f"{place}/labels.txt",
        corrections=f"{place}/c.csv",
    )
    counts = records.to_dict()["counts"]
    assert [sum(counts[name].values()) for name in ("red", "blue")] == [2, 4]


@pytest.mark.slow
def test_a_stopped_training_continues_on_another_machine(
    place, local, monkeypatch, tmp_path
):
    stores.upload(local / "unsplit", f"{place}/records")
    stores.upload(local / "run", f"{place}/first")
    two = {"train_from": "block_1_0", "epochs": 2}
    whole = graft.train(
        local / "unsplit",
        ckpt=local / "run" / "model.keras",
        run_dir=local / "whole",
        **two,
    )
    two["ckpt"] = f"{place}/first/model.keras"
    written = run_folder.RunFolder.append_metrics

    def stop(folder, result):
        written(folder, result)
        if result.epoch == 1:
            raise command_line.Stopped(signal.SIGTERM, in_order=True)

    with monkeypatch.context() as patch, pytest.raises(command_line.Stopped):
        patch.setattr(run_folder.RunFolder, "append_metrics", stop)
        graft.train(f"{place}/records", run_dir=f"{place}/run", **two)
    assert "checkpoints/step-00000001.npz" in stores.content(f"{place}/run")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    run = graft.train(resume=f"{place}/run")
    assert run.directory.is_relative_to(tmp_path / "another")
    assert weights(run.directory) == weights(whole.directory)
    assert not any("checkpoints" in name for name in stores.content(f"{place}/run"))


@pytest.mark.slow
def test_folds_are_trained_and_evaluated(place, local):
    stores.upload(local / "unsplit", f"{place}/records")
    graft.train(f"{place}/records", run_dir=f"{place}/folds", folds=2, **SMALL)
    ours = graft.evaluate(f"{place}/folds").to_dict()
    graft.train(local / "unsplit", run_dir=local / "folds", folds=2, **SMALL)
    theirs = graft.evaluate(local / "folds").to_dict()
    assert ours["accuracy"] == theirs["accuracy"]
    assert ours["num_examples"] == theirs["num_examples"] == 36
    in_bucket = stores.content(f"{place}/folds")
    assert "records/fold-1/manifest.json" in in_bucket
    cache = str(file_system.cache_folder()).encode()
    assert [name for name, content in in_bucket.items() if cache in content] == []
