"""Compare features with those of a network's own library, for equal weights and photos.

    python benchmarks/parity.py keras FOLDER [NAME ...]    where Graft is installed
    python benchmarks/parity.py graft FOLDER FILE.npz      where Graft is installed
    python benchmarks/parity.py torchvision FILE.npz       where torchvision is

The first command gives each network of keras.applications random weights, saves it with
Keras in each of its formats, restores the files with Graft, and compares features and
logits of 8 photos of the folder. Each network receives pixels as its own library
prepares them.

The second command writes 32 photos as the networks receive them, the weights of the
convolutional layers and their features in float32. The third loads the weights into
torchvision's networks.

Differences are the largest one, relative to the largest number: max |a - b| / max |b|.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = {"alexnet_conv": "pool5", "vgg16_conv": "block5_pool"}
NUM_PHOTOS = 32


def compare_keras(folder: str, *names: str) -> None:
    """Print the largest differences for each network of keras.applications."""
    import measure

    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    from model.networks import applications
    from pipeline.images import record_image

    photos = measure.list_photos(Path(folder))
    photos = photos[:: max(1, len(photos) // 8)][:8]
    stored = [record_image.encode_for_record(path.read_bytes()) for path in photos]
    for name in names or applications.MODELS:
        with tempfile.TemporaryDirectory() as scratch:
            compare_files_of_keras(name, stored, Path(scratch))


def compare_files_of_keras(name: str, stored: list[bytes], scratch: Path) -> None:
    """Print the differences for one network, restored from each kind of file."""
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    from model.checkpoints import reading
    from model.networks import applications
    from model.weights import model_variables, restore
    from pipeline.batches import single_photo

    builder = applications.MODELS[name][0]
    theirs = getattr(keras.applications, builder)(
        weights=None, classifier_activation=None
    )
    randomize(theirs)
    theirs.save(scratch / "whole.keras")
    theirs.save(scratch / "whole.h5")
    theirs.save_weights(scratch / "new.weights.h5")
    with h5py.File(scratch / "old.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, theirs)
    prepare = sys.modules[getattr(keras.applications, builder).__module__]
    for path in sorted(scratch.iterdir()):
        restored = restore.restore_checkpoint(reading.read(path))
        network, spec = restored.network, restored.spec
        network_input = single_photo.NetworkInput(spec)
        pixels = np.stack([network_input(photo) for photo in stored]).astype(np.float32)
        last, feature = network.positions()[-1], network.features[-1]
        ours = network.build_part(spec, (feature, last))
        model_variables.assign(ours, restored.values)
        # Layers are counted from the end: those of Keras that prepare pixels are left
        # out here.
        layers = [layer.name for layer in ours.layers]
        place = layers.index(feature) - len(layers)
        outputs = theirs.layers[place].output, theirs.output
        expected = keras.Model(theirs.input, outputs)(
            prepare.preprocess_input(pixels.copy())
        )
        actual = ours(pixels)
        differences = [
            float(np.abs(np.asarray(actual[part]) - b).max() / np.abs(b).max())
            for part, b in zip((feature, last), map(np.asarray, expected), strict=True)
        ]
        print(
            f"{name} from {path.name} as {network.name} ({restored.naming.source}): "
            f"{feature} {differences[0]:.1e}, logits {differences[1]:.1e}",
            flush=True,
        )


def randomize(model: Any) -> None:
    """Assign random weights and statistics that keep outputs of moderate size."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        name, shape = variable.path.rsplit("/", 1)[-1], tuple(variable.shape)
        if name in ("gamma", "moving_variance", "variance", "variable"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif len(shape) == 1:
            variable.assign(rng.normal(0, 0.1, shape))
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # of Normalization, which keeps copies
            layer.finalize_state()


def write_graft(folder: str, target: str) -> None:
    """Write photos, weights and features."""
    import measure

    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    from model.weights import model_variables, named_weights, restore
    from pipeline.batches import single_photo
    from pipeline.images import record_image

    photos = measure.list_photos(Path(folder))
    photos = photos[:: max(1, len(photos) // NUM_PHOTOS)][:NUM_PHOTOS]
    stored = [record_image.encode_for_record(path.read_bytes()) for path in photos]
    arrays: dict[str, Any] = {}
    for ckpt, last in NETWORKS.items():
        restored = restore.restore_checkpoint(named_weights.resolve(ckpt).checkpoint)
        network_input = single_photo.NetworkInput(restored.spec)
        images = np.stack([network_input(photo) for photo in stored])
        model = restored.network.build(restored.spec, last=last)
        model_variables.assign(model, restored.values)
        arrays["images"] = images
        arrays[f"{ckpt}/features"] = np.asarray(model(images.astype(np.float32)))
        for number, layer in enumerate(restored.values.values()):
            for name, array in layer.items():
                arrays[f"{ckpt}/{number}/{name}"] = array
    np.savez(target, **arrays)


def compare_torchvision(source: str) -> None:
    """Print the largest difference for each network."""
    import torch
    import torchvision

    arrays = np.load(source)
    images = arrays["images"] / 255 - np.array([0.485, 0.456, 0.406])
    images = (images / np.array([0.229, 0.224, 0.225])).transpose(0, 3, 1, 2)
    for ckpt in NETWORKS:
        build = getattr(torchvision.models, ckpt.removesuffix("_conv"))
        features = build(weights=None).features.eval()
        convolutions = [m for m in features if isinstance(m, torch.nn.Conv2d)]
        with torch.no_grad():
            for number, convolution in enumerate(convolutions):
                kernel = arrays[f"{ckpt}/{number}/kernel"].transpose(3, 2, 0, 1)
                convolution.weight.copy_(torch.tensor(kernel.copy()))
                bias = arrays[f"{ckpt}/{number}/bias"]
                convolution.bias.copy_(torch.tensor(bias))
            expected = features(torch.tensor(images, dtype=torch.float32)).numpy()
        expected = expected.transpose(0, 2, 3, 1)
        difference = np.abs(arrays[f"{ckpt}/features"] - expected).max()
        relative = difference / np.abs(expected).max()
        print(f"{ckpt}: {len(images)} photos, largest difference {relative:.1e}")


if __name__ == "__main__":
    commands = {
        "keras": compare_keras,
        "graft": write_graft,
        "torchvision": compare_torchvision,
    }
    commands[sys.argv[1]](*sys.argv[2:])
