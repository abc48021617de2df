import numpy as np
import pytest

from model.checkpoints import errors
from model.networks import head, registry

NETWORK = registry.NETWORKS["alexnet_owt"]
SPEC = NETWORK.input_spec
SEVERAL = ("conv3", "conv4", "pool5")


@pytest.mark.parametrize(
    ("features", "requested", "pooling", "num_features"),
    [
        (("pool5",), "auto", "average", 256),
        (("pool5",), "none", "none", 6 * 6 * 256),
        (("fc6",), "auto", "none", 4096),
        (SEVERAL, "auto", "average", 384 + 256 + 256),
        (SEVERAL, "statistics", "statistics", 2 * (384 + 256 + 256)),
    ],
)
def test_pooling_suits_the_layers(features, requested, pooling, num_features):
    assert head.choose_pooling(NETWORK, SPEC, features, requested) == pooling
    assert head.num_features(NETWORK, SPEC, features, pooling) == num_features


@pytest.mark.parametrize(
    ("features", "pooling"), [(SEVERAL, "statistics"), (("fc6",), "none")]
)
def test_a_solved_head_sees_deviations_of_maps(features, pooling):
    chosen = head.choose_pooling(NETWORK, SPEC, features, "auto", is_solved=True)
    assert chosen == pooling


@pytest.mark.parametrize(
    ("features", "pooling", "scaling"),
    [
        (SEVERAL, "statistics", "length_per_layer"),
        (("pool5",), "statistics", "length"),
        (SEVERAL, "average", "roots"),
        (("fc6",), "none", "roots"),
    ],
)
def test_how_features_are_scaled(features, pooling, scaling):
    assert head.choose_scaling(NETWORK, features, pooling) == scaling


def test_numbers_that_may_be_negative_have_no_roots():
    network = registry.NETWORKS["efficientnet_lite0"]
    assert head.choose_scaling(network, ("block_15",), "average") == "length"


@pytest.mark.parametrize(
    ("features", "requested", "message"),
    [
        (("fc6",), "average", "--pooling=average: fc6 of alexnet_owt is not a"),
        (("fc6",), "statistics", "--pooling=statistics: fc6"),
        (("pool5", "fc6"), "auto", r"fc6 of .*found \[4096\]"),
        (SEVERAL, "none", r"\(conv3,conv4,pool5\)"),
    ],
)
def test_pooling_that_layers_do_not_allow_is_refused(features, requested, message):
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        head.choose_pooling(NETWORK, SPEC, features, requested)


class TestPooledFeatures:
    @pytest.fixture
    def outputs(self):
        random = np.random.default_rng(2)
        shapes = {"a": (3, 4, 4, 5), "b": (3, 2, 2, 7)}
        return {
            name: random.gamma(1, 3, size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }

    @pytest.mark.parametrize("names", [("a",), ("a", "b")])
    def test_are_the_means_of_one_layer_after_the_other(self, outputs, names):
        pooled = head.pool_features(outputs, names, "average")
        means = [outputs[name].mean((1, 2)) for name in names]
        np.testing.assert_allclose(pooled, np.concatenate(means, axis=1), rtol=1e-5)

    @pytest.mark.parametrize("names", [("a",), ("a", "b")])
    def test_are_means_then_deviations_of_each_layer(self, outputs, names):
        outputs["a"][..., 2] = 0  # a dead channel has neither
        pooled = head.pool_features(outputs, names, "statistics")
        expected = [
            figures
            for name in names
            for figures in (outputs[name].mean((1, 2)), outputs[name].std((1, 2)))
        ]
        np.testing.assert_allclose(pooled, np.concatenate(expected, axis=1), rtol=1e-4)

    def test_of_each_layer_have_length_1(self, outputs):
        outputs["b"] *= 1000  # does not outweigh the other one
        names, scaling = ("a", "b"), "length_per_layer"
        scaled = np.array(head.pool_features(outputs, names, "statistics", scaling))
        expected = [
            np.array(head.pool_features(outputs, (name,), "statistics"))
            for name in names
        ]
        expected = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in expected]
        np.testing.assert_allclose(scaled, np.concatenate(expected, 1), rtol=1e-4)
        unchanged = head.scale_features(scaled, scaling)
        np.testing.assert_array_equal(unchanged, scaled)


class TestHead:
    def build(self, features, **options):
        options = {"num_classes": 4, "dropout": 0.5, "seed": 7} | options
        layers = head.make_layers(**options)
        output = head.pool_features({"conv": features}, ("conv",), "none")
        for layer in layers:
            output = layer(output)
        return layers, np.asarray(output)

    def test_sees_all_numbers_as_height_width_channels(self):
        features = np.random.default_rng(2).normal(size=(3, 2, 5, 6)) * 1000
        layers, logits = self.build(features.astype(np.float32))
        kernel = layers[-1].kernel.numpy()
        assert kernel.shape == (60, 4)
        expected = np.einsum("nyxc,yxco->no", features, kernel.reshape(2, 5, 6, 4))
        np.testing.assert_allclose(logits, expected, rtol=1e-4)
        other = np.einsum("nyxc,cyxo->no", features, kernel.reshape(6, 2, 5, 4))
        assert not np.allclose(logits, other, rtol=0.1)

    def test_starts_with_small_kernels_and_no_bias(self):
        layers, _ = self.build(np.ones((1, 1000), np.float32), num_classes=50)
        kernel = layers[-1].kernel.numpy()
        assert kernel.std() == pytest.approx(0.001, rel=0.05)
        assert abs(kernel.mean()) < 3 * 0.001 / np.sqrt(kernel.size)
        assert not layers[-1].bias.numpy().any()

    def test_starts_as_the_seed_decides(self):
        features = np.ones((2, 30), np.float32)
        first, again, other = (self.build(features, seed=seed)[1] for seed in (1, 1, 2))
        assert (first == again).all()
        assert (first != other).any()

    @pytest.mark.parametrize(
        ("dropout", "names"), [(0.0, ["logits"]), (0.5, ["head_drop", "logits"])]
    )
    def test_has_a_dropout_layer_only_if_it_drops(self, dropout, names):
        layers, _ = self.build(np.ones((2, 3), np.float32), dropout=dropout)
        assert [layer.name for layer in layers] == names

    def test_widens_narrow_features(self):
        assert self.build(np.ones((1, 3), np.float16))[1].dtype == np.float32
