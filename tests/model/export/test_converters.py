import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from model.export import converters, exportable, photo_graph
from model.export.formats import onnx_file
from pipeline.system.errors import DataError
from tests.support import small_runs


@pytest.fixture
def source():
    image = keras.Input((8, 8, 3), name="image")
    left = layers.Conv2D(4, 3, padding="same", name="left")(image)
    right = layers.Conv2D(4, 1, name="right")(image)
    both = layers.Add(name="both")([left, right])
    mean = layers.GlobalAveragePooling2D(name="mean")(both)
    model = keras.Model(image, layers.Softmax(name="probabilities")(mean))
    return exportable.Exportable(
        model=model,
        spec=small_runs.SPEC,
        resize_min=512,
        white_level=0,
        class_names=("a", "b", "c", "d"),
        metadata={},
        whole=model,
        score_model=None,
        original=None,
    )


@pytest.mark.parametrize(
    ("refused", "message", "last"),
    [
        ({"both", "mean"}, "layer both (Add) cannot be converted: no such op", "both"),
        ({}, "all of it. Each layer alone can be converted.", "probabilities"),
    ],
)
def test_the_first_layer_that_cannot_be_converted_is_named(
    source, refused, message, last
):
    converted = []

    def convert(function, signature, model):
        assert function(*(np.zeros((1, *x.shape[1:])) for x in signature)) is not None
        converted.append(model.layers[-1].name)
        if converted[-1] in refused:
            raise RuntimeError("no such\noperation " + "x" * 500)

    with (
        pytest.raises(DataError) as error,
        converters.naming_failing_layer("--format=x", source, convert),
    ):
        raise ValueError("all of it")
    assert str(error.value).startswith(f"--format=x: {message}")
    assert len(str(error.value)) < 400
    assert (converted[0], converted[-1]) == ("left", last)


def test_gelu_is_written_for_onnx_though_its_converter_lacks_erfc(source, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    image = keras.Input((24, 24, 3), name="image")
    model = keras.Model(image, layers.Activation("gelu")(image / 100 - 1))
    path = tmp_path / "a.onnx"
    onnx_file.write(dataclasses.replace(source, model=model, whole=model), path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"image": pixels})
    spec = dataclasses.replace(small_runs.SPEC, size_px=24)
    view = photo_graph.portable_view_of_images(pixels, spec)
    np.testing.assert_allclose(found, model(np.float32(view)), atol=1e-5)


def test_missing_packages_are_named_with_the_command_that_installs_them():
    with pytest.raises(DataError, match=r"are not .* -m pip install no_such_") as e:
        converters.require_packages("--format=x", "numpy", "no_such_package")
    assert "numpy" not in str(e.value)
