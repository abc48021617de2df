"""The networks of keras.applications: built by Keras, fed as their weights expect.

Sources: keras/src/applications/*.py and imagenet_utils.py (preprocess_input).
"""

import dataclasses
import re
from collections.abc import Iterable

from model.networks import vgg16
from pipeline.batches.input_spec import InputSpec

_SOURCE = "keras.applications"
# The modes of preprocess_input, and EfficientNetV2's own.
_CAFFE = dataclasses.replace(vgg16.VGG16_INPUT, source=f"{_SOURCE}, mode caffe")
_TF = InputSpec(mean=(127.5,) * 3, std=(127.5,) * 3, source=f"{_SOURCE}, mode tf")
_TORCH = InputSpec(
    scale=255.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    source=f"{_SOURCE}, mode torch",
)
_V2 = InputSpec(
    mean=(128.0,) * 3, std=(128.0,) * 3, source=f"{_SOURCE}, EfficientNetV2"
)


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of keras.applications that expect the same pixels.

    Attributes:
        name: name of the networks, for people.
        input_spec: normalisation of what their first convolution receives, which the
            models with a Rescaling or Normalization layer of their own do themselves;
            its sizes are those of ImageNet at 224 pixels.
        bgr: whether their weights expect blue, green, red.
        layers: regular expression of a layer that they have and no others.
    """

    name: str
    input_spec: InputSpec
    layers: str
    bgr: bool = False


# The first that fits counts. A name may end a path, such as Keras 2's conv1/conv.
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
    """Recognise a network of keras.applications by the names of its layers.

    Args:
        layer_names: layers of a file or configuration, in any order, those of models
            inside other models too; layers of the user's own may be among them.

    Returns:
        The family, which states the preprocessing; None for other networks.
    """
    text = "\n".join(layer_names)
    for family in _FAMILIES:
        if re.search(rf"^({family.layers})$", text, re.MULTILINE):
            return family
    return None
