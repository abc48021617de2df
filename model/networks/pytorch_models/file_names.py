"""List the names of layers in the files of torchvision, timm and other PyTorch code."""

from collections.abc import Iterator, Mapping, Sequence

from model.networks.pytorch_models import dinov2, inverted_residuals, resnet

_Names = dict[str, str]  # {layer: its name in the file}


def _pairs(ours: str, theirs: str, *, layer: str = "", name: str = "") -> _Names:
    """Pair the names in two texts, after putting `layer` and `name` before them."""
    pairs = zip(ours.split(), theirs.split(), strict=True)
    return {layer + part: name + other for part, other in pairs}


def _places(repeats: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (number of a block, its stage, its number in the stage), all from 0 on."""
    places = [(stage, i) for stage, count in enumerate(repeats) for i in range(count)]
    return ((number, *place) for number, place in enumerate(places))


def _inverted_residuals(
    stages: Sequence[tuple[int, ...]], ends: str, block: str, parts: str, first: str
) -> _Names:
    """Pair the names of a network with those in a file.

    `ends` are the names of stem and head, each a convolution and its normalisation, and
    of the final layer; `parts` those of a block's layers, in order, and `first` those
    of the first block, which has no expansion. They follow `block`, in which {block},
    {stage} and {index} stand for the numbers of block, stage, and block in the stage,
    from 0 on; {after} and {next} for those of block and stage from 1 on.
    """
    squeezing = "squeeze excite " * (len(parts.split()) == 8)
    narrow = f"depthwise_conv depthwise_bn {squeezing}project_conv project_bn"
    names = _pairs("stem_conv stem_bn head_conv head_bn fc", ends)
    for number, stage, index in _places([repeats for repeats, *_ in stages]):
        numbers = {"block": number, "after": number + 1, "index": index}
        name = block.format(stage=stage, next=stage + 1, **numbers)
        ours = f"expand_conv expand_bn {narrow}" if number else narrow
        theirs = parts if number else first
        names |= _pairs(ours, theirs, layer=f"block_{number}_", name=name)
    return names


def _resnet(blocks: Sequence[int], convolutions: int) -> _Names:
    names = _pairs("stem_conv stem_bn fc", "conv1 bn1 fc")
    numbers = range(1, convolutions + 1)
    ours = " ".join(f"{number}_conv {number}_bn" for number in numbers)
    theirs = " ".join(f"conv{number} bn{number}" for number in numbers)
    for _, stage, index in _places(blocks):
        start = {
            "layer": f"stage{stage + 1}_block{index}_",
            "name": f"layer{stage + 1}.{index}.",
        }
        names |= _pairs(ours, theirs, **start)
        if index == 0 and (stage or convolutions == 3):
            shortcut = "shortcut_conv shortcut_bn"
            names |= _pairs(shortcut, "downsample.0 downsample.1", **start)
    return names


def _convnext(ends: str, downsample: str, block: str, parts: str) -> _Names:
    """Pair the names of the network with those in a file.

    `ends` are the names of the stem's convolution and normalisation, of the
    normalisation after the pool, and of the final layer; `parts` those of a block's
    layers, which follow `block`, with {stage} or {next}, and {index}. Names between
    stages follow `downsample`, with {stage} or {twice}.
    """
    names = _pairs("stem_conv stem_norm pool_norm fc", ends)
    for _, stage, index in _places(resnet.CONVNEXT_BLOCKS):
        places = {"stage": stage, "twice": 2 * stage, "next": 2 * stage + 1}
        layer, name = f"stage{stage}_block{index}_", block.format(index=index, **places)
        names |= _pairs("conv norm mlp1 mlp2 scale", parts, layer=layer, name=name)
        if stage and index == 0:
            layer, name = f"stage{stage}_downsample_", downsample.format(**places)
            names |= _pairs("norm conv", "0 1", layer=layer, name=name)
    return names


_DINOV2 = {
    **_pairs("patches class_token norm", "patch_embed.proj cls_token norm"),
    dinov2.POSITIONS: "pos_embed",
}
for _number in range(dinov2.NUM_BLOCKS):
    _DINOV2 |= _pairs(
        "norm1 qkv projection scale1 norm2 mlp1 mlp2 scale2",
        "norm1 attn.qkv attn.proj ls1.gamma norm2 mlp.fc1 mlp.fc2 ls2.gamma",
        layer=f"block{_number}_",
        name=f"blocks.{_number}.",
    )

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
        "features.{twice}.",
        "features.{next}.{index}.",
        "block.0 block.2 block.3 block.5 layer_scale",
    ),
    ("timm", "convnext_tiny_torch"): _convnext(
        "stem.0 stem.1 head.norm head.fc",
        "stages.{stage}.downsample.",
        "stages.{stage}.blocks.{index}.",
        "conv_dw norm mlp.fc1 mlp.fc2 gamma",
    ),
    ("Meta's DINOv2", "dinov2_small"): _DINOV2,
    ("Meta's DINOv2", "dinov2_base"): _DINOV2,
}
# Only Graft's files have Graft's layer names of these, and they state the network.
NETWORKS = frozenset(network for _, network in NAMES)
