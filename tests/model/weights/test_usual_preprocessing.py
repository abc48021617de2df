"""Which preprocessing a network was trained with, and what is said about it."""

import cv2
import keras
import numpy as np
import pytest
from keras import layers

import evaluate
from model import inspect
from model.checkpoints import reading
from model.evaluation import evaluation_settings
from model.networks import applications
from model.networks.keras_models import from_keras_config
from model.predict import __main__ as predict
from model.training import settings, train_run
from model.weights import restore, usual_preprocessing, weight_settings
from pipeline.batches.input_spec import InputSpec
from pipeline.system.errors import DataError
from tests.support import conversions, drawn_photos

SIZE = 24
ASSUMED = InputSpec(size_px=SIZE, short_side_px=SIZE, scale=255.0, source="assumed")


def scenes(count, first=0):
    photos = [drawn_photos.draw_scene(first + n, SIZE, SIZE) for n in range(count)]
    return np.array(photos)


def classifier(first=()):
    """A network of random weights that ends in two classes."""
    last = [layers.GlobalAveragePooling2D(), layers.Dense(2, name="classes")]
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), *first, *last])


def with_batchnorm(flags):
    """A network whose first BatchNorm has seen photos with a usual preprocessing."""
    keras.utils.set_random_seed(5)
    convolution = layers.Conv2D(8, 3, strides=2, bias_initializer="normal")
    model = classifier([convolution, layers.BatchNormalization(), layers.ReLU()])
    seen = convolution(usual_preprocessing.normalised(scenes(40), flags))
    norm = model.layers[1]
    norm.moving_mean.assign(np.mean(seen, axis=(0, 1, 2)))
    norm.moving_variance.assign(np.var(seen, axis=(0, 1, 2)))
    return model


def restored(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return restore.restore_checkpoint(reading.read(tmp_path / "model.keras"))


@pytest.mark.parametrize("flags", usual_preprocessing.USUAL)
def test_the_first_batchnorm_tells_the_preprocessing(flags, tmp_path):
    model = with_batchnorm(flags)
    weights = restore.recognise_preprocessing(
        restored(model, tmp_path), lambda _, most: scenes(most, first=100)
    )
    images = scenes(3, first=200)
    network = weights.network.build(weights.spec, last="classes")
    restore.model_variables.assign(network, weights.values)
    np.testing.assert_allclose(
        network(np.float32(images)),
        model(usual_preprocessing.normalised(images, flags)),
        rtol=1e-3,
        atol=1e-4,
    )
    assert "on 60 photos: distance 0." in weights.spec.source
    assert not weight_settings.preprocessing_warnings(weights.spec)


def test_statistics_that_no_usual_preprocessing_has_decide_nothing(tmp_path):
    model = with_batchnorm("--scale=255 --mean=0 --std=1")
    norm = model.layers[1]
    norm.moving_mean.assign(norm.moving_mean + 3 * norm.moving_variance**0.5)
    before = restored(model, tmp_path)
    after = restore.recognise_preprocessing(before, lambda _, most: scenes(most))
    assert after.spec.scale == before.spec.scale
    assert "assumed, because the file states none, and not clear" in after.spec.source
    assert weight_settings.preprocessing_warnings(after.spec)


@pytest.mark.parametrize(
    "first",
    [
        [layers.Conv2D(4, 3), layers.BatchNormalization()],  # has never been trained
        [layers.Conv2D(4, 3), layers.LayerNormalization()],
        [layers.Rescaling(2.0), layers.Conv2D(4, 3), layers.BatchNormalization()],
    ],
    ids=["new", "none", "stated"],
)
def test_photos_are_read_only_if_they_can_tell(first, tmp_path):
    weights = restored(classifier(first), tmp_path)
    spec = restore.recognise_preprocessing(weights, None).spec
    assert spec == weights.spec


@pytest.mark.parametrize(
    ("name", "options", "pixels"),
    [
        ("MobileNetV2", {"alpha": 0.35}, "(RGB - 127.5) / 127.5"),
        ("VGG16", {}, "RGB - [123.68, 116.779, 103.939]"),
    ],
)
def test_layer_names_inside_inner_models_tell_the_preprocessing(name, options, pixels):
    with keras.StatelessScope(initialize_variables=False):
        base = getattr(keras.applications, name)(
            include_top=False, weights=None, input_shape=(96, 96, 3), **options
        )
        inner = keras.Sequential([base, layers.GlobalAveragePooling2D()])
        dense = [layers.Dense(100), layers.Dense(3, use_bias=False)]
        model = keras.Sequential(
            [keras.Input((96, 96, 3)), inner, keras.Sequential(dense)]
        )
        network = from_keras_config.rebuild(model.to_json(), "model.h5")
    spec, is_bgr = usual_preprocessing.by_layer_names(network)
    text = f"recognised by layer names of {name.rstrip('16')} in keras.applications"
    text += ", in the form of Teachable Machine's networks"
    assert spec.describe_pixels() == f"{pixels}; {text}"
    assert (spec.resize, spec.short_side_px) == ("crop", 96)
    assert is_bgr == (name == "VGG16")
    assert network.features[-1].startswith("global_average_pooling2d")  # not dense


@pytest.fixture
def dark_and_bright(tmp_path):
    """Photos of two classes, and a network that knows them in -1 to 1."""
    for number in range(12):
        for name, level in (("bright", 80), ("dark", -80)):
            image = drawn_photos.draw_scene(number, SIZE, SIZE) / 3.0 + 85 + level
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "photos" / name / f"{number}.png"
            cv2.imwrite(str(path), np.clip(image, 0, 255).astype(np.uint8))
    model = classifier([layers.Conv2D(3, 1, name="same")])
    model.layers[0].set_weights([np.eye(3)[None, None], np.zeros(3)])
    model.layers[-1].set_weights([np.float32([[1, 0]] * 3), np.zeros(2)])
    model.save(tmp_path / "model.keras")
    return tmp_path


def warning_in(text):
    (line,) = (line for line in text.splitlines() if line.startswith("warning: the pr"))
    return line


def test_each_command_warns_once_of_a_guess(dark_and_bright, capsys):
    ckpt, photos = str(dark_and_bright / "model.keras"), dark_and_bright / "photos"
    predict.main({"ckpt": ckpt, "photos": [str(photos / "dark")]})
    assert "RGB / 255; assumed" in warning_in(capsys.readouterr().err)
    found = conversions.convert(photos, dark_and_bright / "records").manifest
    config = settings.Config(ckpt=ckpt, data=str(found.directory))
    train_run.prepare(config, found, dark_and_bright / "run")
    assert "evaluate.py --ckpt tries" in warning_in(capsys.readouterr().err)
    fittings = inspect.report_fittings(reading.read(dark_and_bright / "model.keras"))
    assert "RGB / 255; assumed" in warning_in(fittings)
    evaluate.evaluate(
        evaluation_settings.Config(ckpt=ckpt, data=str(found.directory), split="all")
    )
    line = warning_in(capsys.readouterr().err)
    assert "0.500 with it and 1.000 with --scale=127.5 --mean=1 --std=1 (p" in line


def test_flags_are_no_guess(dark_and_bright, capsys):
    values = {"scale": 127.5, "mean": "1", "std": "1"}
    photos = dark_and_bright / "photos"
    flags = {"ckpt": str(dark_and_bright / "model.keras"), **values}
    predict.main(flags | {"photos": [str(photos / "dark")]})
    logged = capsys.readouterr().err
    assert "preprocessing: RGB / 127.5 - 1; by flags: scale, mean, std\n" in logged
    assert "warning" not in logged
    overrides = weight_settings.Overrides(**values)
    config = evaluation_settings.Config(
        ckpt=flags["ckpt"], data=str(photos), split="all", overrides=overrides
    )
    assert evaluate.evaluate(config)["accuracy"] == 1
    assert "warning" not in capsys.readouterr().err


def test_a_split_without_photos_is_refused_before_anything_is_tried(dark_and_bright):
    for path in (dark_and_bright / "photos").glob("*/*"):
        if path.stem != "0":  # a single photo of a class is for training
            path.unlink()
    found = conversions.convert(dark_and_bright / "photos", dark_and_bright / "records")
    rows = {"split": "test", "data": str(found.manifest.directory)}
    ckpt = str(dark_and_bright / "model.keras")
    with pytest.raises(DataError, match="the test split has no photos"):
        evaluate.evaluate(evaluation_settings.Config(ckpt=ckpt, **rows))


def test_what_is_recognised_is_called_in_doubt_if_photos_speak_against_it(
    dark_and_bright, capsys, monkeypatch
):
    family = applications.Family("ours", ASSUMED, "classes")
    monkeypatch.setattr(applications, "_FAMILIES", [family])
    photos = str(dark_and_bright / "photos")
    ckpt = str(dark_and_bright / "model.keras")
    config = evaluation_settings.Config(ckpt=ckpt, data=photos, split="all")
    evaluate.evaluate(config)
    assert "pixels may be wrong: RGB / 255; rec" in warning_in(capsys.readouterr().err)
