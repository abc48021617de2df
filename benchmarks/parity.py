"""Compare features with those of a network's own library, for equal weights and photos.

    python benchmarks/parity.py keras FOLDER [NAME ...]    where Graft is installed
    python benchmarks/parity.py torch FOLDER OUT [NAME ...]   where PyTorch is
    python benchmarks/parity.py restored OUT                  where Graft is installed

The first command gives each network of keras.applications random weights, saves it with
Keras in each of its formats, restores the files with Graft, and compares features and
logits of 8 photos of the folder. Each network receives pixels as its own library
prepares them.

The second command gives each network of torchvision, timm and, if it is installed,
efficientnet-lite-pytorch random weights and statistics, and saves its state dict and
what it computes of 8 photos of the folder. Among them is DINOv2 at 224 pixels from a
file for 518, with position embeddings resized as Meta's code does. It needs `pip
install torch torchvision timm`. The third restores the files and compares.

Differences are the largest one, relative to the largest number: max |a - b| / max |b|.
"""

import functools
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

_TORCHVISION = (
    *("alexnet", "vgg16", "resnet18", "resnet34", "resnet50", "mobilenet_v2"),
    *("efficientnet_b0", "convnext_tiny"),
)
_TIMM = ("resnet50", "mobilenetv2_100", "convnext_tiny")
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LITE = (127 / 255,) * 3, (128 / 255,) * 3


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
    from model.predict import photo_batches
    from model.weights import model_variables, restore

    builder = applications.MODELS[name][0]
    keras.utils.set_random_seed(0)
    theirs = getattr(keras.applications, builder)(
        weights=None, classifier_activation=None
    )
    prepare = sys.modules[getattr(keras.applications, builder).__module__]
    randomize(theirs)
    size_px = theirs.input_shape[1] or 224
    noise = np.random.default_rng(1).uniform(0, 255, (8, size_px, size_px, 3))
    set_statistics(theirs, prepare.preprocess_input(noise.astype(np.float32)))
    theirs.save(scratch / "whole.keras")
    theirs.save(scratch / "whole.h5")
    theirs.save_weights(scratch / "new.weights.h5")
    with h5py.File(scratch / "old.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, theirs)
    for path in sorted(scratch.iterdir()):
        restored = restore.restore_checkpoint(reading.read(path))
        network, spec = restored.network, restored.spec
        network_input = photo_batches.NetworkInput(spec)
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
        logits = np.asarray(expected[1])
        spread = np.abs(logits - logits.mean(0)).max() / np.abs(logits).max()
        print(
            f"{name} from {path.name} as {network.name} ({restored.naming.source}): "
            f"{feature} {differences[0]:.1e}, logits {differences[1]:.1e}; outputs "
            f"differ by {spread:.1%} among the photos",
            flush=True,
        )


def randomize(model: Any) -> None:
    """Assign random weights and statistics that keep outputs of moderate size.

    With small factors of batch normalisation, activations are almost linear. With
    factors of about 1, the deepest networks made a rounding error a thousand times
    larger.
    """
    rng = np.random.default_rng(0)
    for variable in model.variables:
        name, shape = variable.path.rsplit("/", 1)[-1], tuple(variable.shape)
        if name == "gamma" and len(shape) == 1:
            variable.assign(rng.uniform(0.1, 0.3, shape))
        elif name in ("moving_variance", "variance", "variable"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif len(shape) == 1:
            variable.assign(rng.normal(0, 0.1, shape))
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):  # of Normalization, which keeps copies
            layer.finalize_state()


def set_statistics(model: Any, pixels: np.ndarray) -> None:
    """Set what batch normalisation subtracts and divides by, as training would.

    In a deep network with other statistics outputs grow, and rounding errors with them.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(pixels, training=True)


def list_torch_networks() -> Iterator[tuple[str, Callable[[], Any], int, Any]]:
    """List name, function that builds it, side of the input, mean and deviation."""
    import timm
    import torchvision

    for name in _TORCHVISION:
        yield f"torchvision-{name}", getattr(torchvision.models, name), 224, _IMAGENET
    for name in _TIMM:
        build = functools.partial(timm.create_model, name)
        yield f"timm-{name}", build, 224, _IMAGENET
    for name, width, size_px in (
        *(("timm-vits14-224", "small", 224), ("timm-vits14-518", "small", 518)),
        *(("timm-vitb14-224", "base", 224), ("meta-vits14-224", "small", 224)),
    ):
        transformer = f"vit_{width}_patch14_dinov2"
        build = functools.partial(timm.create_model, transformer, img_size=size_px)
        yield name, build, size_px, _IMAGENET
    if importlib.util.find_spec("efficientnet_lite_pytorch"):
        from efficientnet_lite_pytorch import EfficientNet

        for number, size_px in enumerate((224, 240, 260)):
            name = f"efficientnet-lite{number}"
            build = functools.partial(EfficientNet.from_name, name)
            yield name, build, size_px, _LITE


def write_torch(folder: str, target: str, *names: str) -> None:
    """Write a state dict of random weights, photos and outputs for each network."""
    import torch
    from PIL import Image, ImageOps

    Path(target).mkdir(parents=True, exist_ok=True)
    paths = sorted(Path(folder).rglob("*.jpg"))
    paths = paths[:: max(1, len(paths) // 8)][:8]
    for name, build, size_px, (mean, deviation) in list_torch_networks():
        if names and name not in names:
            continue
        photos = [Image.open(path).convert("RGB") for path in paths]
        images = np.stack([ImageOps.fit(photo, (size_px, size_px)) for photo in photos])
        network = build().eval()
        weights = randomize_torch(network, has_other_grid=name.startswith("meta"))
        pixels = (images / 255 - np.array(mean)) / np.array(deviation)
        with torch.no_grad():
            x = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
            outputs = network(x).numpy()
        torch.save(weights, Path(target) / f"{name}.pth")
        np.savez(Path(target) / f"{name}.npz", images=images, outputs=outputs)
        spread = outputs.std(axis=0).mean() / np.abs(outputs).max()
        print(f"{name}: outputs differ by {spread:.1%} among the photos", flush=True)


def randomize_torch(network: Any, *, has_other_grid: bool) -> dict[str, Any]:
    """Draw weights and statistics of a network; return the content of its file.

    With `has_other_grid`, the file has the position embeddings of 37 x 37 patches, and
    the network those of 16 x 16 that Meta's code makes of them.
    """
    import torch

    random = torch.Generator().manual_seed(2)
    weights = network.state_dict()
    for name, tensor in weights.items():
        drawn = torch.randn(tensor.shape, generator=random)
        if "token" in name or "pos_embed" in name or name.endswith(("bias", "_mean")):
            drawn = drawn / 2
        elif tensor.ndim < 2 or "layer_scale" in name:
            drawn = 1 + drawn.clip(-3, 3) / 4
        else:
            drawn = drawn * (2 / tensor[0].numel()) ** 0.5
        if tensor.is_floating_point():
            tensor.copy_(drawn)
    if not has_other_grid:
        return dict(weights)
    channels = weights["pos_embed"].shape[-1]
    table = torch.randn((1, 1 + 37 * 37, channels), generator=random)
    grid = table[:, 1:].reshape(1, 37, 37, channels).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(
        grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic"
    )
    rows = grid.permute(0, 2, 3, 1).reshape(1, 16 * 16, channels)
    weights["pos_embed"].copy_(torch.cat([table[:, :1], rows], dim=1))
    return {**weights, "pos_embed": table, "mask_token": torch.zeros(1, channels)}


def compare_restored(source: str) -> None:
    """Print the largest difference for each file that `write_torch` wrote."""
    import measure  # noqa: F401 - makes Graft's modules importable

    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    from model.checkpoints import reading
    from model.weights import model_variables, restore, weight_settings

    for path in sorted(Path(source).glob("*.pth")):
        arrays = np.load(path.with_suffix(".npz"))
        images, expected = arrays["images"].astype(np.float32), arrays["outputs"]
        size = weight_settings.Overrides(image_size=images.shape[1])
        restored = restore.restore_checkpoint(reading.read(path), overrides=size)
        network = restored.network
        last = network.positions()[-1]
        restored.require(last, for_evaluation=True)
        model = network.build(restored.spec, last=last)
        model_variables.assign(model, restored.values)
        difference = np.abs(np.asarray(model(images)) - expected).max()
        print(
            f"{path.stem} as {network.name} ({restored.naming.source}): {last} "
            f"{difference / np.abs(expected).max():.1e}",
            flush=True,
        )


if __name__ == "__main__":
    commands = {
        "keras": compare_keras,
        "torch": write_torch,
        "restored": compare_restored,
    }
    commands[sys.argv[1]](*sys.argv[2:])
