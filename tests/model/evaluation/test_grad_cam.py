"""Grad-CAM against the paper's formula, and what it must show by construction."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.evaluation import grad_cam
from model.networks import architecture, head
from tests.support import small_runs


@pytest.fixture
def two_places():
    """Class 0 is the mean of red, class 1 of green; built so that the map is known."""
    inputs = keras.Input((8, 8, 3), dtype="float32")
    maps = keras.layers.Conv2D(2, 1, use_bias=False, name="conv1")(inputs)
    pooled = keras.layers.MaxPooling2D(2, name="pool1")(maps)
    mean = keras.layers.GlobalAveragePooling2D(name="mean")(pooled)
    logits = keras.layers.Dense(2, use_bias=False, name="logits")(mean)
    model = keras.Model(inputs, logits)
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, 0, 0] = kernel[0, 0, 1, 1] = 1
    model.get_layer("conv1").set_weights([kernel])
    model.get_layer("logits").set_weights([np.eye(2, dtype=np.float32)])
    return model


def image_with_corners():
    """Red at the top left, green at the bottom right."""
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[0, :2, :2, 0] = 200
    image[0, 6:, 6:, 1] = 100
    return image


class TestGradCam:
    def test_the_heat_map_points_at_the_evidence_for_the_class(self, two_places):
        heat = grad_cam.grad_cam(two_places)(
            np.repeat(image_with_corners(), 2, 0), [0, 1]
        )
        assert heat.shape == (2, 8, 8)
        assert (heat[0] > 0.5).sum() == 4
        assert (heat[0, :2, :2] == 1).all()
        assert (heat[1, 6:, 6:] == 1).all()
        assert heat[1, :6].max() == 0

    def test_without_evidence_the_heat_map_is_0(self, two_places):
        blue = np.zeros((1, 8, 8, 3), np.uint8)
        blue[..., 2] = 255
        assert not grad_cam.grad_cam(two_places)(blue, [0]).any()

    def test_the_heat_map_follows_the_formula_of_the_paper(self):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((12, 12, 3))
        maps = keras.layers.Conv2D(5, 3, 1, "same", activation="relu")(inputs)
        flat = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(maps))
        final = keras.layers.Dense(3, name="logits")
        model = keras.Model(inputs, final(flat))
        image = np.random.default_rng(0).uniform(0, 255, (1, 12, 12, 3))
        image = image.astype(np.float32)
        found = keras.Model(inputs, maps)(image).numpy()[0]
        # The gradient of a linear head on pooled maps: its kernel, at each maximum.
        kernel = final.kernel.numpy()[:, 2].reshape(6, 6, 5)
        gradients = np.zeros_like(found)
        for row in range(6):
            for column in range(6):
                window = found[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                for channel in range(5):
                    at = np.unravel_index(window[..., channel].argmax(), (2, 2))
                    place = (2 * row + at[0], 2 * column + at[1], channel)
                    gradients[place] = kernel[row, column, channel]
        expected = np.maximum(found @ gradients.mean(axis=(0, 1)), 0)
        heat = grad_cam.grad_cam(model)(image, [2])[0]
        assert heat == pytest.approx(expected / expected.max(), abs=1e-4)

    def test_maps_of_earlier_layers_are_added(self):
        """Of a head on plain means the parts add up to the logit, place by place."""
        keras.utils.set_random_seed(2)
        inputs = keras.Input((12, 12, 3))
        low = keras.layers.Conv2D(4, 3, 1, "same", name="low")(inputs)
        top = keras.layers.Conv2D(5, 3, 2, "same", activation="relu", name="top")(low)
        outputs = {"low": low, "top": top}
        seen = head.pool_features(outputs, ("low", "top"), "average")
        final = keras.layers.Dense(3, name="logits", bias_initializer="ones")
        model = keras.Model(inputs, final(seen))
        image = np.random.default_rng(0).uniform(0, 1, (1, 12, 12, 3)).astype("f4")
        maps = keras.Model(inputs, [low, top])(image)
        kernel = final.kernel.numpy()[:, 2]
        parts = [
            (np.asarray(one)[0] @ weights)[..., None] / one[0, ..., 0].numpy().size
            for one, weights in zip(maps, (kernel[:4], kernel[4:]), strict=True)
        ]
        logit = sum(part.sum() for part in parts) + 1
        assert model(image).numpy()[0, 2] == pytest.approx(logit, rel=1e-4)
        large = np.asarray(tf.image.resize(parts[1], (12, 12)))
        expected = np.maximum(parts[0] + large, 0)[..., 0]
        assert (expected > 0).any()
        heat = grad_cam.grad_cam(model)(image, [2])[0]
        assert heat == pytest.approx(expected / expected.max(), abs=1e-4)

    def test_a_head_on_deviations_weights_every_position(self):
        """These too are sums over places, shown as means of 3 x 3 of these."""
        keras.utils.set_random_seed(2)
        inputs = keras.Input((12, 12, 3))
        low = keras.layers.Conv2D(4, 3, 1, "same", activation="relu")(inputs)
        top = keras.layers.Conv2D(5, 3, 2, "same", activation="relu", name="top")(low)
        seen = head.pool_features(
            {"low": low, "top": top}, ("low", "top"), "statistics"
        )
        final = keras.layers.Dense(3, name="logits", bias_initializer="ones")
        model = keras.Model(inputs, final(seen))
        image = np.random.default_rng(0).uniform(0, 1, (1, 12, 12, 3)).astype("f4")
        kernel = np.split(final.kernel.numpy()[:, 2], [4, 8, 13])
        parts = []
        for number, one in enumerate(keras.Model(inputs, [low, top])(image)):
            x = np.asarray(one)[0]
            normal = (x - x.mean((0, 1))) / np.maximum(x.std((0, 1)), 1e-3)
            means, deviations = kernel[2 * number : 2 * number + 2]
            parts.append((x @ means + (x * normal) @ deviations) / x[..., 0].size)
        logit = sum(part.sum() for part in parts) + 1
        assert model(image).numpy()[0, 2] == pytest.approx(logit, rel=1e-3)
        large = np.asarray(tf.image.resize(parts[1][..., None], (12, 12)))[..., 0]
        both = np.pad(parts[0] + large, 1, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(both, (3, 3))
        expected = np.maximum(np.nanmean(windows, axis=(2, 3)), 0)
        assert (expected > 0).any()
        heat = grad_cam.grad_cam(model)(image, [2])[0]
        assert heat == pytest.approx(expected / expected.max(), abs=1e-2)

    def test_a_frozen_network_has_heat_maps(self, two_places):
        two_places.trainable = False
        assert grad_cam.grad_cam(two_places)(image_with_corners(), [0]).max() == 1

    def test_a_network_without_a_spatial_layer_is_a_named_error(self):
        inputs = keras.Input((4, 4, 3))
        flat = keras.layers.Flatten()(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2)(flat), name="flat")
        with pytest.raises(
            grad_cam.NoSpatialLayer, match="flat: no layer has a spatial output"
        ):
            grad_cam.grad_cam(model)


def test_preprocessing_layers_are_not_maps():
    """Every run's network begins with it; what moves pixels looks at nothing either."""
    spec, kinds = small_runs.SPEC, keras.layers
    image = keras.Input((spec.size_px, spec.size_px, 3), name="image")
    x = architecture.normalisation(spec)(image)
    for layer in (
        kinds.Normalization(mean=[0.0] * 3, variance=[1.0] * 3),
        kinds.Cropping2D(1),
        kinds.UpSampling2D(2),
        kinds.Permute((2, 1, 3)),
        kinds.Reshape((22, 88, 3)),
        kinds.MaxPooling2D(2),
    ):
        x = layer(x)
    model = keras.Model(image, kinds.Dense(3)(kinds.Flatten()(x)))
    with pytest.raises(grad_cam.NoSpatialLayer):
        grad_cam.mapped_layer(model)
    assert grad_cam.mapped_layer(small_runs.colour_model()).name == "norm"


def test_the_layer_is_the_last_one_before_pooling(two_places):
    assert grad_cam.mapped_layer(two_places).name == "conv1"


class TestOverlay:
    def test_without_heat_the_image_is_unchanged(self):
        image = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
        assert (grad_cam.overlay(image, np.zeros((5, 6))) == image).all()

    def test_heat_changes_the_image(self):
        image = np.full((5, 6, 3), 20, np.uint8)
        heat = np.zeros((5, 6))
        heat[2, 3] = 1
        changed = grad_cam.overlay(image, heat) != image
        assert changed[2, 3].any()
        assert changed.any(axis=2).sum() == 1
