"""Whether our networks give what torchvision's give on the same weights and photos.

    python benchmarks/parity.py ours FOLDER FILE.npz      where Graft is installed
    python benchmarks/parity.py theirs FILE.npz           where torchvision is

The first command writes 32 photos as the networks see them, the convolutions' weights
and what they make of the photos in float32; the second puts the weights into
torchvision's networks and prints the largest difference, relative to the largest value.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = {"alexnet_conv": "pool5", "vgg16_conv": "block5_pool"}
NUM_PHOTOS = 32


def ours(folder: str, target: str) -> None:
    """Writes photos, weights and features."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    from model.weights import model_variables, named_weights, restore
    from pipeline.batches import single_photo
    from pipeline.images import record_image

    photos = sorted(Path(folder).glob("*/*.jpg"))
    photos = photos[:: max(1, len(photos) // NUM_PHOTOS)][:NUM_PHOTOS]
    found: dict[str, Any] = {}
    for ckpt, last in NETWORKS.items():
        fit = restore.restore_checkpoint(named_weights.resolve(ckpt).checkpoint)
        network_input = single_photo.NetworkInput(fit.spec)
        stored = [record_image.encode_for_record(p.read_bytes()) for p in photos]
        images = np.stack([network_input(image) for image in stored])
        model = fit.network.build(fit.spec, last=last)
        model_variables.assign(model, fit.values)
        found["images"] = images
        found[f"{ckpt}/features"] = np.asarray(model(images.astype(np.float32)))
        for number, arrays in enumerate(fit.values.values()):
            for name, array in arrays.items():
                found[f"{ckpt}/{number}/{name}"] = array
    np.savez(target, **found)


def theirs(source: str) -> None:
    """Prints how far torchvision's features are from ours."""
    import torch
    import torchvision

    found = np.load(source)
    images = found["images"] / 255 - np.array([0.485, 0.456, 0.406])
    images = (images / np.array([0.229, 0.224, 0.225])).transpose(0, 3, 1, 2)
    for ckpt in NETWORKS:
        make = getattr(torchvision.models, ckpt.removesuffix("_conv"))
        features = make(weights=None).features.eval()
        convolutions = [m for m in features if isinstance(m, torch.nn.Conv2d)]
        with torch.no_grad():
            for number, convolution in enumerate(convolutions):
                kernel = found[f"{ckpt}/{number}/kernel"].transpose(3, 2, 0, 1)
                convolution.weight.copy_(torch.tensor(kernel.copy()))
                bias = found[f"{ckpt}/{number}/bias"]
                convolution.bias.copy_(torch.tensor(bias))
            expected = features(torch.tensor(images, dtype=torch.float32)).numpy()
        expected = expected.transpose(0, 2, 3, 1)
        difference = np.abs(found[f"{ckpt}/features"] - expected).max()
        relative = difference / np.abs(expected).max()
        print(f"{ckpt}: {len(images)} photos, largest difference {relative:.1e}")


if __name__ == "__main__":
    {"ours": ours, "theirs": theirs}[sys.argv[1]](*sys.argv[2:])
