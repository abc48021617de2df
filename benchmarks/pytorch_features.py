"""Classify photos by PyTorch's features and scikit-learn: a baseline of whole_job.py.

    python benchmarks/pytorch_features.py TRAIN VALIDATION TEST WEIGHTS.npz

torchvision's AlexNet with Graft's restored convolutions, channels last, in bfloat16
where the processor has instructions for it; the means of its last map; a standard
scaler and logistic regression with scikit-learn's settings. Photos of TRAIN and
VALIDATION train, those of TEST test. Photos are read as torchvision's documentation
recommends, by two worker processes.

Needs torch, torchvision and scikit-learn, and nothing of Graft. Prints one JSON line.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing
import torch
import torchvision

BATCH_SIZE = 64
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_features(weights: str) -> Any:
    """Return the convolutions with weights of a file {conv1/kernel: array, ...}."""
    features = torchvision.models.alexnet().features.eval()
    arrays = np.load(weights)
    convolutions = [m for m in features if isinstance(m, torch.nn.Conv2d)]
    for number, convolution in enumerate(convolutions, 1):
        kernel = arrays[f"conv{number}/kernel"].transpose(3, 2, 0, 1)
        convolution.weight.data = torch.tensor(np.ascontiguousarray(kernel))
        convolution.bias.data = torch.tensor(arrays[f"conv{number}/bias"])
    return features.to(memory_format=torch.channels_last)


def compute(features: Any, folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of the last map, float32 [photos, channels], and labels."""
    transforms = torchvision.transforms
    photos = torchvision.datasets.ImageFolder(
        folder,
        transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize(*_IMAGENET),
            ]
        ),
    )
    loader = torch.utils.data.DataLoader(photos, BATCH_SIZE, num_workers=2)
    is_fast = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    means, labels = [], []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, is_fast):
        for images, batch_labels in loader:
            images = images.contiguous(memory_format=torch.channels_last)
            means.append(features(images).float().mean((2, 3)).numpy())
            labels.append(batch_labels.numpy())
    return np.concatenate(means), np.concatenate(labels)


def main(train: str, validation: str, test: str, weights: str) -> None:
    """Fit the regression, and print the accuracy on the test photos."""
    features = build_features(weights)
    parts = [compute(features, folder) for folder in (train, validation)]
    model = sklearn.pipeline.make_pipeline(
        sklearn.preprocessing.StandardScaler(),
        sklearn.linear_model.LogisticRegression(max_iter=1000),
    )
    model.fit(*map(np.concatenate, zip(*parts, strict=True)))
    print(json.dumps({"accuracy": model.score(*compute(features, test))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
