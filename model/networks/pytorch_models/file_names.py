"""List the names of layers in the files of torchvision, timm and other PyTorch code."""

from collections.abc import Mapping, Sequence

from model.networks.pytorch_models import (
    convnext,
    dinov2,
    inverted_residuals,
    resnet,
)

_Names = dict[str, str]


def _inverted_residuals(
    stages: Sequence[tuple[int, ...]],
    ends: str,
    block: str,
    parts: str,
    parts_of_first: str,
) -> _Names:
    """Return {layer: its name in the file}.

    Args:
        stages: table of the network in inverted_residuals.
        ends: names of stem and head, each a convolution and its normalisation, and of
            the final layer.
        block: beginning of the names in a block, with its number {block}, from 1 on
            {after}; {stage}, from 1 on {next}; and its number in the stage, {index}.
        parts: names of a block's layers, in order.
        parts_of_first: the same for the first block, which does not widen.
    """
    expand, rest = ["expand_conv", "expand_bn"], ["project_conv", "project_bn"]
    depthwise = ["depthwise_conv", "depthwise_bn"]
    if len(parts.split()) == 8:
        depthwise += ["squeeze", "excite"]
    stem_conv, stem_bn, head_conv, head_bn, final = ends.split()
    names = {"stem_conv": stem_conv, "stem_bn": stem_bn}
    number = 0
    for stage, (repeats, _, _, expansion, _) in enumerate(stages):
        for index in range(repeats):
            ours = [*(expand if expansion > 1 else []), *depthwise, *rest]
            theirs = (parts if expansion > 1 else parts_of_first).split()
            prefix = block.format(
                block=number,
                after=number + 1,
                stage=stage,
                next=stage + 1,
                index=index,
            )
            for layer, name in zip(ours, theirs, strict=True):
                names[f"block_{number}_{layer}"] = prefix + name
            number += 1
    return {**names, "head_conv": head_conv, "head_bn": head_bn, "fc": final}


def _resnet(blocks: Sequence[int], convolutions: int) -> _Names:
    """Return {layer: its name in torchvision and timm}."""
    names = {"stem_conv": "conv1", "stem_bn": "bn1", "fc": "fc"}
    for stage, repeats in enumerate(blocks, start=1):
        for index in range(repeats):
            ours, theirs = f"stage{stage}_block{index}", f"layer{stage}.{index}"
            for number in range(1, convolutions + 1):
                names[f"{ours}_{number}_conv"] = f"{theirs}.conv{number}"
                names[f"{ours}_{number}_bn"] = f"{theirs}.bn{number}"
            if index == 0 and (stage > 1 or convolutions == 3):
                names[f"{ours}_shortcut_conv"] = f"{theirs}.downsample.0"
                names[f"{ours}_shortcut_bn"] = f"{theirs}.downsample.1"
    return names


def _convnext(ends: str, downsample: str, block: str, parts: str) -> _Names:
    """Return {layer: its name in the file}.

    Args:
        ends: names of the stem's convolution and normalisation, of the normalisation
            after the pool, and of the final layer.
        downsample: beginning of the names between stages, with {stage} or {twice}.
        block: beginning of the names in a block, with {stage} or {next}, and {index}.
        parts: names of a block's layers, in order.
    """
    ours = ("stem_conv", "stem_norm", "pool_norm", "fc")
    names = dict(zip(ours, ends.split(), strict=True))
    for stage, repeats in enumerate(convnext.BLOCKS):
        places = {"stage": stage, "twice": 2 * stage, "next": 2 * stage + 1}
        if stage:
            prefix = downsample.format(**places)
            names[f"stage{stage}_downsample_norm"] = f"{prefix}.0"
            names[f"stage{stage}_downsample_conv"] = f"{prefix}.1"
        for index in range(repeats):
            prefix = block.format(index=index, **places)
            for layer, name in zip(
                ("conv", "norm", "mlp1", "mlp2", "scale"), parts.split(), strict=True
            ):
                names[f"stage{stage}_block{index}_{layer}"] = f"{prefix}.{name}"
    return names


def _dinov2() -> _Names:
    """Return {layer: its name in Meta's files and timm's}."""
    parts = {
        "norm1": "norm1",
        "qkv": "attn.qkv",
        "projection": "attn.proj",
        "scale1": "ls1.gamma",
        "norm2": "norm2",
        "mlp1": "mlp.fc1",
        "mlp2": "mlp.fc2",
        "scale2": "ls2.gamma",
    }
    return {
        "patches": "patch_embed.proj",
        "class_token": "cls_token",
        dinov2.POSITIONS: "pos_embed",
        **{
            f"block{number}_{ours}": f"blocks.{number}.{theirs}"
            for number in range(dinov2.NUM_BLOCKS)
            for ours, theirs in parts.items()
        },
        "norm": "norm",
    }


# {(tool, network): {layer: its name in the file}}.
NAMES: Mapping[tuple[str, str], _Names] = {
    **{
        ("efficientnet-lite-pytorch", network): _inverted_residuals(
            stages,
            "_conv_stem _bn0 _conv_head _bn1 _fc",
            "_blocks.{block}.",
            "_expand_conv _bn0 _depthwise_conv _bn1 _project_conv _bn2",
            "_depthwise_conv _bn1 _project_conv _bn2",
        )
        for network, stages in (
            ("efficientnet_lite0", inverted_residuals.EFFICIENTNET_B0),
            ("efficientnet_lite1", inverted_residuals.LITE1),
            ("efficientnet_lite2", inverted_residuals.LITE2),
        )
    },
    ("torchvision", "resnet18"): _resnet(resnet.SMALL_BLOCKS, 2),
    ("torchvision", "resnet34"): _resnet(resnet.LARGE_BLOCKS, 2),
    ("torchvision", "resnet50_torch"): _resnet(resnet.LARGE_BLOCKS, 3),
    ("torchvision", "mobilenet_v2_torch"): _inverted_residuals(
        inverted_residuals.MOBILENET_V2,
        "features.0.0 features.0.1 features.18.0 features.18.1 classifier.1",
        "features.{after}.conv.",
        "0.0 0.1 1.0 1.1 2 3",
        "0.0 0.1 1 2",
    ),
    ("timm", "mobilenet_v2_torch"): _inverted_residuals(
        inverted_residuals.MOBILENET_V2,
        "conv_stem bn1 conv_head bn2 classifier",
        "blocks.{stage}.{index}.",
        "conv_pw bn1 conv_dw bn2 conv_pwl bn3",
        "conv_dw bn1 conv_pw bn2",
    ),
    # timm has the same names for two networks, efficientnet_b0 and tf_efficientnet_b0.
    ("torchvision", "efficientnet_b0_torch"): _inverted_residuals(
        inverted_residuals.EFFICIENTNET_B0,
        "features.0.0 features.0.1 features.8.0 features.8.1 classifier.1",
        "features.{next}.{index}.block.",
        "0.0 0.1 1.0 1.1 2.fc1 2.fc2 3.0 3.1",
        "0.0 0.1 1.fc1 1.fc2 2.0 2.1",
    ),
    ("torchvision", "convnext_tiny_torch"): _convnext(
        "features.0.0 features.0.1 classifier.0 classifier.2",
        "features.{twice}",
        "features.{next}.{index}",
        "block.0 block.2 block.3 block.5 layer_scale",
    ),
    ("timm", "convnext_tiny_torch"): _convnext(
        "stem.0 stem.1 head.norm head.fc",
        "stages.{stage}.downsample",
        "stages.{stage}.blocks.{index}",
        "conv_dw norm mlp.fc1 mlp.fc2 gamma",
    ),
    ("Meta's DINOv2", "dinov2_small"): _dinov2(),
    ("Meta's DINOv2", "dinov2_base"): _dinov2(),
}
# Files with Graft's names of their layers are Graft's, and state the network.
NETWORKS = frozenset(network for _, network in NAMES)
