"""Folders of runs that somebody else has made: nothing is written through a link."""

import contextlib
import json
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest

import evaluate
from model.evaluation import evaluation_settings
from model.export import export_settings, exporting
from model.loop.inputs import feature_cache, feature_store
from model.runs import finished_run, run_folder, snapshots, tensorboard_log
from model.training import train_run
from pipeline.batches import image_batches
from pipeline.system.errors import DataError
from tests.support import cases, evaluated_runs, small_runs
from tests.support.weights import memory

IDENTITY = {"precision": "float32"}


@pytest.fixture
def victim(tmp_path):
    """A folder of another user, with files of the names that Graft writes."""
    folder = tmp_path / "victim"
    folder.mkdir()
    for name in ("about.json", "view0.features", "metrics.jsonl", "step-00000001.npz"):
        (folder / name).write_text("precious")
    return folder


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "runs" / "run"
    run_folder.RunFolder(directory=directory).start(small_runs.CONFIG, ())
    return finished_run.FinishedRun(directory=directory, config=small_runs.CONFIG)


@pytest.fixture
def use_cache(found, run):
    def use(_):
        image = keras.Input((24, 24, 3))
        trunk = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
        rows = found.included()[:4]
        images = image_batches.Images(found, rows, small_runs.SPEC, batch_size=4)
        feature_cache.extract(
            trunk,
            images,
            {feature_cache.CENTRAL: np.arange(4)},
            cache_dir=run_folder.cache_dir(run.directory),
            identity=IDENTITY,
        )

    return use


def train(run):
    with snapshots.locked(run.directory):
        pass


def log_epoch(run):
    folder = run_folder.RunFolder(directory=run.directory)
    folder.append_metrics(small_runs.epoch_result(1))


def write_figures(run):
    run.evaluation_path("test", run.manifest_digest)


def draw_curves(run):
    tensorboard_log.Board(run.directory).close()


def export(run):
    exporting.choose_path(run.directory, export_settings.Config(format="onnx"))


@cases.table(
    ("link", "target", "use"),
    {
        "checkpoints": ("checkpoints", "", train),
        "figures of epochs": ("metrics.jsonl", "metrics.jsonl", log_epoch),
        "evaluation": ("evaluation", "", write_figures),
        "tensorboard": ("tensorboard", "", draw_curves),
        "training in tensorboard": ("tensorboard/training", "", draw_curves),
        "exported": ("exported", "", export),
    },
)
def test_a_link_in_a_run_is_refused(run, victim, link, target, use):
    place_link(run.directory / link, victim / target)
    before = content(victim)
    with pytest.raises(DataError, match=f"{link}: is a link"):
        use(run)
    assert content(victim) == before


@cases.table(
    ("link", "target"),
    {
        "cache": ("", ""),
        "folder": ("{folder}", ""),
        "identity": ("{folder}/about.json", "about.json"),
        "new identity": ("{folder}/about.json", "missing"),
        "features": ("{folder}/view0.features", "view0.features"),
        "marks": ("{folder}/view0.crc32c", "missing"),
    },
)
def test_a_link_in_a_cache_is_refused(run, victim, use_cache, tmp_path, link, target):
    use_cache(run)
    cache = run_folder.cache_dir(run.directory)
    (folder,) = cache.iterdir()
    path = cache / link.format(folder=folder.name)
    path.rename(tmp_path / "moved")
    place_link(path, victim / target)
    before = content(victim)
    with pytest.raises(DataError, match=f"{path.name}: is a link"):
        use_cache(run)
    assert content(victim) == before


def test_a_linked_cache_is_not_removed_for_space(run, victim, use_cache, monkeypatch):
    monkeypatch.setattr(feature_store, "CAP_BYTES", 0)
    before = content(victim)
    place_link(run_folder.cache_dir(run.directory) / "linked", victim)
    use_cache(run)
    assert content(victim) == before


@cases.table(
    ("member", "before", "after"),
    {
        "units": ("config.json", b'"units": 2', b'"units": 2000000000000'),
        "member that inflates": ("config.json", b"{", b"{" + b" " * (64 << 20)),
    },
)
def test_a_model_larger_than_its_file_is_refused(run, member, before, after):
    image = keras.Input((24, 24, 3))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
    path = run.directory / run_folder.MODEL_NAME
    model.save(path)
    run.load_model()
    edit_member(path, member, before, after)
    with memory.at_most(32 << 20), pytest.raises(DataError, match="it asks for"):
        run.load_model()


@cases.table(
    "layers",
    {
        "enlarged": [keras.layers.UpSampling2D(100_000), keras.layers.Conv2D(2, 24)],
        "padded": [keras.layers.ZeroPadding2D(10**6)],
        "repeated": [keras.layers.Flatten(), keras.layers.RepeatVector(10**9)],
        "resized": [keras.layers.Resizing(10**6, 10**6)],
        "in a model within": [
            keras.Sequential(
                [keras.Input((24, 24, 3)), keras.layers.UpSampling2D(100_000)]
            )
        ],
    },
)
def test_a_layer_that_makes_terabytes_of_a_photo_is_refused(run, layers):
    image = keras.Input((24, 24, 3))
    output = image
    for layer in layers:
        output = layer(output)
    keras.Model(image, output).save(run.directory / run_folder.MODEL_NAME)
    with memory.at_most(32 << 20), pytest.raises(DataError, match="it asks for"):
        run.load_model()


def test_a_layer_of_another_backend_is_refused_in_one_line(run):
    path = run.directory / run_folder.MODEL_NAME
    small_runs.one_layer_model().save(path)
    edit_member(path, "config.json", b'"Conv2D"', b'"TorchModuleWrapper"')
    with pytest.raises(DataError, match="cannot be read"):
        run.load_model()


@pytest.fixture
def whole(tmp_path, found, victim):
    """A run that was evaluated, beside what belongs to others."""
    for name in ("test.json", "test.npz", "test.html", "model.keras", "config.json"):
        (victim / name).write_text("precious")
    directory = tmp_path / "runs" / "whole"
    evaluated_runs.write_run(directory, found)
    evaluate.evaluate(evaluation_settings.Config(run_dir=str(directory), report=False))
    return directory


def use_all(run, *, report):
    """Use a run as the commands do, which may refuse it."""
    evaluation = evaluation_settings.Config(run_dir=str(run), report=report)
    weights = str(run.parents[1] / "exported.npy")
    exports = export_settings.Config(run_dir=str(run), weights=weights)

    def snapshot():
        with snapshots.locked(run):
            folder = run / run_folder.CHECKPOINTS
            snapshots.read_latest(folder)
            snapshots.write(folder, 2, {"a": np.zeros(1)}, keep=1)

    for command in (
        lambda: evaluate.evaluate(evaluation),
        lambda: exporting.export_weights(exports),
        lambda: exporting.choose_path(run, export_settings.Config(format="onnx")),
        lambda: train_run.resume(run),
        lambda: run_folder.RunFolder(directory=run).append_metrics(
            small_runs.epoch_result(1)
        ),
        snapshot,
    ):
        with contextlib.suppress(DataError, OSError):
            command()


def outside(run):
    """Return {path: content, or target of a link} of all files beside the run."""
    return {
        str(path): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in run.parents[1].rglob("*")
        if not path.is_dir() and run not in path.parents and path.name != "exported.npy"
    }


def put(name, make):
    """Put what `make` makes under a name into a run, in place of what is there."""

    def apply(run):
        path = run / name
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            path.rename(run.parents[1] / "moved")
        make(path)

    return apply


def link_to_victim(path):
    victim = next(p for p in path.parents if (p / "victim").exists()) / "victim"
    path.symlink_to(victim / path.name if "." in path.name else victim)


def link_hard(path):
    path.hardlink_to(next(p for p in path.parents if (p / "moved").exists()) / "moved")


def make_sparse(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def edit_config(**values):
    def apply(run):
        path = run / run_folder.CONFIG_NAME
        content = json.loads(path.read_text())
        content["data"] |= values
        path.write_text(json.dumps(content))

    return apply


FILES = (
    *("config.json", "labels.txt", "photos.json", "calibration.json", "metrics.jsonl"),
    *("model.keras", "ledger.json", "ran_away.txt", "evaluation/test.json"),
    *("evaluation/test.npz", "checkpoints/step-00000001.npz"),
)
FOLDERS = (
    *("evaluation", "tensorboard", "tensorboard/evaluation-test", "checkpoints"),
    *("exported", "evaluation/test.html", "curves.png", "first_batch.png"),
)
HOSTILE = {
    **{f"{name} is a link": put(name, link_to_victim) for name in (*FILES, *FOLDERS)},
    **{f"{name} is a pipe": put(name, os.mkfifo) for name in (*FILES, *FOLDERS)},
    **{f"{name} has a terabyte": put(name, make_sparse) for name in FILES},
    **{
        f"{name} is a hard link": put(name, link_hard)
        for name in FILES
        if name not in ("labels.txt", "ran_away.txt", "checkpoints/step-00000001.npz")
    },
    **{
        f"{name} is endless": put(name, lambda path: path.symlink_to("/dev/zero"))
        for name in FILES
    },
    **{
        f"{name} is deep": put(name, lambda path: path.write_text("[" * 10**6))
        for name in FILES
        if "json" in name
    },
    **{
        f"records {kind}": edit_config(path=path)
        for kind, path in {
            "above": "../../victim",
            "absolute": "/etc",
            "with a zero byte": "a\0b",
            "no text": "\ud800",
            "long": "x" * 10**5,
            "of Windows": "C:\\victim",
            "in a bucket": "nowhere://bucket/folder",
        }.items()
    },
    **{
        f"class {kind}": edit_config(class_names=[name, "green", "red"])
        for kind, name in {
            "above": "../../victim",
            "with an end of line": "a\nb",
            "long": "x" * 10**6,
            "that runs backwards": "\u202eeulb",
        }.items()
    },
}


@pytest.mark.slow
@cases.table("spoil", HOSTILE)
def test_what_a_stranger_put_into_a_run_changes_nothing_outside(
    whole, spoil, impatient, request
):
    spoil(whole)
    before = outside(whole)
    use_all(whole, report=any(n in request.node.name for n in ("html", "tensorboard")))
    assert outside(whole) == before


def test_an_array_larger_than_the_model_file_is_refused(run, tmp_path):
    path = run.directory / run_folder.MODEL_NAME
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]).save(path)
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    weights = tmp_path / "weights.h5"
    weights.write_bytes(content["model.weights.h5"])
    with h5py.File(weights, "a") as file:
        file.create_dataset("more", (1 << 40,), np.float32, chunks=(1 << 20,))
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(name, weights.read_bytes() if "weights" in name else data)
    with pytest.raises(DataError, match="it asks for 4,398"):
        run.load_model()


def edit_member(path, member, before, after):
    """Replace bytes in a member of a zip file."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    content[member] = content[member].replace(before, after, 1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)


def place_link(link, target):
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
