"""Folders of runs that somebody else has made: nothing is written through a link."""

import types
import zipfile

import h5py
import keras
import numpy as np
import pytest

from model.export import export_settings, exporting
from model.loop.inputs import feature_cache
from model.reports import tensorboard_pages
from model.runs import finished_run, run_folder, snapshots, tensorboard_log
from pipeline.batches import image_batches
from pipeline.system.errors import DataError
from tests.support import cases, small_runs
from tests.support.weights import memory

IDENTITY = {"precision": "float32"}


@pytest.fixture
def victim(tmp_path):
    """A folder of another user, with files of the names that Graft writes."""
    folder = tmp_path / "victim"
    folder.mkdir()
    for name in ("about.json", "view0.npy", "metrics.jsonl", "step-00000001.npz"):
        (folder / name).write_text("precious")
    return folder


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "runs" / "run"
    directory.mkdir(parents=True)
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


def draw_evaluation(run):
    path = run.directory / "evaluation" / "test.json"
    tensorboard_pages.directory(types.SimpleNamespace(run=run, path=path))


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
        "tensorboard of an evaluation": ("tensorboard", "", draw_evaluation),
        "evaluation in tensorboard": (
            *("tensorboard/evaluation-test", ""),
            draw_evaluation,
        ),
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
        "features": ("{folder}/view0.npy", "view0.npy"),
        "marks": ("{folder}/view0.crc32c.npy", "missing"),
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
    monkeypatch.setattr(feature_cache, "CAP_BYTES", 0)
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
