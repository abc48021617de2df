"""PyTorch's files: names and shapes of all tensors, blocks in NumPy, refusals."""

import dataclasses
import hashlib
import math

import keras
import numpy as np
import pytest

from model.checkpoints import errors
from model.checkpoints.checkpoint import Checkpoint
from model.networks import registry
from model.networks.pytorch_models import dinov2
from model.weights import model_variables, naming_conventions, restore, weight_settings
from tests.support.weights import foreign_weights
from tests.support.weights import numpy_networks as ref


def shapes_of(source, network):
    """{name: shape} of all tensors of a file."""
    (naming,) = [
        n
        for n in naming_conventions.NAMINGS
        if (n.source, n.network) == (source, network)
    ]
    described = registry.NETWORKS[network]
    shapes = {}
    for layer, variables in described.variable_shapes(described.input_spec).items():
        for variable, shape in variables.items():
            name = naming.tensor_name(layer, variable)
            if variable != "embeddings":
                shapes[name] = naming.shapes_in_file(shape)[-1]
            elif name.endswith("gamma"):
                shapes[name] = shape[1:]
            elif name.endswith("layer_scale"):
                shapes[name] = (shape[1], 1, 1)
            else:
                shapes[name] = (1, *shape)
    return shapes


def file_of(shapes, changed=None):
    """A file of zeros, in no memory."""
    zero = np.float32(0)
    tensors = {
        n: np.broadcast_to(zero, s) for n, s in (shapes | (changed or {})).items()
    }
    return Checkpoint(tensors=tensors, format="PyTorch (zip)", where="file.pth")


@pytest.mark.parametrize(
    ("source", "network"), foreign_weights.STATE_DICTS, ids=" ".join
)
def test_names_and_shapes_of_the_whole_file(source, network):
    shapes = shapes_of(source, network)
    lines = sorted(f"{n} {'x'.join(map(str, s))}" for n, s in shapes.items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest[:16] == foreign_weights.STATE_DICTS[source, network]


@pytest.mark.parametrize(
    ("source", "network", "prefix"),
    [
        ("torchvision", "resnet18", ""),  # whose tensors resnet34 has too
        ("torchvision", "resnet50_torch", "model."),
        (
            "efficientnet-lite-pytorch",
            "efficientnet_lite1",
            "",
        ),  # which lite2 resembles
        ("timm", "mobilenet_v2_torch", "model.backbone."),
        ("Meta's DINOv2", "dinov2_small", "student."),
    ],
)
def test_a_file_is_recognised_in_any_scope(source, network, prefix):
    shapes = {prefix + n: s for n, s in shapes_of(source, network).items()}
    counters = dict.fromkeys(
        [n.replace("running_mean", "num_batches_tracked") for n in shapes], ()
    )
    restored = restore.restore_checkpoint(file_of(shapes | counters, shapes))
    assert restored.network.name == network
    assert not restored.missing_layers(restored.network.positions()[-1])
    assert {e.status for e in restored.entries if e.shape} == {"restored"}


def test_a_final_layer_of_other_classes_is_left_out():
    shapes = shapes_of("torchvision", "resnet18")
    file = file_of(shapes, {"fc.weight": (10, 512), "fc.bias": (10,)})
    restored = restore.restore_checkpoint(file)
    assert restored.deepest_feature() == "pool"
    left = [e.tensor for e in restored.entries if e.status != "restored"]
    assert left == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("source", "network", "changed", "message"),
    [
        (  # resnet101
            *("torchvision", "resnet50_torch"),
            {"layer3.6.conv1.weight": (256, 1024, 1, 1)},
            "of resnet50_torch .torchvision., but it also contains .*layer3.6.conv1",
        ),
        (  # resnext50
            *("torchvision", "resnet50_torch"),
            {"layer4.2.conv2.weight": (1024, 32, 3, 3)},
            r"layer4.2.conv2.weight is .*\[1024, 32, 3, 3\], expected .*\[512, 512, 3",
        ),
        (  # ViT-S/16
            *("Meta's DINOv2", "dinov2_small"),
            {"patch_embed.proj.weight": (384, 3, 16, 16)},
            r"patch_embed.proj.weight is .*16, 16\], expected .*\[384, 3, 14, 14\]",
        ),
        (
            *("Meta's DINOv2", "dinov2_small"),
            {"register_tokens": (1, 4, 384)},
            "it also contains what dinov2_small does not have: register_tokens",
        ),
        (
            *("Meta's DINOv2", "dinov2_small"),
            {"pos_embed": (1, 200, 384)},  # no square
            r"pos_embed is .*\[1, 200, 384\], expected .*\[1, 257, 384\]",
        ),
    ],
)
def test_another_network_is_refused_with_the_nearest_one(
    source, network, changed, message
):
    file = file_of(shapes_of(source, network), changed)
    with pytest.raises(errors.MismatchedCheckpoint, match=message):
        restore.restore_checkpoint(file).deepest_feature()


def test_dinov2_takes_whole_patches_only():
    network = registry.NETWORKS["dinov2_small"]
    spec = dataclasses.replace(network.input_spec, size_px=230)
    with pytest.raises(errors.MismatchedCheckpoint, match="=224 or --image_size=238"):
        network.variable_shapes(spec)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [  # torch.nn.functional.interpolate with scale_factor=(new + 0.1) / old, bicubic
        (4, 2, (1.0886, 4.06321, 25.96875, 37.67126)),
        (
            *(2, 3),
            (
                *(-0.10444, -0.01586, 0.08059, 0.39946, 0.7947, 1.22501, 0.94809),
                *(1.67719, 2.471),
            ),
        ),
    ],
)
def test_position_embeddings_are_resized_as_meta_does(old, new, expected):
    patches = np.arange(old * old, dtype=np.float32) ** 2 / 4
    table = np.concatenate([[7.0], patches]).astype(np.float32)[:, None]
    resized = dinov2.resize_positions(table, 1 + new * new)
    np.testing.assert_allclose(resized[:, 0], [7, *expected], rtol=1e-5, atol=1e-5)
    assert dinov2.resize_positions(table, 1 + old * old) is table


class Arrays(dict):
    """Arrays of a file by name, drawn when they are first asked for."""

    random = np.random.default_rng(4)
    like_torch = True  # or as TensorFlow pads and normalises

    def draw(self, name, *shape):
        wide = ref.draw(self.random, shape, np.prod(shape[1:]))
        narrow = self.random.uniform(0.5, 1.5, shape).astype(np.float32)
        return self.setdefault(name, wide if len(shape) > 1 else narrow)

    def conv(self, x, name, filters, size, stride=1, *, depthwise=False, bias=False):
        wide = 1 if depthwise else len(x)
        border = (size // 2, size // 2)
        if not self.like_torch:
            border = ref.same_border(x.shape[1], size, stride)
        kernel = self.draw(f"{name}.weight", filters, wide, size, size)
        function = ref.depthwise if depthwise else ref.convolution
        x = function(x, kernel, stride=stride, border=border)
        return x + self.draw(f"{name}.bias", filters)[:, None, None] if bias else x

    def norm(self, x, name):
        parts = ("weight", "bias", "running_mean", "running_var")
        arrays = (self.draw(f"{name}.{p}", len(x)) for p in parts)
        return ref.batch_norm(x, *arrays, 1e-5 if self.like_torch else 1e-3)

    def layer_norm(self, x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        x = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-6)
        scale, shift = (
            self.draw(f"{name}.{p}", x.shape[-1]) for p in ("weight", "bias")
        )
        return x * scale + shift

    def dense(self, x, name, width):
        kernel = self.draw(f"{name}.weight", width, x.shape[-1])
        return x @ kernel.T + self.draw(f"{name}.bias", width)


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2


def resnet18(a, x):
    x = ref.relu(a.norm(a.conv(x, "conv1", 64, 7, 2), "bn1"))
    x = ref.pool(np.pad(x, ((0, 0), (1, 1), (1, 1))), 3, 2, np.max)
    y = ref.relu(a.norm(a.conv(x, "layer1.0.conv1", 64, 3), "layer1.0.bn1"))
    y = a.norm(a.conv(y, "layer1.0.conv2", 64, 3), "layer1.0.bn2")
    yield "stage1_block0", ref.relu(x + y)


def resnet50_torch(a, x):
    """The last block with a stride, which lies in the second convolution."""
    name = "layer4.0"
    y = ref.relu(a.norm(a.conv(x, f"{name}.conv1", 512, 1), f"{name}.bn1"))
    y = ref.relu(a.norm(a.conv(y, f"{name}.conv2", 512, 3, 2), f"{name}.bn2"))
    y = a.norm(a.conv(y, f"{name}.conv3", 2048, 1), f"{name}.bn3")
    x = a.conv(x, f"{name}.downsample.0", 2048, 1, 2)
    yield "stage4_block0", ref.relu(y + a.norm(x, f"{name}.downsample.1"))


def mobilenet_v2_torch(a, x):
    x = ref.relu6(a.norm(a.conv(x, "features.0.0", 32, 3, 2), "features.0.1"))
    name = "features.1.conv"
    x = a.conv(x, f"{name}.0.0", 32, 3, depthwise=True)
    x = ref.relu6(a.norm(x, f"{name}.0.1"))
    yield "block_0", a.norm(a.conv(x, f"{name}.1", 16, 1), f"{name}.2")


def efficientnet_lite0(a, x):
    """The stem and three blocks: the second one has a stride, the third adds."""
    a.like_torch = False
    x = ref.relu6(a.norm(a.conv(x, "_conv_stem", 32, 3, 2), "_bn0"))
    for number, (stride, filters) in enumerate([(1, 16), (2, 24), (1, 24)]):
        name, y = f"_blocks.{number}", x
        if number:
            y = a.conv(y, f"{name}._expand_conv", 6 * len(x), 1)
            y = ref.relu6(a.norm(y, f"{name}._bn0"))
        y = a.conv(y, f"{name}._depthwise_conv", len(y), 3, stride, depthwise=True)
        y = ref.relu6(a.norm(y, f"{name}._bn1"))
        y = a.norm(a.conv(y, f"{name}._project_conv", filters, 1), f"{name}._bn2")
        x = x + y if number == 2 else y
    yield "block_2", x


def efficientnet_b0_torch(a, x):
    x = silu(a.norm(a.conv(x, "features.0.0", 32, 3, 2), "features.0.1"))
    name = "features.1.0.block"
    x = a.conv(x, f"{name}.0.0", 32, 3, depthwise=True)
    x = silu(a.norm(x, f"{name}.0.1"))
    y = silu(a.conv(x.mean((1, 2), keepdims=True), f"{name}.1.fc1", 8, 1, bias=True))
    x = x / (1 + np.exp(-a.conv(y, f"{name}.1.fc2", 32, 1, bias=True)))
    yield "block_0", a.norm(a.conv(x, f"{name}.2.0", 16, 1), f"{name}.2.1")


def convnext_tiny_torch(a, x):
    kernel = a.draw("features.0.0.weight", 96, 3, 4, 4)
    x = ref.convolution(x, kernel, a.draw("features.0.0.bias", 96), stride=4)
    x = ref.chw(a.layer_norm(ref.hwc(x), "features.0.1"))
    name = "features.1.0"
    y = a.conv(x, f"{name}.block.0", 96, 7, depthwise=True, bias=True)
    y = a.dense(a.layer_norm(ref.hwc(y), f"{name}.block.2"), f"{name}.block.3", 384)
    y = ref.chw(a.dense(gelu(y), f"{name}.block.5", 96))
    yield "stage0_block0", x + y * a.draw(f"{name}.layer_scale", 96, 1, 1)


def dinov2_small(a, x):
    kernel = a.draw("patch_embed.proj.weight", 384, 3, 14, 14)
    bias = a.draw("patch_embed.proj.bias", 384)
    x = ref.convolution(x, kernel, bias, stride=14).reshape(384, -1).T
    table = a.draw("pos_embed", 1, 1 + 3 * 3, 384)[0]
    x = np.concatenate([a.draw("cls_token", 1, 1, 384)[0], x])
    x = x + dinov2.resize_positions(table, len(x))
    y = a.dense(a.layer_norm(x, "blocks.0.norm1"), "blocks.0.attn.qkv", 3 * 384)
    query, key, value = y.reshape(-1, 3, 6, 64).transpose(1, 2, 0, 3)
    seen = np.exp(query @ key.transpose(0, 2, 1) / 8)
    seen /= seen.sum(axis=-1, keepdims=True)
    y = (seen @ value).transpose(1, 0, 2).reshape(-1, 384)
    y = a.dense(y, "blocks.0.attn.proj", 384)
    x = x + y * a.draw("blocks.0.ls1.gamma", 384)
    y = a.dense(a.layer_norm(x, "blocks.0.norm2"), "blocks.0.mlp.fc1", 4 * 384)
    y = a.dense(gelu(y), "blocks.0.mlp.fc2", 384)
    yield "block0", x + y * a.draw("blocks.0.ls2.gamma", 384)


@pytest.mark.parametrize(
    ("forward", "side", "after"),
    [
        (resnet18, 32, ""),
        (resnet50_torch, 64, "stage3_block5"),
        (mobilenet_v2_torch, 32, ""),
        (efficientnet_lite0, 70, ""),  # 35 and 18 pixels: even and odd sizes are padded
        (efficientnet_b0_torch, 32, ""),
        (convnext_tiny_torch, 32, ""),
        (dinov2_small, 28, ""),
    ],
)
def test_a_block_gives_what_numpy_gives(forward, side, after, tmp_path):
    """The weights go in as in a file; the model is saved and loads in plain Keras."""
    network = registry.NETWORKS[forward.__name__]
    size = weight_settings.Overrides(image_size=side)
    spec = size.apply(network.input_spec, bgr=False)
    arrays = Arrays()
    if after:
        x = network.output_shape(spec, after)[1:]
        x = arrays.random.standard_normal(x).astype(np.float32)
        images = x
    else:
        images = arrays.random.integers(0, 256, (side, side, 3)).astype(np.float32)
        x = (images / spec.scale - np.array(spec.mean)) / np.array(spec.std)
    expected = dict(forward(arrays, ref.chw(x).astype(np.float32)))
    file = Checkpoint(tensors=dict(arrays), format="PyTorch (zip)")
    restored = restore.restore_checkpoint(file, arch=network.name, overrides=size)
    assert {entry.status for entry in restored.entries} == {"restored"}
    model = network.build_part(spec, tuple(expected), after=after)
    model_variables.assign(model, restored.values)
    ref.check(model, images, expected)
    model.save(tmp_path / "part.keras")
    loaded = keras.models.load_model(tmp_path / "part.keras", safe_mode=True)
    ref.check(loaded, images, expected)
