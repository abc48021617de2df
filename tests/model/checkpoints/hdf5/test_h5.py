import json

import h5py
import keras
import numpy as np
import pytest

from model.checkpoints import errors
from model.checkpoints.hdf5 import h5, isolated_h5
from tests.support import cases
from tests.support.weights import arrays, h5_forks

KERNEL = np.arange(54, dtype=np.float32).reshape(3, 3, 2, 3)
BIAS = np.array([0.5, -1, 2], np.float32)
FULL = "Keras 2 HDF5 (full model)"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.h5"


def write_keras_2(path, layers, *, base="", chunks=False, **attributes):
    """Write {layer: names of its weights}, as Keras 1 and 2 do.

    Return the values, which are all different, in the order of the names.
    """
    values = []
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        root = file.require_group(base) if base else file
        names = np.array([name.encode() for name in layers])
        if chunks:
            root.attrs["layer_names0"] = names[:1]
            root.attrs["layer_names1"] = names[1:]
        else:
            root.attrs["layer_names"] = names
        for layer, weights in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights.split()]
            for name in weights.split():
                values.append(np.full(3, len(values), np.float32))
                group[name] = values[-1]
    return values


def named(names, values):
    """Return {name: value} of names in one text."""
    return dict(zip(names.split(), values, strict=True))


def write_groups(path, datasets):
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file[name] = array
    return path


def sequential(*layers):
    """Return the configuration of a Sequential of (class name, configuration)."""
    entries = [{"class_name": kind, "config": options} for kind, options in layers]
    return {"class_name": "Sequential", "config": {"layers": entries}}


class TestKeras2:
    def test_a_full_model_gives_weights_and_configuration(self, path):
        layers = {"conv2d_1": "conv2d_1/kernel:0 conv2d_1/bias:0", "flatten": ""}
        kinds = {"conv2d_1": "Conv2D", "flatten": "Flatten"}
        text = json.dumps(sequential(*((kinds[n], {"name": n}) for n in layers)))
        attributes = {"keras_version": b"2.2.4", "backend": "theano"}
        base = "model_weights"
        values = write_keras_2(path, layers, base=base, model_config=text, **attributes)
        with h5py.File(path, "a") as file:
            file["optimizer_weights/RMSprop/Variable:0"] = BIAS
        content = h5.read(path)
        assert content.format == FULL
        expected = named("conv2d_1/kernel conv2d_1/bias", values)
        arrays.assert_same(content.tensors, expected)
        assert content.keras_config == text
        assert content.metadata == {"keras_version": "2.2.4", "backend": "theano"}
        assert content.ignored_entries == ("optimizer_weights/RMSprop/Variable:0",)

    @pytest.mark.parametrize("chunks", [False, True], ids=["list", "chunks"])
    def test_weights_have_the_name_of_their_layer(self, path, chunks):
        layers = {"a": "a/kernel:0 a/bias:0", "b": "b_1/kernel:0", "c": "c/other:0"}
        values = write_keras_2(path, layers, chunks=chunks)
        content = h5.read(path)
        assert content.format == "Keras 2 HDF5 (weights)"
        expected = named("a/kernel a/bias b/kernel c/other", values)
        arrays.assert_same(content.tensors, expected)
        assert (content.keras_config, content.metadata) == ("", {})
        assert content.ignored_entries == ()

    @cases.table(
        ("layers", "expected"),
        {
            "of Keras 1": (
                {
                    "conv1": "conv1_W_1:0 conv1_b_1:0",
                    "norm": "norm_gamma norm_beta norm_running_mean norm_running_std",
                },
                "conv1/kernel conv1/bias "
                "norm/gamma norm/beta norm/moving_mean norm/moving_variance",
            ),
            "of a nested model": (
                {"vgg16": "conv1/kernel:0 vgg16/conv2/kernel:0", "fc": "fc/bias:0"},
                "conv1/kernel conv2/kernel fc/bias",
            ),
            "two that are equal": (
                {"left": "c/bias:0", "right": "c/bias:0", "a": "a/bias:0"},
                "left/c/bias right/c/bias a/bias",
            ),
        },
    )
    def test_names_become_layer_and_variable(self, path, layers, expected):
        values = write_keras_2(path, layers)
        arrays.assert_same(h5.read(path).tensors, named(expected, values))

    @pytest.mark.parametrize("old", [False, True], ids=["dict", "list"])
    def test_the_configuration_tells_a_model_from_a_renamed_layer(self, path, old):
        inner = [{"class_name": "Dense", "config": {"name": "fc"}}]
        options = inner if old else {"name": "top", "layers": inner}
        model = {"class_name": "Sequential", "config": options, "name": "top"}
        entries = [model, {"class_name": "Dense", "config": {"name": "renamed"}}]
        text = json.dumps({"config": {"layers": entries}})
        layers = {"top": "fc/bias:0", "renamed": "dense_7/bias:0"}
        values = write_keras_2(path, layers, base="model_weights", model_config=text)
        arrays.assert_same(h5.read(path).tensors, named("fc/bias renamed/bias", values))


class TestKeras3:
    def test_numbered_variables_get_the_names_of_their_layer(self, path):
        norm = "layers/batch_normalization"
        # {layer: (its variables by number, their names)}.
        layers = {
            "layers/conv2d": ([KERNEL, BIAS], "one/kernel one/bias"),
            "layers/conv2d_1": ([2 * KERNEL], "layers/conv2d_1/kernel"),
            norm: (
                [BIAS, 2 * BIAS, 3 * BIAS, 4 * BIAS],
                f"{norm}/gamma {norm}/beta {norm}/moving_mean {norm}/moving_variance",
            ),
            f"{norm}_1": ([5 * BIAS], f"{norm}_1/0"),
            "layers/separable_conv2d": (
                [3 * KERNEL, 4 * KERNEL, 6 * BIAS],
                "sep/depthwise_kernel sep/pointwise_kernel sep/bias",
            ),
        }
        datasets, expected = {}, {}
        for layer, (values, names) in layers.items():
            datasets |= {f"{layer}/vars/{n}": v for n, v in enumerate(values)}
            expected |= named(names, values)
        ignored = {
            "layers/dropout/seed_generator/vars/0": np.zeros(2, np.uint32),
            "optimizer/vars/0": BIAS,
        }
        write_groups(path, datasets | ignored)
        with h5py.File(path, "a") as file:
            for group, name in {"conv2d": "one", "separable_conv2d": "sep"}.items():
                file[f"layers/{group}/vars"].attrs["name"] = name
        content = h5.read(path)
        assert content.format == "Keras 3 weights"
        assert content.ignored_entries == tuple(ignored)
        arrays.assert_same(content.tensors, expected)

    def test_variables_keep_their_numbers_if_one_is_missing(self, path):
        write_groups(path, {"layers/conv2d/vars/1": KERNEL})
        arrays.assert_same(h5.read(path).tensors, {"layers/conv2d/1": KERNEL})

    def test_the_configuration_names_layers_of_keras_2_13(self, path):
        names = {
            "conv2d/vars/0": ("first/kernel", KERNEL),
            "conv2d_1/vars/0": ("second/kernel", 2 * KERNEL),
            "batch_normalization/vars/0": ("norm/beta", BIAS),
            "batch_normalization/vars/1": ("norm/moving_mean", 2 * BIAS),
            "batch_normalization/vars/2": ("norm/moving_variance", 3 * BIAS),
            "sequential/layers/conv2d/vars/0": ("deep/kernel", 3 * KERNEL),
        }
        base = "_layer_checkpoint_dependencies"
        write_groups(path, {f"{base}/{k}": array for k, (_, array) in names.items()})
        config = sequential(
            ("Conv2D", {"name": "first"}),
            ("BatchNormalization", {"name": "norm", "scale": False}),
            ("Conv2D", {"name": "second"}),
            ("Sequential", sequential(("Conv2D", {"name": "deep"}))["config"]),
        )
        hdf5 = isolated_h5.read(path)
        content = h5.interpret(hdf5, keras_config=json.dumps(config))
        arrays.assert_same(content.tensors, dict(names.values()))


def model_of_keras(optimizer=None):
    """Return a model with a layer of each kind, and {layer/variable: its values}."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    left = layers.Conv2D(2, 3, use_bias=False, name="left")(inputs)
    left = layers.Dropout(0.5)(layers.BatchNormalization(name="norm")(left))
    right = layers.SeparableConv2D(2, 3, name="right")(inputs)
    both = layers.Concatenate()([right, left, layers.DepthwiseConv2D(3)(inputs)])
    inner = [keras.Input((6, 6, 7)), layers.Conv2D(3, 1, name="a"), layers.Flatten()]
    both = keras.Sequential(inner, name="inner")(both)
    model = keras.Model(inputs, layers.Dense(3, name="out")(both))
    if optimizer:
        model.compile(optimizer, "mse")
        model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    values = {}
    for layer in [*model.layers, *model.get_layer("inner").layers]:
        for variable in layer.weights if layer.name != "inner" else ():
            if "seed" not in variable.name:
                variable.assign(rng.random(variable.shape, np.float32))
                values[f"{layer.name}/{variable.name}"] = variable.numpy()
    return model, values


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_files_that_keras_writes_are_read(tmp_path, optimizer, suffix):
    model, expected = model_of_keras(optimizer)
    path = tmp_path / f"w{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    content = h5.read(path)
    arrays.assert_same(content.tensors, expected)
    assert content.format == ("Keras 3 weights" if suffix == ".weights.h5" else FULL)
    ignored = [n for n in content.ignored_entries if "seed_generator" not in n]
    assert all(name.startswith("optimizer") for name in ignored)
    assert bool(ignored) == bool(optimizer)


class TestOtherWriters:
    def test_files_of_caffe_are_read(self, path):
        expected = {"conv1/0": KERNEL, "conv1/1": BIAS, "inception_3a/1x1/0": -KERNEL}
        write_groups(path, {f"data/{name}": array for name, array in expected.items()})
        with h5py.File(path, "a") as file:
            file["data"].create_group("relu1")
            file["diff/conv1/0"] = KERNEL
        content = h5.read(path)
        assert content.format == "Caffe HDF5"
        assert content.ignored_entries == ("diff/conv1/0",)
        arrays.assert_same(content.tensors, expected)

    def test_arrays_of_unknown_files_keep_their_paths(self, path):
        expected = {"a": BIAS, "layer_0/param_0": KERNEL}
        content = h5.read(write_groups(path, {**expected, "word": np.array(b"x")}))
        assert content.format == "HDF5"
        assert content.ignored_entries == ("word",)
        arrays.assert_same(content.tensors, expected)

    def test_a_file_without_weights_is_refused(self, path):
        write_groups(path, {"word": np.array(b"x")})
        with pytest.raises(errors.UnknownFormat, match="without weights"):
            h5.read(path)


class TestHostile:
    def interpret(self, texts, **options):
        datasets = {"a/x": BIAS, "a/y": BIAS}
        content = isolated_h5.Content(
            texts=texts, arrays=datasets, others=(), where="w"
        )
        return h5.interpret(content, **options)

    @cases.table(
        ("texts", "message"),
        {
            "layer": ({"": {"layer_names": ["b"]}}, "layer 'b' is listed, but not"),
            "weight": (
                {"": {"layer_names": ["a"]}, "a": {"weight_names": ["z"]}},
                "'a/z' is listed, but has no numbers",
            ),
            "twice": (
                {"": {"layer_names": ["a", "a"]}, "a": {"weight_names": ["x"]}},
                "holds 'a/x' twice",
            ),
            "JSON": ({"": {"model_config": "{"}}, "configuration is not JSON"),
            "depth": ({"": {"model_config": "[" * 100_000}}, "configuration is not JS"),
            "list": ({"": {"model_config": "[]"}}, "is a list, expected a dict"),
        },
    )
    def test_lists_and_configurations_that_are_wrong_are_refused(self, texts, message):
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            self.interpret(texts)

    @cases.table(
        "config",
        {
            "number": 1,
            "layers": {"layers": 1},
            "entries": {"layers": [1, {}, {"class_name": [], "config": {}}]},
            "name": {"layers": [{"class_name": "A", "config": {"name": []}}]},
            "inner layers": [{"class_name": "A", "config": {"layers": {"a": 1}}}],
        },
    )
    def test_a_configuration_that_makes_no_sense_gives_no_names(self, config):
        content = self.interpret({}, keras_config=json.dumps({"config": config}))
        assert content.tensors.keys() == {"a/x", "a/y"}

    def test_models_nested_without_end_are_cut(self):
        options = {"layers": []}
        for _ in range(200):
            options = {"layers": [{"class_name": "A", "config": options}]}
        text = json.dumps({"config": options})
        assert self.interpret({}, keras_config=text).keras_config == text

    @pytest.mark.parametrize("kind", ["Keras 2", "Keras 3"])
    def test_damaged_files_are_read_or_refused(self, path, tmp_path, kind):
        layers = {name: f"{name}/kernel:0 {name}/bias:0" for name in "abc"}
        if kind == "Keras 2":
            config = sequential(*(("Conv2D", {"name": name}) for name in layers))
            text = json.dumps(config)
            write_keras_2(path, layers, base="model_weights", model_config=text)
        else:
            path = path.with_suffix(".weights.h5")
            model_of_keras()[0].save_weights(path)
        expected = h5.read(path)
        num_same = 0
        for content in h5_forks.read_damaged(path, 60, tmp_path, seed=1):
            try:
                tensors = h5.interpret(content).tensors
            except errors.CheckpointError as error:
                assert str(error).isprintable()
            else:
                num_same += tensors.keys() == expected.tensors.keys()
        assert 10 < num_same < 50
