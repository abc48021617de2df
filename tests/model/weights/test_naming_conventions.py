"""Files in each naming convention, against tables that are written out apart."""

import numpy as np
import pytest

from model.networks import registry
from model.weights import naming_conventions, restore
from tests.support.weights import foreign_weights
from tests.support.weights import numpy_networks as ref

EVERY = pytest.mark.parametrize(
    ("source", "network"), foreign_weights.FORMS, ids=" ".join
)
# {network: kernels of some layers}: the first, a square convolution, a square dense
# layer and the last, as far as the network has them.
DENSE = "fc7 4096x4096, fc8 1000x4096"
KERNELS = {
    "alexnet": f"conv1 96x3x11x11, conv4 384x384x3x3, {DENSE}",
    "alexnet_owt": f"conv1 64x3x11x11, conv5 256x256x3x3, {DENSE}",
    "caffenet": f"conv1 96x3x11x11, conv2 256x48x5x5, {DENSE}",
    "bvlc_alexnet": f"conv1 96x3x11x11, conv2 256x48x5x5, {DENSE}",
    "vgg16": "block1_conv1 64x3x3x3, block1_conv2 64x64x3x3, "
    "block4_conv1 512x256x3x3, fc2 4096x4096, predictions 1000x4096",
    "cifar10_quick": "conv1 32x3x5x5, conv2 32x32x5x5, ip1 64x1024, ip2 10x64",
    "cifar_cnn": "block_1_0 32x3x3x3, block_1_1 32x32x3x3, block_2_0 64x32x3x3, "
    "block_2_1 64x64x3x3, dense_1 512x2304, dense_2 10x512",
}


@pytest.fixture(scope="module")
def drawn():
    """{network: {"layer/kernel" or "layer/bias": array}}."""
    random = np.random.default_rng(9)
    return {
        network: {
            f"{layer}/{variable}": array
            for layer, shape in ref.sizes(kernels).items()
            for variable, array in (
                ("kernel", ref.draw(random, shape, np.prod(shape[1:]))),
                ("bias", random.standard_normal(shape[0], np.float32)),
            )
        }
        for network, kernels in KERNELS.items()
    }


def test_every_naming_is_in_the_table():
    namings = [(n.source, n.network) for n in naming_conventions.NAMINGS]
    apart = foreign_weights.STATE_DICTS
    assert sorted(namings) == sorted([*foreign_weights.FORMS, *apart])


@EVERY
def test_names_of_all_layers(source, network):
    naming = foreign_weights.naming_of(source, network)
    form = foreign_weights.FORMS[source, network]
    names = foreign_weights.names_of(source, network)
    assert list(naming.layers.items()) == list(names.items())
    for layer, name in names.items():
        assert naming.tensor_name(layer, "kernel") == form.kernel.format(name)
        assert naming.tensor_name(layer, "bias") == form.bias.format(name)


@EVERY
def test_a_file_gives_the_same_weights_in_every_form(source, network, drawn):
    """Square kernels among them; and the first one sees red first."""
    file = foreign_weights.file_of(drawn[network], source, network)
    arch = network if (source, network) in foreign_weights.AMBIGUOUS else ""
    restored = restore.restore_checkpoint(file, arch=arch)
    assert restored.network is registry.NETWORKS[network]
    assert restored.naming.source == source
    assert {entry.status for entry in restored.entries} == {"restored"}
    assert len(restored.entries) == len(file.tensors) >= 4
    for name, array in restored.arrays().items():
        expected = drawn[network][name]
        if name.endswith("kernel"):
            expected = foreign_weights.to_graft(name.split("/")[0], expected, network)
        assert np.array_equal(array, expected), name  # prints no differences: fast


@EVERY
def test_input_has_the_mean_and_deviation_of_the_source(source, network):
    naming = foreign_weights.naming_of(source, network)
    spec = naming.spec or registry.NETWORKS[network].input_spec
    mean, deviation = foreign_weights.FORMS[source, network].norm
    np.testing.assert_allclose(np.array(spec.mean) * spec.scale, mean)
    np.testing.assert_allclose(np.array(spec.std) * spec.scale, deviation)


@pytest.mark.parametrize(
    ("source", "network"),
    [form for form in foreign_weights.FORMS if form[1] in foreign_weights.FLATTENED],
    ids=" ".join,
)
def test_the_first_dense_layer_sees_the_same_pixels(source, network):
    """Two filters, each weight of which says where its input is."""
    layer, shape = foreign_weights.FLATTENED[network]
    places = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, -1)
    expected = foreign_weights.to_graft(layer, places, network)
    naming = foreign_weights.naming_of(source, network)
    form = foreign_weights.FORMS[source, network]
    in_file = places if form.channels_first else expected
    if form.dense_as_conv:
        in_file = in_file.reshape(7, 7, 512, 2)
    assert in_file.shape in naming.shapes_in_file(expected.shape)
    ours = naming.to_graft(layer, "kernel", in_file, expected.shape)
    np.testing.assert_array_equal(ours, expected)
