"""The networks of keras.applications: built by Keras, fed as their weights expect.

Layers that prepare pixels inside Keras' models (Rescaling, Normalization) are left out:
the preprocessing of the weights does what they do.

Sources: keras/src/applications/*.py and imagenet_utils.py (preprocess_input).
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from model.networks import alexnet, head, vgg16
from model.networks.architecture import Network
from model.networks.keras_models.config_graph import RENAMED
from pipeline.batches.input_spec import InputSpec

_SOURCE = "keras.applications"
# The modes of preprocess_input, and EfficientNetV2's own.
_CAFFE = dataclasses.replace(vgg16.VGG16_INPUT, source=f"{_SOURCE}, mode caffe")
_TF = InputSpec(mean=(127.5,) * 3, std=(127.5,) * 3, source=f"{_SOURCE}, mode tf")
_TORCH = dataclasses.replace(alexnet.ALEXNET_OWT_INPUT, source=f"{_SOURCE}, mode torch")
_V2 = InputSpec(
    mean=(128.0,) * 3, std=(128.0,) * 3, source=f"{_SOURCE}, EfficientNetV2"
)


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of keras.applications that expect the same pixels."""

    name: str
    # Normalisation that their first convolution expects. Models with a Rescaling or
    # Normalization layer of their own apply it themselves.
    input_spec: InputSpec
    layers: str  # regular expression for a layer that only they have
    bgr: bool = False  # whether their weights expect blue, green, red


# The first match counts. Names may be paths, such as Keras 2's expanded_conv/project.
_FAMILIES = (
    Family("ResNetV2", _TF, r"conv2_block1_preact_bn"),
    Family("ResNet", _CAFFE, r"conv2_block1_3_bn|res2a_branch2a", bgr=True),
    Family("DenseNet", _TORCH, r"conv2_block1_0_bn"),
    Family("MobileNet", _TF, r"conv_dw_1"),
    Family("MobileNetV2", _TF, r"expanded_conv_project_BN|mobl\d_conv_0_project"),
    Family("MobileNetV3", _TF, r"expanded_conv(_project_bn|/project(/.*)?)"),
    Family("EfficientNetV2-S, M or L", _V2, r"block6m_expand_conv"),
    Family("EfficientNetV2-B", _TORCH, r"block4a_dwconv2"),
    Family("EfficientNet", _TORCH, r"block1a_dwconv"),
    Family("ConvNeXt", _TORCH, r"convnext_\w+_stage_0_block_0_depthwise_conv"),
    Family("Xception", _TF, r"block14_sepconv2"),
    Family("Inception", _TF, r"mixed10|conv_7b"),
    Family("NASNet", _TF, r"reduction_conv_1_stem_1"),
    Family("VGG", _CAFFE, r"block5_conv3", bgr=True),
)


def family_of(layer_names: Iterable[str]) -> Family | None:
    """Recognise a network of keras.applications by the names of its layers, or None.

    Among them may be those of models inside other models, and layers of the user's own.
    """
    text = "\n".join(layer_names)
    for family in _FAMILIES:
        if re.search(rf"^({family.layers})$", text, re.MULTILINE):
            return family
    return None


# Function of keras.applications, input in pixels, normalisation, parameters.
MODELS = {
    "efficientnetv2_b0": ("EfficientNetV2B0", 224, _TORCH, 7_200_312),
    "efficientnetv2_b1": ("EfficientNetV2B1", 240, _TORCH, 8_212_124),
    "efficientnetv2_b2": ("EfficientNetV2B2", 260, _TORCH, 10_178_374),
    "efficientnetv2_b3": ("EfficientNetV2B3", 300, _TORCH, 14_467_622),
    "efficientnetv2_s": ("EfficientNetV2S", 384, _V2, 21_612_360),
    "resnet50": ("ResNet50", 224, _CAFFE, 25_636_712),
    "resnet50v2": ("ResNet50V2", 224, _TF, 25_613_800),
    "mobilenet_v2": ("MobileNetV2", 224, _TF, 3_538_984),
    "mobilenet_v3_large": ("MobileNetV3Large", 224, _TF, 5_507_432),
    "convnext_tiny": ("ConvNeXtTiny", 224, _TORCH, 28_589_128),
    "convnext_small": ("ConvNeXtSmall", 224, _TORCH, 50_223_688),
    "efficientnet_b0": ("EfficientNetB0", 224, _TORCH, 5_330_571),
    "efficientnet_b1": ("EfficientNetB1", 240, _TORCH, 7_856_239),
    "efficientnet_b2": ("EfficientNetB2", 260, _TORCH, 9_177_569),
    "efficientnet_b3": ("EfficientNetB3", 300, _TORCH, 12_320_535),
    "densenet121": ("DenseNet121", 224, _TORCH, 8_062_504),
}
# Layers that a new head sits on, where they are not called avg_pool.
_FEATURES = {
    "mobilenet_v2": "global_average_pooling2d",
    "mobilenet_v3_large": "activation_20",
    "convnext_tiny": "convnext_tiny_head_layernorm",
    "convnext_small": "convnext_small_head_layernorm",
}
# A tensor, and its shape, that tells files of a network from those of most others.
_LANDMARKS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "efficientnetv2_b0": ("top_conv/kernel", (1, 1, 192, 1280)),
    "efficientnetv2_b1": ("block6i_dwconv2/kernel", (3, 3, 1152, 1)),
    "efficientnetv2_b2": ("top_conv/kernel", (1, 1, 208, 1408)),
    "efficientnetv2_b3": ("top_conv/kernel", (1, 1, 232, 1536)),
    "efficientnetv2_s": ("top_conv/kernel", (1, 1, 256, 1280)),
    "resnet50": ("conv5_block3_3_bn/gamma", (2048,)),
    "resnet50v2": ("conv5_block3_preact_bn/gamma", (2048,)),
    "mobilenet_v2": ("Conv_1/kernel", (1, 1, 320, 1280)),
    "mobilenet_v3_large": (
        "expanded_conv_14_squeeze_excite_conv/kernel",
        (1, 1, 960, 240),
    ),
    "convnext_tiny": ("convnext_tiny_head_layernorm/gamma", (768,)),
    "convnext_small": ("convnext_small_head_layernorm/gamma", (768,)),
    "efficientnet_b0": ("top_conv/kernel", (1, 1, 320, 1280)),
    "efficientnet_b1": ("block7b_dwconv/kernel", (3, 3, 1920, 1)),
    "efficientnet_b2": ("top_conv/kernel", (1, 1, 352, 1408)),
    "efficientnet_b3": ("top_conv/kernel", (1, 1, 384, 1536)),
    "densenet121": ("conv5_block16_2_conv/kernel", (3, 3, 128, 32)),
}
BGR = frozenset({"resnet50"})  # networks whose weights expect blue, green, red
_MARGIN_PX = 32  # of the crop: from 256 to 224, and as the authors of EfficientNet do


def networks() -> list[Network]:
    """Return the networks of MODELS."""
    return [
        Network(
            name=name,
            connect=functools.partial(_connect, builder),
            input_spec=dataclasses.replace(
                spec, size_px=size_px, short_side_px=size_px + _MARGIN_PX
            ),
            features=(_FEATURES.get(name, "avg_pool"),),
            landmark=_LANDMARKS[name],
        )
        for name, (builder, size_px, spec, _) in MODELS.items()
    ]


_NORMALIZATION = re.compile(r"normalization(?:_\d+)?/moving_(mean|variance)")


def stated_spec(spec: InputSpec, tensors: Mapping[str, np.ndarray]) -> InputSpec:
    """Return a spec with the mean and variance of a Normalization layer of a file.

    `spec` has those of ImageNet and is returned for them: such a file states the
    standard deviation as the variance, and EfficientNet divides once more by its root.
    """
    # Keras numbers the layer if its process has made another one before.
    found = {
        match[1]: np.asarray(array, np.float64)
        for name, array in tensors.items()
        if (match := _NORMALIZATION.fullmatch(name)) and array.shape == (3,)
    }
    if found.keys() != {"mean", "variance"}:
        return spec
    mean, variance = found["mean"], found["variance"]
    if np.allclose(variance, spec.std, atol=1e-3):
        return spec
    std = np.maximum(np.sqrt(variance), 1e-7)
    return dataclasses.replace(
        spec,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        source="the file's normalization layer",
    )


def _connect(builder: str, image: Any, num_classes: int) -> Any:
    """Connect the layers that follow the preparation of pixels in Keras' model."""
    start = keras.Input(image.shape[1:])
    options = dict(weights=None, classes=num_classes, classifier_activation=None)
    model = getattr(keras.applications, builder)(input_tensor=start, **options)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
            start = layer.output
    names = _stable_names(model)
    made: list[Any] = []  # in order of computation

    def copy(operation: Any) -> Callable[..., Any]:
        if isinstance(operation, keras.Sequential):
            parts = [copy(layer) for layer in operation.layers]
            return lambda x, **_: functools.reduce(lambda y, part: part(y), parts, x)
        config = operation.get_config()
        kind = type(operation)
        if config.get("groups", 1) > 1 and config["groups"] == config["filters"]:
            # A depthwise convolution, which took 30 times as long when in groups.
            kind = keras.layers.DepthwiseConv2D
            config = {key: config[key] for key in _DEPTHWISE_OPTIONS}
        config["name"] = names.get(operation.name, operation.name)
        made.append(kind.from_config(config))
        return made[-1]

    part = keras.Model(start, model.output)
    # The model that this returns begins with an input of its own and is not used.
    keras.models.clone_model(part, input_tensors=image, clone_function=copy)
    return made[-1].output


_DEPTHWISE_OPTIONS = ("kernel_size", "strides", "padding", "use_bias", "activation")


def _stable_names(model: Any) -> dict[str, str]:
    """Return {name in the model: name here} of layers whose names would vary.

    Keras numbers unnamed layers across all models of a process. Here the numbers are
    those of a process with this model alone.
    """
    names = {head.FINAL_LAYER: head.FINAL_LAYER + RENAMED}
    counts: collections.Counter[str] = collections.Counter()
    for operation in model.operations:
        kind = re.sub(r"_\d+$", "", operation.name)
        if kind.replace("_", "") == type(operation).__name__.lower():
            names[operation.name] = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
    return names
