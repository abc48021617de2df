"""Grad-CAM against the paper's formula, and what it must show by construction."""

import itertools

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


class TestGradCam:
    def test_the_heat_map_points_at_the_evidence_for_the_class(self, two_places):
        """Red is at the top left, green at the bottom right; blue is of no class."""
        two_places.trainable = False
        images = np.zeros((3, 8, 8, 3), np.uint8)
        images[:2, :2, :2, 0] = 200
        images[:2, 6:, 6:, 1] = 100
        images[2, ..., 2] = 255
        heat = grad_cam.grad_cam(two_places)(images, [0, 1, 0])
        assert heat.shape == (3, 8, 8)
        assert (heat[0] > 0.5).sum() == 4
        assert (heat[0, :2, :2] == 1).all()
        assert (heat[1, 6:, 6:] == 1).all()
        assert heat[1, :6].max() == heat[2].max() == 0

    def test_the_heat_map_follows_the_formula_of_the_paper(self):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((12, 12, 3))
        maps = keras.layers.Conv2D(5, 3, 1, "same", activation="relu")(inputs)
        flat = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(maps))
        final = keras.layers.Dense(3, name="logits")
        model = keras.Model(inputs, final(flat))
        image = np.random.default_rng(0).uniform(0, 255, (1, 12, 12, 3))
        image = image.astype(np.float32)
        values = keras.Model(inputs, maps)(image).numpy()[0]
        # The gradient of a linear head on pooled maps: its kernel, at each maximum.
        kernel = final.kernel.numpy()[:, 2].reshape(6, 6, 5)
        gradients = np.zeros_like(values)
        for row in range(6):
            for column in range(6):
                window = values[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                for channel in range(5):
                    at = np.unravel_index(window[..., channel].argmax(), (2, 2))
                    place = (2 * row + at[0], 2 * column + at[1], channel)
                    gradients[place] = kernel[row, column, channel]
        expected = np.maximum(values @ gradients.mean(axis=(0, 1)), 0)
        heat = grad_cam.grad_cam(model)(image, [2])[0]
        assert heat == pytest.approx(expected / expected.max(), abs=1e-4)

    @pytest.mark.parametrize("pooling", ["average", "statistics"])
    def test_maps_of_earlier_layers_are_added_by_position(self, pooling):
        """Means and deviations are sums over positions, which add up to the logit.

        With deviations, the heat map is smoothed by means of 3 x 3 positions.
        """
        keras.utils.set_random_seed(2)
        inputs = keras.Input((12, 12, 3))
        low = keras.layers.Conv2D(4, 3, 1, "same", activation="relu")(inputs)
        top = keras.layers.Conv2D(5, 3, 2, "same", activation="relu", name="top")(low)
        maps = {"low": low, "top": top}
        pooled = head.pool_features(maps, ("low", "top"), pooling)
        final = keras.layers.Dense(3, name="logits", bias_initializer="ones")
        model = keras.Model(inputs, final(pooled))
        image = np.random.default_rng(0).uniform(0, 1, (1, 12, 12, 3)).astype("f4")
        kernel = iter(final.kernel.numpy()[:, 2])
        parts = []
        for batch in keras.Model(inputs, [low, top])(image):
            x = np.asarray(batch)[0]
            values = x @ np.array(list(itertools.islice(kernel, x.shape[2])))
            if pooling == "statistics":
                normal = (x - x.mean((0, 1))) / np.maximum(x.std((0, 1)), 1e-3)
                deviations = np.array(list(itertools.islice(kernel, x.shape[2])))
                values += (x * normal) @ deviations
            parts.append(values / values.size)
        logit = sum(part.sum() for part in parts) + 1
        assert model(image).numpy()[0, 2] == pytest.approx(logit, rel=1e-3)
        large = np.asarray(tf.image.resize(parts[1][..., None], (12, 12)))[..., 0]
        expected = parts[0] + large
        if pooling == "statistics":
            padded = np.pad(expected, 1, constant_values=np.nan)
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
            expected = np.nanmean(windows, axis=(2, 3))
        expected = np.maximum(expected, 0)
        assert (expected > 0).any()
        heat = grad_cam.grad_cam(model)(image, [2])[0]
        tolerance = 1e-4 if pooling == "average" else 1e-2
        assert heat == pytest.approx(expected / expected.max(), abs=tolerance)

    def test_a_network_without_a_spatial_layer_is_a_named_error(self):
        inputs = keras.Input((4, 4, 3))
        flat = keras.layers.Flatten()(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2)(flat), name="flat")
        with pytest.raises(
            grad_cam.NoSpatialLayer, match="flat: no layer has a spatial output"
        ):
            grad_cam.grad_cam(model)


def test_preprocessing_layers_are_not_maps():
    """Neither are layers that only move pixels."""
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


def test_the_sum_of_a_block_is_a_map_and_arithmetic_of_pixels_is_not():
    """Keras' ConvNeXt adds a branch to its input by an operation, not by a layer."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 1, name="stem")(image + 1.0)
    x = x + keras.layers.Conv2D(2, 1, name="branch")(x)
    mean = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(2, name="logits")(mean))
    assert grad_cam.mapped_layer(model).output is x
    heat = grad_cam.grad_cam(model)(np.ones((1, 8, 8, 3), np.uint8), [0])
    assert heat.shape == (1, 8, 8)
    flat = keras.layers.Flatten()(image + 1.0)
    with pytest.raises(grad_cam.NoSpatialLayer):
        grad_cam.mapped_layer(keras.Model(image, keras.layers.Dense(2)(flat)))


def test_an_overlay_changes_the_image_where_there_is_heat():
    image = np.full((5, 6, 3), 20, np.uint8)
    heat = np.zeros((5, 6))
    heat[2, 3] = 1
    changed = (grad_cam.overlay(image, heat) != image).any(axis=2)
    assert (changed == (heat > 0)).all()
