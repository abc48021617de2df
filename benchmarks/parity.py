"""Compare features with torchvision's, for the same weights and photos.

    python benchmarks/parity.py graft FOLDER FILE.npz      where Graft is installed
    python benchmarks/parity.py torchvision FILE.npz       where torchvision is

The first command writes 32 photos as the networks receive them, the weights of the
convolutional layers and their features in float32. The second loads the weights into
torchvision's networks and prints the largest difference between the features, relative
to the largest feature.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = {"alexnet_conv": "pool5", "vgg16_conv": "block5_pool"}
NUM_PHOTOS = 32


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
    commands = {"graft": write_graft, "torchvision": compare_torchvision}
    commands[sys.argv[1]](*sys.argv[2:])
