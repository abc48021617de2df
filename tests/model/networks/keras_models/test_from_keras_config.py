"""Configurations that Keras wrote, that were written by hand, and hostile ones."""

import copy
import json
import random

import keras
import numpy as np
import pytest
from keras import layers

from model.checkpoints import errors
from model.networks import head
from model.networks.keras_models import from_keras_config
from model.weights import model_variables


def sequential():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.ZeroPadding2D(((1, 0), (0, 1)), name="pad"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.BatchNormalization(epsilon=0.01, name="norm"),
            layers.SeparableConv2D(6, (3, 2), padding="same", name="separable"),
            layers.LeakyReLU(negative_slope=0.2, name="leaky"),
            layers.MaxPooling2D(2, name="pool"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
            layers.Dropout(0.4, name="drop"),
            layers.Flatten(name="flat"),
            layers.Dense(5, activation="elu", name="hidden"),
            layers.Dense(3, activation="softmax", name="classes"),
        ],
        name="small",
    )


def branches():
    """Two branches of several layers, a shortcut, and a model inside."""
    image = keras.Input((12, 12, 3), name="photo")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    left = layers.Conv2D(4, 1, activation="tanh", name="left_1")(x)
    left = layers.Conv2D(4, 3, padding="same", name="left_2")(left)
    right = layers.AveragePooling2D(2, 1, padding="same", name="right")(x)
    x = layers.Concatenate(name="both")([left, right])
    y = layers.Conv2D(8, 3, padding="same", name="again")(x)
    y = layers.BatchNormalization(scale=False, name="norm")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.ReLU(6.0, name="relu6")(x)
    inner = keras.Sequential(
        [keras.Input((12, 12, 8)), layers.Conv2D(2, 1, name="inside")], name="inner"
    )
    x = inner(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Dense(4, name="classes")(x)
    return keras.Model(image, layers.Softmax(name="probabilities")(x), name="two")


def shake(model):
    """Weights that are not what layers start with."""
    values = np.random.default_rng(0)
    for variable in model.variables:
        if "seed" not in variable.path:
            variable.assign(values.uniform(0.1, 0.9, variable.shape))
    return model


def leaves(model):
    for layer in model.layers:
        yield from leaves(layer) if isinstance(layer, keras.Model) else [layer]


def copied(network, model):
    rebuilt = network.build(network.input_spec, last=network.positions()[-1])
    values = {
        layer.name: {v.name: v.numpy() for v in layer.weights}
        for layer in leaves(model)
        if layer.weights
    }
    model_variables.assign(rebuilt, values)
    assert model_variables.gather(rebuilt).keys() == {
        f"{layer}/{name}" for layer, arrays in values.items() for name in arrays
    }
    return rebuilt


@pytest.mark.parametrize("make", [sequential, branches])
def test_a_rebuilt_network_gives_the_outputs_of_the_model(make):
    model = shake(make())
    network = from_keras_config.rebuild(model.to_json(), "file")
    rebuilt = copied(network, model)
    image = np.random.default_rng(1).uniform(0, 255, (2, 12, 12, 3)).astype("f4")
    probabilities = keras.ops.softmax(rebuilt(image))
    expected = model(image / 255)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-6)


def test_a_rebuilt_network_states_its_classes_features_and_input():
    network = from_keras_config.rebuild(branches().to_json(), "file")
    assert network.name == "keras-two"
    assert network.num_classes == 4
    assert network.features == ("stem", "both", "sum", "relu6", "inside", "mean")
    assert network.positions()[-1] == "classes"
    assert network.input_spec.size_px == network.input_spec.short_side_px == 12
    assert network.input_spec.scale == 255
    assert "assumed" in network.input_spec.source


def test_a_head_sits_below_the_dense_layers_by_default():
    network = from_keras_config.rebuild(sequential().to_json(), "file")
    assert network.features[-1] == "depthwise"
    assert network.head_positions()[-2:] == ["flat", "hidden"]
    assert "drop" not in network.head_positions(), "dropout carries no head"


def test_a_network_that_rescales_itself_gets_0_to_255():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 127.5, offset=-1, name="rescale"),
            layers.Conv2D(2, 3, name="conv"),
            layers.Flatten(name="flat"),
            layers.Dense(2, name="classes"),
        ]
    )
    network = from_keras_config.rebuild(shake(model).to_json(), "file")
    assert network.input_spec.scale == 1
    image = np.random.default_rng(1).uniform(0, 255, (2, 8, 8, 3)).astype("f4")
    np.testing.assert_allclose(
        copied(network, model)(image), model(image), rtol=1e-4, atol=1e-5
    )


# As Keras 2 wrote them.


def layer(kind, name, **config):
    return {"class_name": kind, "config": {"name": name, **config}}


KERAS_2 = {
    "class_name": "Sequential",
    "config": [
        layer(
            "Conv2D",
            "conv2d_1",
            batch_input_shape=[None, 32, 32, 3],
            filters=8,
            kernel_size=[3, 3],
            padding="same",
            data_format="channels_last",
            activation="relu",
            kernel_initializer={"class_name": "VarianceScaling", "config": {}},
        ),
        layer("MaxPooling2D", "pool_1", pool_size=[2, 2], strides=[2, 2]),
        layer("Flatten", "flatten_1"),
        layer("Dense", "dense_1", units=10, activation="softmax", use_bias=True),
    ],
}


def node(kind, name, *inputs, **config):
    """A layer of a functional model, and the layers that it is called on."""
    calls = [[[name, 0, 0, {}] for name in inputs]] if inputs else []
    return layer(kind, name, **config) | {"name": name, "inbound_nodes": calls}


KERAS_2_FUNCTIONAL = {
    "class_name": "Model",
    "config": {
        "name": "model_1",
        "layers": [
            node("InputLayer", "input_1", batch_input_shape=[None, 16, 16, 3]),
            node("Conv2D", "a", "input_1", filters=3, kernel_size=[1, 1]),
            node("Add", "b", "input_1", "a"),
            node("GlobalAveragePooling2D", "c", "b"),
            node("Dense", "d", "c", units=2),
        ],
        "input_layers": [["input_1", 0, 0]],
        "output_layers": [["d", 0, 0]],
    },
}


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (
            KERAS_2,
            {"conv2d_1": [(3, 3, 3, 8), (8,)], "dense_1": [(2048, 10), (10,)]},
        ),
        (KERAS_2_FUNCTIONAL, {"a": [(1, 1, 3, 3), (3,)], "d": [(3, 2), (2,)]}),
    ],
    ids=["Keras 2", "Keras 2, functional"],
)
def test_configurations_of_keras_2_are_rebuilt(config, shapes):
    network = from_keras_config.rebuild(json.dumps(config), "file")
    variables = network.variable_shapes(network.input_spec)
    assert {name: [*pair.values()] for name, pair in variables.items()} == shapes


def changed(config, *path_and_value):
    *path, last, value = path_and_value
    changed = copy.deepcopy(config)
    inner = changed
    for key in path:
        inner = inner[key]
    inner[last] = value
    return changed


def conv(name, value):
    """KERAS_2, with another value in the configuration of its convolution."""
    return changed(KERAS_2, "config", 0, "config", name, value)


def called_on(name):
    """KERAS_2_FUNCTIONAL, whose layer "a" is called on another layer."""
    path = ("config", "layers", 1, "inbound_nodes")
    return changed(KERAS_2_FUNCTIONAL, *path, [[[name, 0, 0, {}]]])


def renamed(name):
    return changed(KERAS_2, "config", 2, "config", "name", name)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(KERAS_2, "class_name", "Thing"), "a model of class 'Thing'"),
        (
            changed(KERAS_2, "config", 1, "class_name", "Lambda"),
            "layer 'pool_1' of class 'Lambda'",
        ),
        (changed(KERAS_2, "config", 1, "class_name", "my>L"), "of class 'my>L'"),
        (
            conv("data_format", "channels_first"),
            r"layer conv2d_1 \(Conv2D\) with data_format = \"channels_first\"",
        ),
        (conv("activation", {"class_name": "function"}), "with activation = "),
        (conv("activation", "evil"), 'activation = "evil"'),
        (conv("filters", 10**9), "filters = 1000000000"),
        (conv("kernel_size", [0, 1]), "kernel_size"),
        (conv("batch_input_shape", [None, 32, 32, 4]), "4 channels, expected 3"),
        (conv("batch_input_shape", [None, 32, 9999, 3]), "32 x 9999 pixels"),
        (conv("batch_input_shape", None), "no input of an image"),
        (renamed("conv2d_1"), "two layers with the name 'conv2d_1'"),
        (renamed("a/b"), "named 'a/b'"),
        (changed(KERAS_2, "config", []), "no list of layers"),
        (changed(KERAS_2, "config", KERAS_2["config"][2:]), "no input"),
        (changed(KERAS_2, "config", 0, "class_name", "Convolution2D"), "Convolution2D"),
        (
            changed(KERAS_2_FUNCTIONAL, "config", "output_layers", []),
            "0 outputs, expected one",
        ),
        (called_on("b"), "needs its own output"),
        (called_on("x"), "takes its input from 'x'"),
    ],
    ids=str,
)
def test_what_cannot_be_rebuilt_is_named(config, message):
    with pytest.raises(errors.MismatchedCheckpoint, match=message) as caught:
        from_keras_config.rebuild(json.dumps(config), "some.h5")
    assert str(caught.value).startswith("some.h5: ")


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "null", "3", '"text"', "[]", "{}"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(errors.CheckpointError, match=r"^file: "):
        from_keras_config.rebuild(text, "file")


def test_keras_makes_nothing_of_the_file(monkeypatch):

    def forbidden(*_, **__):
        raise AssertionError("deserialised")

    monkeypatch.setattr(keras.saving, "deserialize_keras_object", forbidden)
    monkeypatch.setattr(keras.layers, "deserialize", forbidden)
    assert from_keras_config.rebuild(json.dumps(KERAS_2), "file").num_classes == 10


def places(tree, path=()):
    """Paths of all values in a JSON tree."""
    yield path
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from places(value, (*path, key))


STRANGE = [None, True, -1, 0, 1e308, 10**30, "", "x" * 300, [], {}, [[]], {"a": 1}]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
@pytest.mark.parametrize(
    "config",
    [KERAS_2, KERAS_2_FUNCTIONAL, json.loads(branches().to_json())],
    ids=["Keras 2", "Keras 2, functional", "Keras 3"],
)
def test_random_values_are_rebuilt_or_refused(config, seed):
    chosen = random.Random(seed)
    where = list(places(config))[1:]
    for _ in range(60):
        mutant = copy.deepcopy(config)
        for _ in range(chosen.choice([1, 2])):
            *path, last = chosen.choice(where)
            inner = mutant
            try:
                for key in path:
                    inner = inner[key]
                inner[last] = chosen.choice(STRANGE)
            except (LookupError, TypeError):
                continue  # the first change has removed the place
        try:
            network = from_keras_config.rebuild(json.dumps(mutant), "file")
        except errors.CheckpointError:
            continue
        assert network.variable_shapes(network.input_spec)


@pytest.mark.parametrize("make", [sequential, branches])
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(
    ("on", "pooling"), [(1, "none"), (2, "average"), (2, "statistics")]
)
def test_a_model_that_a_run_saved_is_rebuilt_without_its_head(make, share, on, pooling):
    """The normalisation and the head that a run adds are removed again."""
    base = from_keras_config.rebuild(make().to_json(), "file")
    spec = base.input_spec
    maps = [n for n in base.features if len(base.output_shape(spec, n)) == 4]
    seen = base.features[-1:] if on == 1 else tuple(maps[-on:])
    step = seen[-1]
    part = base.build_part(base.input_spec, seen)
    grafted = keras.Model(part.input, part.output[step])
    output = head.pool_features(part.output, seen, pooling)
    for layer in head.make_layers(7, dropout=share, seed=0):
        output = layer(output)
    whole = shake(keras.Model(grafted.input, output, name=base.name))
    network = from_keras_config.rebuild(whole.to_json(), "file", is_run=True)
    assert network.name == base.name
    assert not network.is_classifier
    image = np.random.default_rng(1).uniform(0, 255, (2, 12, 12, 3)).astype("f4")
    again = network.build(spec, last=network.positions()[-1])
    values = {
        layer.name: {v.name: v.numpy() for v in layer.weights}
        for layer in whole.layers
        if layer.weights and "seed" not in layer.weights[0].path
    }
    model_variables.assign(again, values)
    assert network.positions()[-1] == grafted.layers[-1].name
    expected = keras.Model(whole.input, grafted.output)(image)
    np.testing.assert_allclose(again(image), expected, rtol=1e-4, atol=1e-5)


def ending(*last):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="first")(image)
    x = layers.Conv2D(4, 3, name="conv")(x)
    for one in last:
        x = one(x)
    return from_keras_config.rebuild(keras.Model(image, x, name="m").to_json(), "file")


@pytest.mark.parametrize(
    ("last", "is_classifier", "feature"),
    [
        ([layers.Dense(2, "softmax", name="d")], True, "pool"),
        ([layers.Dense(5, "relu", name="embedding")], False, "pool"),
        ([layers.Dense(5, "tanh", name="embedding")], False, "pool"),
        ([layers.Dense(1, "sigmoid", name="d")], True, "pool"),
        ([layers.Dense(1, name="d")], False, "pool"),
        ([layers.Softmax(name="odds")], True, "first"),
    ],
    ids=["classes", "relu", "tanh", "two classes", "a number", "a convolution"],
)
def test_a_classifier_ends_in_a_layer_of_classes(last, is_classifier, feature):
    network = ending(layers.GlobalAveragePooling2D(name="pool"), *last)
    assert network.is_classifier == is_classifier
    assert network.features[-1] == feature


def test_rescaling_may_follow_other_layers():
    image = keras.Input((8, 8, 3))
    x = layers.ZeroPadding2D(1, name="pad")(image)
    x = layers.Rescaling(1 / 255, name="rescale")(x)
    x = layers.Flatten(name="flat")(layers.Conv2D(2, 3, name="conv")(x))
    model = keras.Model(image, layers.Dense(2, name="d")(x))
    assert from_keras_config.rebuild(model.to_json(), "file").input_spec.scale == 1


def test_a_layer_that_fits_no_memory_is_refused():
    image = keras.Input((512, 512, 3))
    x = layers.UpSampling2D(16, name="up")(layers.Conv2D(64, 1, name="conv")(image))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(2, name="d")(x))
    with pytest.raises(errors.MismatchedCheckpoint, match=r"layer up, with .* numbers"):
        from_keras_config.rebuild(model.to_json(), "file")


def test_a_nested_model_of_keras_2_is_rebuilt():
    """Its own making is its first call there, so that it is referred to as call 1."""
    config = json.loads(json.dumps(KERAS_2_FUNCTIONAL))
    nodes = config["config"]["layers"]
    inner = layer("Conv2D", "c1", filters=3, kernel_size=[1, 1])
    nodes[1] = node("Sequential", "a", "input_1", layers=[inner])
    nodes[2]["inbound_nodes"] = [[["input_1", 0, 0, {}], ["a", 1, 0, {}]]]
    network = from_keras_config.rebuild(json.dumps(config), "file")
    shapes = network.variable_shapes(network.input_spec)
    assert [*shapes] == ["c1", "d"]


def operation(name, source, function, /, **arguments):
    """An operation of TensorFlow, as Keras 2 keeps it."""
    is_slice = function == "__operators__.getitem"
    return {
        "class_name": "SlicingOpLambda" if is_slice else "TFOpLambda",
        "name": name,
        "config": {"name": name, "function": function},
        "inbound_nodes": [[source, 0, 0, arguments]],
    }


def preprocessed_by_keras_2(layout):
    """What preprocess_input leaves: channels turned, shifted and divided."""
    turn = [
        {"class_name": "__ellipsis__"},
        {"start": None, "stop": None, "step": -1},
    ]
    parts = [
        node("InputLayer", "photo", batch_input_shape=[None, 4, 4, 3]),
        operation("turn", "photo", "__operators__.getitem", slice_spec=turn),
        operation("shift", "turn", "nn.bias_add", bias=[-1, 2, 3], data_format=layout),
        operation("divide", "shift", "math.truediv", y=[2.0, 4.0, 8.0], name=None),
        node("DepthwiseConv2D", "each", "divide", kernel_size=[1, 1], groups=1),
        node("GlobalAveragePooling2D", "mean", "each"),
    ]
    config = {"name": "m", "layers": parts, "output_layers": [["mean", 0, 0]]}
    return json.dumps({"class_name": "Functional", "config": config})


def test_arithmetic_that_keras_2_leaves_is_computed():
    network = from_keras_config.rebuild(preprocessed_by_keras_2("NHWC"), "file")
    model = network.build(network.input_spec, last="mean")
    for variable in model.weights:
        variable.assign(np.full(variable.shape, "kernel" in variable.path, np.float32))
    photo = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    expected = ((photo[..., ::-1] + [-1, 2, 3]) / [2, 4, 8]).mean(axis=(1, 2))
    np.testing.assert_allclose(model(photo), expected, rtol=1e-5)


def test_arithmetic_of_another_layout_is_refused():
    with pytest.raises(errors.MismatchedCheckpoint, match='of layout "NCHW"'):
        from_keras_config.rebuild(preprocessed_by_keras_2("NCHW"), "file")
