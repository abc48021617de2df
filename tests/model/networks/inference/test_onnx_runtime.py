"""Networks in ONNX Runtime against Keras."""

import keras
import numpy as np
import pytest
from keras import layers

from model.loop.inputs import feature_cache
from model.networks import registry
from model.networks.inference import onnx_runtime
from tests.model.networks.inference.test_batch_norm_folding import with_statistics

ENGINE = "onnxruntime"


def check(model):
    with_statistics(model)
    engine = onnx_runtime.engine_for(model, ENGINE, "float32")
    assert engine.startswith(ENGINE)
    run = feature_cache.as_stored(model, np.float32, engine)
    for size in (5, 2):
        shape = (size, *model.input.shape[1:])
        images = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
        expected = model(images.astype(np.float32), training=False).numpy()
        found = run(keras.ops.convert_to_tensor(images)).numpy()
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_efficientnet_lite():
    network = registry.by_name("efficientnet_lite0")
    part = network.build_part(network.input_spec, ["block_3"], repeat_per_column=True)
    check(keras.Model(part.input, part.output["block_3"]))


def test_layers_of_all_kinds():
    image = keras.Input((12, 11, 3))
    x = layers.Rescaling([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])(image)
    x = layers.ZeroPadding2D(((1, 0), (2, 3)))(layers.Rescaling(0.5)(x))
    x = layers.Conv2D(8, 3, 2, "same", groups=1, use_bias=False)(x)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D((3, 2), depth_multiplier=2, padding="same")(x)
    x = layers.ReLU(6)(layers.BatchNormalization()(x))
    x = layers.Conv2D(4, 2, groups=2, dilation_rate=2, activation="relu")(x)
    x = layers.Concatenate()([x, layers.Add()([x, x, x])])
    x = layers.MaxPooling2D(3, 1, "same")(x)
    x = layers.AveragePooling2D(2, 1, "same")(layers.Identity()(x))
    check(keras.Model(image, layers.GlobalAveragePooling2D()(layers.Dropout(0.5)(x))))


@pytest.mark.parametrize("kind", ["layer", "activation", "no normalisation"])
def test_tensorflow_computes_what_has_no_translation(kind):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(image)
    if kind != "no normalisation":
        x = layers.BatchNormalization()(x)
    if kind == "layer":
        x = layers.LayerNormalization()(x)
    if kind == "activation":
        x = layers.Activation("swish")(x)
    model = keras.Model(image, x)
    assert onnx_runtime.engine_for(model, ENGINE, "float32") == "tensorflow"


def test_other_precisions_and_engines_are_tensorflows(monkeypatch):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.BatchNormalization()(layers.Conv2D(4, 3)(image)))
    assert onnx_runtime.engine_for(model, ENGINE, "float32") != "tensorflow"
    assert onnx_runtime.engine_for(model, ENGINE, "bfloat16") == "tensorflow"
    assert onnx_runtime.engine_for(model, "tensorflow", "float32") == "tensorflow"
    monkeypatch.setattr(onnx_runtime, "is_installed", lambda: False)
    assert onnx_runtime.engine_for(model, ENGINE, "float32") == "tensorflow"
