"""List the networks that Graft knows, by name."""

import difflib

from model.checkpoints import errors
from model.networks import alexnet, caffenet, cifar, efficientnet, vgg16
from model.networks.architecture import Network

NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="alexnet",
            make_steps=alexnet.alexnet,
            input_spec=alexnet.ALEXNET_INPUT,
            features=("pool5", "fc6", "fc7"),
        ),
        Network(
            name="alexnet_owt",
            make_steps=alexnet.alexnet_owt,
            input_spec=alexnet.ALEXNET_OWT_INPUT,
            features=("pool5", "fc6", "fc7"),
            combined_features=("conv3", "conv4", "pool5"),
        ),
        Network(
            name="bvlc_alexnet",
            make_steps=caffenet.bvlc_alexnet,
            input_spec=caffenet.CAFFE_INPUT,
            features=("pool5", "fc6", "fc7"),
        ),
        Network(
            name="caffenet",
            make_steps=caffenet.caffenet,
            input_spec=caffenet.CAFFE_INPUT,
            features=("pool5", "fc6", "fc7"),
        ),
        Network(
            name="vgg16",
            make_steps=vgg16.vgg16,
            input_spec=vgg16.VGG16_INPUT,
            features=(*(f"block{n}_pool" for n in range(1, 6)), "fc1", "fc2"),
        ),
        Network(
            name="cifar10_quick",
            make_steps=cifar.cifar10_quick,
            input_spec=cifar.QUICK_INPUT,
            features=("pool1", "pool2", "pool3", "ip1"),
            num_classes=10,
            size_multiple_px=8,  # Caffe's pooling pads other sizes differently
        ),
        Network(
            name="cifar_cnn",
            make_steps=cifar.cifar_cnn,
            input_spec=cifar.CIFAR_CNN_INPUT,
            features=("pool_1", "pool_2", "dense_1"),
            num_classes=10,
        ),
        Network(
            name="cifar_cnn_avg",
            make_steps=cifar.cifar_cnn_avg,
            input_spec=cifar.CIFAR_CNN_INPUT,
            features=("pool_1", "pool_2", "dense_1"),
            num_classes=10,
        ),
        Network(
            name="efficientnet_lite0",
            make_steps=efficientnet.efficientnet_lite0,
            input_spec=efficientnet.LITE0_INPUT,
            features=("pool",),
        ),
    )
}


def by_name(name: str) -> Network:
    """Return the network of that name.

    Raises:
        errors.MismatchedCheckpoint: no network has that name.
    """
    if name not in NETWORKS:
        close = difflib.get_close_matches(name, NETWORKS, n=1)
        advice = f"Expected one of {', '.join(NETWORKS)}."
        if close:
            advice = f"Did you mean {close[0]}?"
        raise errors.MismatchedCheckpoint(
            f"--arch={name}: no network has this name. {advice}"
        )
    return NETWORKS[name]
