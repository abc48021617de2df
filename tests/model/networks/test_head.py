import numpy as np
import pytest

from model.checkpoints import errors
from model.networks import head, registry


def test_what_a_head_sees():
    chosen = registry.NETWORKS["alexnet_owt"]
    spec = chosen.input_spec
    several = ("conv3", "conv4", "pool5")
    assert head.choose_pooling(chosen, spec, ("pool5",), "auto") == "average"
    assert head.choose_pooling(chosen, spec, ("pool5",), "none") == "none"
    assert head.choose_pooling(chosen, spec, ("fc6",), "auto") == "none"
    assert head.choose_pooling(chosen, spec, several, "auto") == "average"
    with pytest.raises(
        errors.MismatchedCheckpoint, match="fc6 of alexnet_owt is not a"
    ):
        head.choose_pooling(chosen, spec, ("fc6",), "average")
    with pytest.raises(errors.MismatchedCheckpoint, match=r"\(conv3,conv4,pool5\)"):
        head.choose_pooling(chosen, spec, several, "none")
    with pytest.raises(errors.MismatchedCheckpoint, match=r"fc6 of .*found \[4096\]"):
        head.choose_pooling(chosen, spec, ("pool5", "fc6"), "auto")
    assert head.choose_pooling(chosen, spec, several, "statistics") == "statistics"
    with pytest.raises(errors.MismatchedCheckpoint, match="--pooling=statistics: fc6"):
        head.choose_pooling(chosen, spec, ("fc6",), "statistics")
    assert head.num_features(chosen, spec, several, "average") == 384 + 256 + 256
    assert head.num_features(chosen, spec, several, "statistics") == 2 * (
        384 + 256 + 256
    )
    assert head.num_features(chosen, spec, ("pool5",), "none") == 6 * 6 * 256


class TestHead:
    def build(self, features, pooling="none", **how):
        how = {"num_classes": 4, "dropout": 0.5, "seed": 7} | how
        layers = head.make_layers(**how)
        output = head.pool_features({"conv": features}, ("conv",), pooling)
        for layer in layers:
            output = layer(output)
        return layers, np.asarray(output)

    def test_the_means_of_several_layers(self):
        """In their order, one after the other."""
        random = np.random.default_rng(2)
        shapes = {"a": (3, 4, 4, 5), "b": (3, 2, 2, 7)}
        outputs = {
            name: random.normal(size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        found = head.pool_features(outputs, ("a", "b"), "average")
        means = [outputs[name].mean((1, 2)) for name in ("a", "b")]
        np.testing.assert_allclose(found, np.concatenate(means, axis=1), rtol=1e-5)

    @pytest.mark.parametrize("names", [("a",), ("a", "b")])
    def test_means_and_deviations(self, names):
        """Of each layer its means, then its deviations; a dead channel has neither."""
        random = np.random.default_rng(2)
        shapes = {"a": (3, 4, 4, 5), "b": (3, 2, 2, 7)}
        outputs = {
            name: random.gamma(1, 3, size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        outputs["a"][..., 2] = 0
        found = head.pool_features(outputs, names, "statistics")
        expected = [
            figures
            for name in names
            for figures in (outputs[name].mean((1, 2)), outputs[name].std((1, 2)))
        ]
        expected = np.concatenate(expected, axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_the_mean_of_each_channel(self):
        features = np.random.default_rng(2).normal(size=(3, 2, 5, 6)) * 1000
        layers, found = self.build(features.astype(np.float32), pooling="average")
        kernel = layers[-1].kernel.numpy()
        assert kernel.shape == (6, 4)
        expected = features.mean(axis=(1, 2)) @ kernel
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    def test_logits_by_hand(self):
        """Flattened as [height, width, channels]; dropout does nothing in use."""
        features = np.random.default_rng(2).normal(size=(3, 2, 5, 6)) * 1000
        layers, found = self.build(features.astype(np.float32))
        kernel = layers[-1].kernel.numpy()
        assert kernel.shape == (60, 4)
        expected = np.einsum("nyxc,yxco->no", features, kernel.reshape(2, 5, 6, 4))
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert not np.allclose(
            found,
            np.einsum("nyxc,cyxo->no", features, kernel.reshape(6, 2, 5, 4)),
            rtol=0.1,
        )

    def test_start(self):
        features = np.ones((1, 1000), np.float32)
        layers, _ = self.build(features, num_classes=50)
        kernel = layers[-1].kernel.numpy()
        assert kernel.std() == pytest.approx(0.001, rel=0.05)
        assert abs(kernel.mean()) < 3 * 0.001 / np.sqrt(kernel.size)
        assert not layers[-1].bias.numpy().any()

    def test_seed_decides_the_start(self):
        features = np.ones((2, 30), np.float32)
        first, again, other = (self.build(features, seed=seed)[1] for seed in (1, 1, 2))
        assert (first == again).all()
        assert (first != other).any()

    def test_without_dropout_there_is_no_such_layer(self):
        features = np.ones((2, 3), np.float32)
        names = [layer.name for layer in self.build(features, dropout=0.0)[0]]
        assert names == ["logits"]
        names = [layer.name for layer in self.build(features)[0]]
        assert names == ["head_drop", "logits"]

    def test_narrow_features_are_widened(self):
        features = np.ones((1, 3), np.float16)
        assert self.build(features)[1].dtype == np.float32
