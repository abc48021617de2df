"""Vision transformers of DINOv2, which end in features instead of classes."""

from typing import Any

import keras
import numpy as np

from model.checkpoints import errors
from model.networks.layers import dense, layer_norm, layer_scale, look_up

PATCH_PX, NUM_BLOCKS = 14, 12
POSITIONS = "position_embedding"  # layer with one row for each token


def dinov2_small(image: Any, num_classes: int) -> Any:
    """Connect ViT-S/14; there are no classes.

    Source: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", section 3.1;
    Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision".
    """
    del num_classes
    return _connect(image, channels=384)


def dinov2_base(image: Any, num_classes: int) -> Any:
    """Connect ViT-B/14, twice as wide."""
    del num_classes
    return _connect(image, channels=768)


def _connect(image: Any, *, channels: int) -> Any:
    """Connect patches, class token, blocks, and the normalised class token.

    The position before the last one also has the means of the patches' tokens.
    """
    side = image.shape[1]
    if side % PATCH_PX:
        smaller = max(side // PATCH_PX, 1) * PATCH_PX
        raise errors.MismatchedCheckpoint(
            f"DINOv2 sees patches of {PATCH_PX} pixels, so it cannot take images of "
            f"{side}. Pass --image_size={smaller} or --image_size={smaller + PATCH_PX}"
        )
    x = keras.layers.Conv2D(channels, PATCH_PX, PATCH_PX, name="patches")(image)
    x = keras.layers.Reshape((-1, channels), name="patch_tokens")(x)
    class_token = look_up(x, 1, name="class_token")
    x = keras.layers.Concatenate(axis=1, name="tokens")([class_token, x])
    positions = look_up(x, x.shape[1], name=POSITIONS)
    x = keras.layers.Add(name="embedding")([x, positions])
    for number in range(NUM_BLOCKS - 1):
        x = _block(x, name=f"block{number}")
    # The last place where the patches still affect the class token. They pass through a
    # map there, for Grad-CAM.
    side //= PATCH_PX
    patches = keras.layers.Reshape((side, side, channels), name="patch_map")(x[:, 1:])
    patches = keras.layers.Identity(name="patches_seen")(patches)
    patches = keras.layers.Reshape((side * side, channels), name="patch_list")(patches)
    x = keras.layers.Concatenate(axis=1, name="tokens_seen")([x[:, :1], patches])
    x = _block(x, name=f"block{NUM_BLOCKS - 1}")
    x = layer_norm(name="norm")(x)
    mean = keras.ops.mean(x[:, 1:], axis=1)
    x = keras.layers.Concatenate(name="class_and_patch_features")([x[:, 0], mean])
    return keras.layers.Identity(name="class_features")(x[:, :channels])


def _block(x: Any, *, name: str) -> Any:
    """Add attention between tokens, then a two-layer perceptron on each token."""
    channels = x.shape[-1]
    y = layer_norm(name=f"{name}_norm1")(x)
    y = layer_scale(_attention(y, name=name), initial=1e-5, name=f"{name}_scale1")
    x = keras.layers.Add(name=f"{name}_attended")([x, y])
    y = layer_norm(name=f"{name}_norm2")(x)
    y = dense(4 * channels, activation="gelu", name=f"{name}_mlp1")(y)
    y = dense(channels, activation=None, name=f"{name}_mlp2")(y)
    y = layer_scale(y, initial=1e-5, name=f"{name}_scale2")
    return keras.layers.Add(name=name)([x, y])


def _attention(x: Any, *, name: str) -> Any:
    """Apply self-attention, in heads of 64 channels."""
    num_tokens, channels = x.shape[1:]
    heads = (num_tokens, 3, channels // 64, 64)
    x = dense(3 * channels, activation=None, name=f"{name}_qkv")(x)
    x = keras.layers.Reshape(heads, name=f"{name}_heads")(x)
    query, key, value = keras.ops.unstack(x, 3, axis=2)
    x = keras.ops.dot_product_attention(query, key, value)
    x = keras.layers.Reshape((num_tokens, channels), name=f"{name}_joined")(x)
    return dense(channels, activation=None, name=f"{name}_projection")(x)


def resize_positions(table: np.ndarray, num_tokens: int) -> np.ndarray:
    """Resize the position embeddings of a square of patches to another square.

    `table` is float [1 + side * side, channels]; its first row is the class token's.
    The result is float32 [num_tokens, channels].

    Source: interpolate_pos_encoding in facebookresearch/dinov2: bicubic with a = -0.75,
    without antialiasing, 0.1 patches added to the new side for the scale.
    """
    if len(table) == num_tokens:
        return table
    old, new = (round((count - 1) ** 0.5) for count in (len(table), num_tokens))
    centres = (np.arange(new) + 0.5) * old / (new + 0.1) - 0.5
    first = np.floor(centres).astype(int)
    weights = np.zeros((new, old))
    for offset in range(-1, 3):
        distance = np.abs(centres - first - offset)
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        column = np.clip(first + offset, 0, old - 1)
        np.add.at(weights, (np.arange(new), column), np.where(distance <= 1, near, far))
    grid = table[1:].reshape(old, old, -1)
    grid = np.einsum("yi,xj,ijc->yxc", weights, weights, grid, optimize=True)
    rows = grid.reshape(new * new, -1)
    return np.concatenate([table[:1], rows]).astype(np.float32)
