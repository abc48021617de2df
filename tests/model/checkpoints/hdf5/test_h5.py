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
FULL, WEIGHTS = "Keras 2 HDF5 (full model)", "Keras 2 HDF5 (weights)"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.h5"


def write_keras_2(path, layers, *, base="", chunks=False, **attributes):
    """Writes {layer: {weight name: array}}, as Keras 1 and 2 do."""
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        root = file.require_group(base) if base else file
        names = np.array([name.encode() for name in layers])
        if chunks:
            root.attrs["layer_names0"], root.attrs["layer_names1"] = (
                names[:1],
                names[1:],
            )
        else:
            root.attrs["layer_names"] = names
        for layer, weights in layers.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, array in weights.items():
                group[name] = array
    return path


def write_groups(path, datasets):
    with h5py.File(path, "w") as file:
        for name, array in datasets.items():
            file[name] = array
    return path


def config(*layers):
    """JSON text of a Sequential of (class name, configuration)."""
    entries = [{"class_name": kind, "config": options} for kind, options in layers]
    return json.dumps({"class_name": "Sequential", "config": {"layers": entries}})


class TestKeras2:
    def test_a_full_model_gives_weights_and_configuration(self, path):
        layers = {
            "conv2d_1": {"conv2d_1/kernel:0": KERNEL, "conv2d_1/bias:0": BIAS},
            "flatten": {},
        }
        text = config(
            ("Conv2D", {"name": "conv2d_1"}), ("Flatten", {"name": "flatten"})
        )
        write_keras_2(
            *(path, layers),
            base="model_weights",
            model_config=text,
            keras_version=b"2.2.4",
            backend="theano",
        )
        with h5py.File(path, "a") as file:
            file["optimizer_weights/RMSprop/Variable:0"] = BIAS
        content = h5.read(path)
        assert content.format == FULL
        arrays.assert_same(
            content.tensors, {"conv2d_1/kernel": KERNEL, "conv2d_1/bias": BIAS}
        )
        assert content.keras_config == text
        assert content.metadata == {"keras_version": "2.2.4", "backend": "theano"}
        assert content.ignored_entries == ("optimizer_weights/RMSprop/Variable:0",)

    @pytest.mark.parametrize("chunks", [False, True], ids=["list", "chunks"])
    def test_weights_have_the_name_of_their_layer(self, path, chunks):
        layers = {
            "a": {"a/kernel:0": KERNEL, "a/bias:0": BIAS},
            "b": {"b_1/kernel:0": 2 * KERNEL},
            "c": {"c/depthwise_kernel:0": 3 * KERNEL},
        }
        content = h5.read(write_keras_2(path, layers, chunks=chunks))
        assert content.format == WEIGHTS
        arrays.assert_same(
            content.tensors,
            {
                "a/kernel": KERNEL,
                "a/bias": BIAS,
                "b/kernel": 2 * KERNEL,
                "c/depthwise_kernel": 3 * KERNEL,
            },
        )
        assert (content.keras_config, content.metadata, content.ignored_entries) == (
            "",
            {},
            (),
        )

    def test_names_of_keras_1_become_those_of_keras_2(self, path):
        layers = {
            "block1_conv1": {"block1_conv1_W_1:0": KERNEL, "block1_conv1_b_1:0": BIAS},
            "convolution2d_1": {"convolution2d_1_W": 2 * KERNEL},
            "norm": {
                "norm_gamma": BIAS,
                "norm_beta": 2 * BIAS,
                "norm_running_mean": 3 * BIAS,
                "norm_running_std": 4 * BIAS,
            },
        }
        expected = {
            "block1_conv1/kernel": KERNEL,
            "block1_conv1/bias": BIAS,
            "convolution2d_1/kernel": 2 * KERNEL,
            "norm/gamma": BIAS,
            "norm/beta": 2 * BIAS,
            "norm/moving_mean": 3 * BIAS,
            "norm/moving_variance": 4 * BIAS,
        }
        arrays.assert_same(h5.read(write_keras_2(path, layers)).tensors, expected)

    def test_weights_of_a_nested_model_have_the_name_of_the_inner_layer(self, path):
        layers = {
            "vgg16": {"block1_conv1/kernel:0": KERNEL, "vgg16/conv2/kernel:0": -KERNEL},
            "dense": {"dense/bias:0": BIAS},
        }
        arrays.assert_same(
            h5.read(write_keras_2(path, layers)).tensors,
            {
                "block1_conv1/kernel": KERNEL,
                "conv2/kernel": -KERNEL,
                "dense/bias": BIAS,
            },
        )

    @pytest.mark.parametrize("old", [False, True], ids=["dict", "list"])
    def test_the_configuration_tells_a_model_from_a_renamed_layer(self, path, old):
        inner = [{"class_name": "Dense", "config": {"name": "fc"}}]
        options = inner if old else {"name": "top", "layers": inner}
        model = {"class_name": "Sequential", "config": options, "name": "top"}
        layers = [model, {"class_name": "Dense", "config": {"name": "renamed"}}]
        write_keras_2(
            *(path, {"top": {"fc/bias:0": BIAS}, "renamed": {"dense_7/bias:0": -BIAS}}),
            base="model_weights",
            model_config=json.dumps({"config": {"layers": layers}}),
        )
        arrays.assert_same(
            h5.read(path).tensors, {"fc/bias": BIAS, "renamed/bias": -BIAS}
        )

    def test_equal_names_are_replaced_by_full_names(self, path):
        layers = {
            "left": {"conv/bias:0": BIAS},
            "right": {"conv/bias:0": -BIAS},
            "a": {"a/bias:0": 2 * BIAS},
        }
        arrays.assert_same(
            h5.read(write_keras_2(path, layers)).tensors,
            {"left/conv/bias": BIAS, "right/conv/bias": -BIAS, "a/bias": 2 * BIAS},
        )


class TestKeras3:
    def test_numbered_variables_get_the_names_of_their_layer(self, path):
        write_groups(
            path,
            {
                "layers/conv2d/vars/0": KERNEL,
                "layers/conv2d/vars/1": BIAS,
                "layers/conv2d_1/vars/0": 2 * KERNEL,
                "layers/batch_normalization/vars/0": BIAS,
                "layers/batch_normalization/vars/1": 2 * BIAS,
                "layers/batch_normalization/vars/2": 3 * BIAS,
                "layers/batch_normalization/vars/3": 4 * BIAS,
                "layers/batch_normalization_1/vars/0": 5 * BIAS,
                "layers/separable_conv2d/vars/0": 3 * KERNEL,
                "layers/separable_conv2d/vars/1": 4 * KERNEL,
                "layers/separable_conv2d/vars/2": 6 * BIAS,
                "layers/dropout/seed_generator/vars/0": np.zeros(2, np.uint32),
                "optimizer/vars/0": BIAS,
            },
        )
        with h5py.File(path, "a") as file:
            for group, name in {"conv2d": "one", "separable_conv2d": "sep"}.items():
                file[f"layers/{group}/vars"].attrs["name"] = name
        content = h5.read(path)
        assert content.format == "Keras 3 weights"
        assert content.ignored_entries == (
            "layers/dropout/seed_generator/vars/0",
            "optimizer/vars/0",
        )
        norm = "layers/batch_normalization"
        expected = {
            "one/kernel": KERNEL,
            "one/bias": BIAS,
            "layers/conv2d_1/kernel": 2 * KERNEL,
            f"{norm}/gamma": BIAS,
            f"{norm}/beta": 2 * BIAS,
            f"{norm}/moving_mean": 3 * BIAS,
            f"{norm}/moving_variance": 4 * BIAS,
            f"{norm}_1/0": 5 * BIAS,
            "sep/depthwise_kernel": 3 * KERNEL,
            "sep/pointwise_kernel": 4 * KERNEL,
            "sep/bias": 6 * BIAS,
        }
        arrays.assert_same(content.tensors, expected)

    def test_variables_keep_their_numbers_if_one_is_missing(self, path):
        write_groups(path, {"layers/conv2d/vars/1": KERNEL})
        arrays.assert_same(h5.read(path).tensors, {"layers/conv2d/1": KERNEL})

    def test_the_configuration_names_layers_of_keras_2_13(self, path):
        base = "_layer_checkpoint_dependencies"
        write_groups(
            path,
            {
                f"{base}/conv2d/vars/0": KERNEL,
                f"{base}/conv2d_1/vars/0": 2 * KERNEL,
                f"{base}/batch_normalization/vars/0": BIAS,
                f"{base}/batch_normalization/vars/1": 2 * BIAS,
                f"{base}/batch_normalization/vars/2": 3 * BIAS,
                f"{base}/sequential/layers/conv2d/vars/0": 3 * KERNEL,
            },
        )
        inner = json.loads(config(("Conv2D", {"name": "deep"})))["config"]
        text = config(
            ("Conv2D", {"name": "first"}),
            ("BatchNormalization", {"name": "norm", "scale": False}),
            ("Conv2D", {"name": "second"}),
            ("Sequential", inner),
        )
        content = h5.interpret(isolated_h5.read(path), "w", keras_config=text)
        expected = {
            "first/kernel": KERNEL,
            "second/kernel": 2 * KERNEL,
            "norm/beta": BIAS,
            "norm/moving_mean": 2 * BIAS,
            "norm/moving_variance": 3 * BIAS,
            "deep/kernel": 3 * KERNEL,
        }
        arrays.assert_same(content.tensors, expected)


def sequential():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="c_one"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(5, 3, use_bias=False, name="c_two"),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(6, name="fc"),
        ]
    )


def two_branches():
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    left = layers.Conv2D(2, 3, name="left")(inputs)
    right = layers.SeparableConv2D(2, 3, name="right")(inputs)
    both = layers.Concatenate()([right, left, layers.DepthwiseConv2D(3)(inputs)])
    inner = [keras.Input((6, 6, 7)), layers.Conv2D(3, 1, name="a"), layers.Flatten()]
    both = keras.Sequential(inner, name="inner")(both)
    model = keras.Model(inputs, layers.Dense(3, name="out")(both))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def variables(model):
    """Set random values, so that each is unique; return {layer/variable: array}."""
    rng = np.random.default_rng(0)
    values = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            values |= variables(layer)
            continue
        for variable in layer.weights:
            value = rng.random(variable.shape, np.float32)
            variable.assign(value)
            values[f"{layer.name}/{variable.name}"] = value
    return values


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
@pytest.mark.parametrize("make", [sequential, two_branches])
def test_files_that_keras_writes_are_read(tmp_path, make, suffix):
    model = make()
    expected = variables(model)
    path = tmp_path / f"w{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    content = h5.read(path)
    arrays.assert_same(content.tensors, expected)
    assert content.format == ("Keras 3 weights" if suffix == ".weights.h5" else FULL)
    assert all(name.startswith("optimizer") for name in content.ignored_entries)
    assert bool(content.ignored_entries) == (make is two_branches)


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
        content = isolated_h5.Content(texts=texts, arrays=datasets, others=())
        return h5.interpret(content, "w", **options)

    @cases.table(
        ("texts", "message"),
        {
            "layer": (
                {"": {"layer_names": ["b"]}},
                "layer 'b' is listed, but not what",
            ),
            "weight": (
                {"": {"layer_names": ["a"]}, "a": {"weight_names": ["z"]}},
                "'a/z' is listed, but not there, or holds no numbers",
            ),
            "twice": (
                {"": {"layer_names": ["a", "a"]}, "a": {"weight_names": ["x"]}},
                "two tensors are called 'a/x'",
            ),
            "JSON": (
                {"": {"model_config": "{"}},
                "the model's configuration is not JSON",
            ),
            "depth": (
                {"": {"model_config": "[" * 100_000}},
                "configuration is not JSON",
            ),
            "list": ({"": {"model_config": "[]"}}, "is a list, expected a dict"),
        },
    )
    def test_lists_and_configurations_that_are_wrong_are_refused(self, texts, message):
        with pytest.raises(errors.CorruptCheckpoint, match=message):
            self.interpret(texts)

    @cases.table(
        "options",
        {
            "config": {"config": 1},
            "layers": {"config": {"layers": 1}},
            "entries": {
                "config": {"layers": [1, {}, {"class_name": [], "config": {}}]}
            },
            "name": {
                "config": {"layers": [{"class_name": "A", "config": {"name": []}}]}
            },
            "inner layers": {
                "config": [{"class_name": "A", "config": {"layers": {"a": 1}}}]
            },
        },
    )
    def test_a_configuration_that_makes_no_sense_gives_no_names(self, options):
        content = self.interpret({}, keras_config=json.dumps(options))
        assert content.tensors.keys() == {"a/x", "a/y"}

    def test_models_nested_without_end_are_cut(self):
        options = {"layers": []}
        for _ in range(200):
            options = {"layers": [{"class_name": "A", "config": options}]}
        text = json.dumps({"config": options})
        assert self.interpret({}, keras_config=text).keras_config == text

    @pytest.mark.parametrize("kind", ["Keras 2", "Keras 3"])
    def test_damaged_files_are_read_or_refused(self, path, tmp_path, kind):
        layers = {
            name: {f"{name}/kernel:0": KERNEL, f"{name}/bias:0": BIAS} for name in "abc"
        }
        if kind == "Keras 2":
            text = config(*(("Conv2D", {"name": name}) for name in layers))
            write_keras_2(path, layers, base="model_weights", model_config=text)
        else:
            sequential().save_weights(path.with_suffix(".weights.h5"))
            path = path.with_suffix(".weights.h5")
        expected = h5.read(path)
        num_same = 0
        for content in h5_forks.read_damaged(path, 300, tmp_path, seed=1):
            try:
                tensors = h5.interpret(content, "w").tensors
            except errors.CheckpointError as error:
                assert str(error).isprintable()
            else:
                num_same += tensors.keys() == expected.tensors.keys()
        assert 50 < num_same < 250
