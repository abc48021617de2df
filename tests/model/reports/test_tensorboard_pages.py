import pytest
import tensorflow as tf
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from model.reports import tensorboard_pages
from tests.support import evaluated_runs


@pytest.fixture(scope="module")
def evaluation(shared_records, tmp_path_factory):
    from pipeline.records import manifest

    found = manifest.read(shared_records)
    return evaluated_runs.judged(tmp_path_factory.mktemp("board") / "run", found)


def read(folder):
    """{tag: value} of the one event file there."""
    (path,) = folder.glob("events.out.tfevents.*")
    return {
        value.tag: value
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }


def test_figures_and_settings_are_written(evaluation):
    tensorboard_pages.write(evaluation)
    tensorboard_pages.write(evaluation)  # takes the place of the first
    found = read(tensorboard_pages.directory(evaluation))
    assert float(tf.make_ndarray(found["accuracy"].tensor)) == pytest.approx(
        evaluation.figures["accuracy"]
    )
    error = float(tf.make_ndarray(found["calibration_error"].tensor))
    assert error == pytest.approx(evaluation.figures["calibration"]["ece"])
    assert "recall/red" in found
    assert "confusion_matrix" in found
    about = found[metadata.SESSION_START_INFO_TAG].metadata.plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(about).session_start_info
    assert settings.hparams["network"].string_value == "tiny"


def test_names_that_are_no_utf8_and_a_number_too_large(found, tmp_path):
    records = evaluated_runs.renamed(found, ("b\udcff", "green", "a\tb"))
    evaluation = evaluated_runs.judged(tmp_path / "run", records, split="test")
    evaluation.run.config["settings"] = {"ckpt": "w\udcfe.npy", "epochs": 10**400}
    tensorboard_pages.write(evaluation)
    tags = read(tensorboard_pages.directory(evaluation))
    assert {"recall/b\\xff", "recall/a\\tb"} <= set(tags)
    settings = tensorboard_pages.main_settings(evaluation.run.config)
    assert settings["ckpt"] == "w\\xfe.npy"
    assert settings["epochs"].startswith("1000")


def test_the_main_settings_are_those_that_the_training_used():
    config = {
        "network": "alexnet_owt",
        "features": "conv3,pool5",
        "input_spec": {"size_px": 224},
        "epochs": 5,
        "stages": [
            {"train_from": "logits", "learning_rate": 1e-3},
            {"train_from": "conv1", "learning_rate": 1e-4},
        ],
        "settings": {
            "epochs": 30,
            "learning_rate": 0.0,
            "train_from": "",
            "keep_head": False,
            "learning": {"optimizer": "adam", "momentum": 0.9},
            "overrides": {"image_size": None},
            "stages": [{"epochs": 3}, {"optimizer": "sgd", "epochs": 2}],
        },
    }
    assert tensorboard_pages.main_settings(config) == {
        "network": "alexnet_owt",
        "features": "conv3,pool5",
        "train_from": "conv1",
        "image_size": 224,
        "epochs": 5,
        "learning_rate": 1e-4,
        "optimizer": "sgd",
    }
