"""The network of a saved file gives the outputs of Keras' own model."""

import keras
import numpy as np
import pytest
from keras import applications, layers

from model.weights import pretrained_classifier

SIDE = 32
APPLICATIONS = ("EfficientNetB0", "MobileNetV3Small", "ConvNeXtTiny")
SLOW = ("Teachable Machine", *APPLICATIONS)


def sequence(*middle, channels=3, width=SIDE):
    """A classifier of four classes."""
    photo = keras.Input((SIDE, width, channels))
    return keras.Sequential([photo, *middle, layers.Dense(4, "softmax", name="last")])


def small(*first, activation="relu"):
    conv = layers.Conv2D(4, 3, activation=activation)
    return sequence(*first, conv, layers.GlobalAveragePooling2D())


def adapted():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).uniform(0, 255, (4, SIDE, SIDE, 3)))
    return layer


def attention():
    photo = keras.Input((SIDE, SIDE, 3))
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 8, 8)(photo))
    x = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, y]))
    return keras.Model(photo, layers.Dense(4, "softmax")(x))


def preprocessed(application):
    photo = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, activation="relu")(application.preprocess_input(photo))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(photo, layers.Dense(4, "softmax")(x))


def convolution_last():
    photo = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(photo)
    x = layers.Conv2D(4, 1, activation="relu")(layers.Dropout(0.5)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(photo, layers.Activation("softmax")(x))


def two_classes():
    photo = keras.Input((SIDE, SIDE, 3))
    x = layers.Flatten()(layers.Conv2D(4, 3, 4)(photo))
    return keras.Model(photo, layers.Dense(1, "sigmoid")(x))


def nested():
    photo = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, 2, use_bias=False)(photo)
    y = layers.DepthwiseConv2D(3, padding="same")(layers.ReLU(6.0)(x))
    x = layers.Add()([layers.BatchNormalization()(y), x])
    return in_two_sequences(keras.Model(photo, x))


def teachable_machine():
    inner = applications.MobileNetV2(
        (SIDE, SIDE, 3), alpha=0.35, include_top=False, weights=None
    )
    return in_two_sequences(inner)


def in_two_sequences(inner):
    pooled = keras.Sequential([inner, layers.GlobalAveragePooling2D()])
    dense = keras.Sequential([layers.Dense(5, "relu"), layers.Dense(4, "softmax")])
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), pooled, dense])


def application(name):
    return getattr(applications, name)(
        input_shape=(SIDE, SIDE, 3), weights=None, classes=4
    )


MODELS = {
    "random augmentation": lambda: small(
        layers.RandomFlip(), layers.RandomRotation(0.1), layers.Rescaling(1 / 255)
    ),
    "Resizing": lambda: small(layers.Resizing(20, 24), layers.Rescaling(1 / 255)),
    "CenterCrop": lambda: small(layers.CenterCrop(20, 20)),
    "Normalization": lambda: small(adapted()),
    "Normalization of given numbers": lambda: small(
        layers.Normalization(mean=[99.0, 98, 97], variance=[400.0, 300, 200])
    ),
    "PReLU": lambda: small(layers.Conv2D(4, 3), layers.PReLU(shared_axes=[1, 2])),
    "mish and Permute": lambda: small(layers.Permute((2, 1, 3)), activation="mish"),
    "GroupNormalization": lambda: small(
        layers.SeparableConv2D(8, 3), layers.GroupNormalization(4)
    ),
    "one channel": lambda: sequence(
        layers.Conv2D(4, 3, 2), layers.Flatten(), channels=1
    ),
    "no square": lambda: sequence(layers.Conv2D(4, 3, 2), layers.Flatten(), width=24),
    "attention": attention,
    "preprocessing of Caffe": lambda: preprocessed(applications.vgg16),
    "preprocessing of torch": lambda: preprocessed(applications.densenet),
    "a last convolution": convolution_last,
    "one logit": two_classes,
    "a model in a model": nested,
    "Teachable Machine": teachable_machine,
    **{name: lambda name=name: application(name) for name in APPLICATIONS},
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODELS],
)
def test_a_saved_model_gives_the_probabilities_that_keras_gives(name, tmp_path):
    keras.utils.set_random_seed(1)
    model, values = MODELS[name](), np.random.default_rng(0)
    for variable in model.variables:
        if variable.dtype == "float32" and variable.path.split("/")[-1] != "mean":
            low, high = (0.5, 1.5) if "variance" in variable.path else (-0.2, 0.2)
            shift = values.uniform(low, high, variable.shape).astype(np.float32)
            variable.assign(variable + shift)
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras", compile=False)
    classifier = pretrained_classifier.load(str(tmp_path / "model.keras"))
    photo = values.uniform(0, 255, (2, SIDE, SIDE, 3)).astype(np.float32)
    own = photo / classifier.spec.scale
    if name == "one channel":
        own = keras.ops.image.rgb_to_grayscale(own)
    if name == "no square":
        own = keras.ops.image.resize(own, (SIDE, 24))
    expected = np.asarray(model(own, training=False))
    if expected.shape[1] == 1:
        expected = np.concatenate([1 - expected, expected], axis=1)
    assert expected.std() > 1e-4
    found = keras.ops.softmax(classifier.model(photo))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
