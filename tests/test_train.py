import dataclasses
import json
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.checkpoints import errors
from model.evaluation import strangers
from model.loop import training_loop
from model.networks import registry
from model.predict import classifier, similar_photos
from model.runs import finished_run
from model.training import settings, starting_point, train_run
from model.weights import model_variables, named_weights
from pipeline.batches import image_batches
from pipeline.system.errors import DataError
from tests.support import processes


@pytest.fixture(autouse=True)
def cache(weights_cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(weights_cache))


@pytest.fixture
def quick(shared_records, tmp_path):
    return settings.Config(
        ckpt="alexnet",
        data=str(shared_records),
        run_dir=str(tmp_path / "run"),
        epochs=2,
        batch_size=16,
        learning_rate=1e-3,
        views=1,
    )


def content(directory, name):
    return json.loads((directory / name).read_text(encoding="utf-8"))


def restored_tensors():
    return named_weights.resolve("alexnet").checkpoint.tensors


def validation_logits(directory, found):
    """Return the logits of model.keras for the central crop of validation photos."""
    finished = finished_run.read(str(directory))
    model = finished.load_model()
    rows = found.included("validation")
    images = image_batches.Images(found, rows, finished.spec, batch_size=8)
    return np.concatenate([model(batch["image"]).numpy() for batch in images])


def test_a_run_folder_is_complete(shared_run):
    names = {path.name for path in shared_run.iterdir()} - {"evaluation"}
    assert names == {
        "config.json",
        "ledger.json",
        "metrics.jsonl",
        "curves.png",
        "first_batch.png",
        "tensorboard",
        "model.keras",
        "labels.txt",
        "photos.json",
        "calibration.json",
        "similar.csv",
        "similar.json",
        "strangers.npz",
    }
    assert (shared_run.parent / "latest").resolve() == shared_run.resolve()
    assert (shared_run / "labels.txt").read_text() == "blue\ngreen\nred\n"


def test_config_records_settings_and_digests(shared_run, found, weights_cache):
    config = content(shared_run, "config.json")
    fields = {field.name for field in dataclasses.fields(settings.Config)}
    assert set(config["settings"]) == fields
    assert config["network"] == "alexnet_owt"
    assert config["features"] == "conv3,conv4,pool5"
    (stage,) = config["stages"]
    assert stage.pop("learning_rate") == config["settings"]["learning_rate"]
    assert stage == {
        "train_from": "logits",
        "cut": "pool5",
        "frozen": [],
        "optimizer": "adam",
    }
    assert config["data"]["manifest_digest"] == found.digest
    assert config["data"]["resize_min"] == found.info.settings["resize_min"]
    assert config["data"]["counts"] == found.counts()
    assert config["weights"]["variant"].startswith("convolutions only")
    assert config["weights"]["path"].startswith(str(weights_cache))
    checkpoint = named_weights.resolve("alexnet").checkpoint
    assert config["weights"]["tensors_sha256"] == checkpoint.digest()
    assert config["versions"]["tensorflow"] == tf.__version__


def test_metrics_show_that_training_learns(shared_run):
    results = finished_run.read(str(shared_run)).results()
    assert [result["epoch"] for result in results] == [1, 2, 3, 4]
    assert results[-1]["loss"] < results[0]["loss"]
    assert results[-1]["validation_accuracy"] > 0.9
    assert all(result["images_per_s"] > 0 for result in results)
    rates = [result["learning_rate"] for result in results]
    # Half a cosine over 4 epochs of 6 steps: at the last step of each.
    steps = (5, 11, 17, 23)
    expected = [1e-3 * (1 + math.cos(math.pi * step / 24)) / 2 for step in steps]
    assert rates == pytest.approx(expected, rel=1e-4)


def test_the_ledger_lists_everything_and_proves_the_frozen_part(shared_run):
    ledger = content(shared_run, "ledger.json")
    variables = {"restored": set(), "new": set()}
    for entry in ledger["tensors"]:
        variables[entry["status"]].add(entry["variable"])
    convolutions = restored_tensors().keys()
    assert len(convolutions) == 10
    assert variables["restored"] == convolutions
    assert variables["new"] == {"logits/kernel", "logits/bias"}
    assert ledger["preprocessing"] == "torchvision"
    frozen = {entry["variable"]: entry for entry in ledger["frozen"]}
    assert set(frozen) == convolutions
    arrays = model_variables.gather(finished_run.read(str(shared_run)).load_model())
    tensors = restored_tensors()
    for name, digests in frozen.items():
        assert (arrays[name] == tensors[name]).all()
        assert digests["sha256_before"] == digests["sha256_after"]
        assert digests["sha256_after"]


def test_the_model_loads_in_plain_keras_elsewhere(shared_run, found, tmp_path):
    """A process that has never seen our code gives the same logits."""
    spec = finished_run.read(str(shared_run)).spec
    batch = image_batches.sample(found, found.included("test"), spec, 8)
    np.save(tmp_path / "images.npy", batch)
    program = (
        "import sys, keras, numpy as np\n"
        f"model = keras.models.load_model({str(shared_run / 'model.keras')!r})\n"
        f"logits = model(np.load('images.npy')).numpy()\n"
        "assert not {'model', 'pipeline'} & set(sys.modules)\n"
        "np.save('logits.npy', logits)\n"
    )
    done = processes.run_command("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    model = keras.models.load_model(shared_run / "model.keras")
    expected = model(batch).numpy()
    assert np.allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-4)


def test_the_saved_model_has_the_lowest_validation_loss(shared_run, found):
    results = finished_run.read(str(shared_run)).results()
    lowest = min(result["validation_loss"] for result in results)
    logits = validation_logits(shared_run, found).astype(np.float64)
    labels = [found.labels[row.class_name] for row in found.included("validation")]
    chosen = logits[np.arange(len(labels)), labels]
    loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen)
    assert loss == pytest.approx(lowest, abs=0.02)  # features were bfloat16, perhaps


def assert_strangers_are_scored_by_the_saved_network(directory, found):
    """Compare strangers.npz with a fit to the features that a prediction computes."""
    loaded = classifier.load_run(str(directory))
    embedder = similar_photos.build_embedder(loaded.run, loaded.model)

    def features(split):
        rows = found.included(split)
        images = image_batches.Images(found, rows, loaded.spec, batch_size=8)
        return [(embedder(batch["image"])[0], batch["label"]) for batch in images]

    expected = strangers.fit(
        features("train"), features("validation"), num_training=48, num_classes=3
    )
    scorer, tested = loaded.stranger_scorer, features("test")[0][0]
    assert scorer.scores(tested) == pytest.approx(expected.scores(tested), rel=0.02)
    assert scorer.num_validation == 0


def test_strangers_are_scored_by_cached_features(shared_run, found):
    assert_strangers_are_scored_by_the_saved_network(shared_run, found)


@pytest.mark.usefixtures("undrawn", "undoubted")
def test_deeper_layers_can_train(tiny_config, found):
    """The head sits on pool1, too, so that what is above belongs to the tail."""
    position = {"features": "pool1,pool2", "train_from": "conv2"}
    config = dataclasses.replace(tiny_config, **position, epochs=1)
    directory = train_run.train(config)
    (stage,) = content(directory, "config.json")["stages"]
    assert stage.pop("learning_rate") == config.learning_rate
    assert (stage["train_from"], stage["cut"]) == ("conv2", "pool1")
    assert (stage["frozen"], stage["optimizer"]) == ([], "adam")
    ledger = content(directory, "ledger.json")
    frozen = {entry["variable"].split("/")[0] for entry in ledger["frozen"]}
    assert frozen == {"conv1"}
    arrays = model_variables.gather(finished_run.read(str(directory)).load_model())
    tensors = named_weights.resolve(config.ckpt).checkpoint.tensors
    for layer, is_same in (("conv1", True), ("conv2", False)):
        name = f"{layer}/kernel"
        assert np.array_equal(arrays[name], tensors[name]) == is_same
    assert_strangers_are_scored_by_the_saved_network(directory, found)


@pytest.mark.usefixtures("undrawn", "undoubted")
def test_strangers_are_scored_by_layers_that_trained_on_photos(tiny_config, found):
    config = dataclasses.replace(tiny_config, views=0, train_from="conv2", epochs=1)
    directory = train_run.train(config)
    assert_strangers_are_scored_by_the_saved_network(directory, found)


@pytest.mark.usefixtures("only_trained")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_each_precision_trains(tiny_config, precision, found, capsys):
    config = dataclasses.replace(tiny_config, precision=precision, epochs=1)
    directory = train_run.train(config)
    header = re.findall(r"^([a-z ]+?)  +(.+)", capsys.readouterr().err, re.M)
    labels = ["validation", "weights", "network", "input", "preprocessing", "head"]
    labels += ["trains", "learning rate"]
    if precision == "float16":
        labels.insert(0, "precision")
        assert header[1][1].endswith("float32 for training the head (logits)")
    assert [label for label, _ in header] == ["device", *labels, "epochs", "photos"]
    assert header[0][1].endswith(f", {precision}")
    assert dict(header)["learning rate"].startswith("0.01 (")
    assert dict(header)["photos"] == "48 train, 6 validation, 6 test"
    logits = validation_logits(directory, found)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_a_tensorflow_1_checkpoint_is_matched_by_names(quick, found, tmp_path):
    random = np.random.default_rng(0)
    network = registry.NETWORKS["alexnet"]
    tensors = {}
    for layer, shapes in network.variable_shapes(network.input_spec).items():
        if layer.startswith("conv"):
            kernel = random.normal(0, 0.02, shapes["kernel"]).astype(np.float32)
            tensors[f"{layer}/weights"] = kernel
            tensors[f"{layer}/biases"] = np.zeros(shapes["bias"], np.float32)
    prefix = tmp_path / "alexnet_2018.ckpt"
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    config = dataclasses.replace(quick, ckpt=str(prefix))
    start = starting_point.choose(config, found)
    assert start.network.name == "alexnet"
    kernel = start.restored.values["conv3"]["kernel"]
    assert (kernel == tensors["conv3/weights"]).all()


@pytest.mark.usefixtures("only_trained")
def test_a_diverging_loss_stops_the_run_and_names_the_step(tiny_config):
    config = dataclasses.replace(tiny_config, learning_rate=1e38)
    with pytest.raises(training_loop.NonFiniteLoss, match=r"step \d+ of epoch \d+"):
        train_run.train(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ckpt": "alexnett"}, "did you mean alexnet"),
        ({"features": "fc7"}, "fc6"),
        ({"features": "pool9"}, "pool9"),
        ({"features": "pool5,pool9"}, "conv1, pool1, conv2"),
        ({"features": "pool2,pool5", "pooling": "none"}, "Use --pooling=average"),
        ({"train_from": "conv9"}, "conv9"),
    ],
    ids=str,
)
def test_settings_that_the_weights_do_not_allow_are_an_error(quick, change, message):
    config = dataclasses.replace(quick, **change)
    with pytest.raises(errors.CheckpointError, match=message):
        train_run.train(config)
    assert not Path(config.run_dir).exists()


@pytest.mark.parametrize(
    ("split", "other", "message"),
    [
        ("validation", "train", "no validation photo.* Make a new split"),
        ("train", "test", "no training photo of blue, green, red"),
    ],
)
def test_an_empty_split_is_refused(found, tmp_path, split, other, message):
    with pytest.raises(DataError, match=message):
        read_changed(found, tmp_path, split, {"split": other})


def read_changed(found, folder, split, changes):
    """Read records, of which the photos of a split are changed."""
    rows = tuple(
        dataclasses.replace(row, **changes) if row.split == split else row
        for row in found.rows
    )
    for path in found.directory.glob("*.tfrecord"):
        (folder / path.name).symlink_to(path)
    dataclasses.replace(found, rows=rows, directory=folder).stage(folder)
    train_run.read_records(str(folder))


def test_a_group_in_several_splits_is_warned_of(found, tmp_path, capsys):
    group = found.included("train")[0].group
    read_changed(found, tmp_path, "test", {"group": group})
    assert (
        "warning: groups of photos in more than one split: 1, so"
        in capsys.readouterr().err
    )
