"""List the networks that Graft knows, by name."""

from typing import Any

from model.checkpoints import errors
from model.networks import alexnet, applications, cifar, vgg16
from model.networks.architecture import Network
from model.networks.pytorch_models import dinov2, inverted_residuals, resnet
from pipeline.batches.input_spec import InputSpec
from pipeline.system import config_flags

_ALEXNET_FEATURES = ("pool5", "fc6", "fc7")
_CIFAR_FEATURES = ("pool_1", "pool_2", "dense_1")
_IMAGENET = alexnet.ALEXNET_OWT_INPUT
# The ends of the fifth and the last stage, and the second block of the one between.
_LITE0_BLOCKS = ("block_10", "block_12", "block_15")
_LITE2_BLOCKS = ("block_14", "block_16", "block_20")


def _network(
    connect: Any, input_spec: InputSpec, features: tuple[str, ...], **options: Any
) -> Network:
    """Return a network with the name of the function that connects its layers."""
    options |= {"input_spec": input_spec, "features": features}
    return Network(name=connect.__name__, connect=connect, **options)


NETWORKS = {
    network.name: network
    for network in (
        _network(alexnet.alexnet, alexnet.ALEXNET_INPUT, _ALEXNET_FEATURES),
        _network(
            alexnet.alexnet_owt,
            _IMAGENET,
            _ALEXNET_FEATURES,
            combined_features=("conv3", "conv4", "pool5"),
        ),
        _network(alexnet.bvlc_alexnet, alexnet.CAFFE_INPUT, _ALEXNET_FEATURES),
        _network(alexnet.caffenet, alexnet.CAFFE_INPUT, _ALEXNET_FEATURES),
        _network(
            vgg16.vgg16,
            vgg16.VGG16_INPUT,
            (*(f"block{n}_pool" for n in range(1, 6)), "fc1", "fc2"),
            combined_features=("block3_pool", "block4_pool", "block5_pool"),
        ),
        _network(
            cifar.cifar10_quick,
            cifar.QUICK_INPUT,
            ("pool1", "pool2", "pool3", "ip1"),
            num_classes=10,
        ),
        *(
            _network(connect, cifar.CIFAR_CNN_INPUT, _CIFAR_FEATURES, num_classes=10)
            for connect in (cifar.cifar_cnn, cifar.cifar_cnn_avg)
        ),
        *(
            _network(
                connect,
                inverted_residuals.lite_input(size_px),
                ("head",),
                combined_features=(*blocks, "head"),
            )
            for connect, size_px, blocks in (
                (inverted_residuals.efficientnet_lite0, 224, _LITE0_BLOCKS),
                (inverted_residuals.efficientnet_lite1, 240, _LITE2_BLOCKS),
                (inverted_residuals.efficientnet_lite2, 260, _LITE2_BLOCKS),
            )
        ),
        *(
            _network(connect, _IMAGENET, ("pool",))
            for connect in (
                *(resnet.resnet18, resnet.resnet34, resnet.resnet50_torch),
                inverted_residuals.mobilenet_v2_torch,
                inverted_residuals.efficientnet_b0_torch,
            )
        ),
        _network(
            resnet.convnext_tiny_torch, resnet.CONVNEXT_INPUT, ("pool", "pool_norm")
        ),
        *(
            _network(connect, _IMAGENET, ("class_features",), is_classifier=False)
            for connect in (dinov2.dinov2_small, dinov2.dinov2_base)
        ),
        *applications.networks(),
    )
}


def by_name(name: str) -> Network:
    """Return the network of that name, or raise MismatchedCheckpoint."""
    if name not in NETWORKS:
        expected = config_flags.suggestion(name, NETWORKS)
        raise errors.MismatchedCheckpoint(
            f"--arch={name}: no network has this name. Expected {expected}."
        )
    return NETWORKS[name]
