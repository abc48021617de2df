"""Show what a weight file holds, and which networks it fits.

    python -m model.inspect alexnet.pth
    python -m model.inspect efficientnet_lite0

Reads the file as plain data; nothing in it is executed.
"""

import pipeline.start  # noqa: F401 # isort: skip
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from model.checkpoints import caffemodel, errors, reading
from model.checkpoints.checkpoint import Checkpoint
from pipeline.system import command_line, config_flags


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of an inspection."""

    file: str = config_flags.argument(
        "FILE",
        "Weight file, TensorFlow checkpoint, mean file, or a name of weights, which "
        "are downloaded once.",
    )


def report(path: Path, checkpoint: Checkpoint) -> str:
    """Return what a weight file holds, as text."""
    tensors = checkpoint.tensors
    numbers = sum(tensor.size for tensor in tensors.values())
    lines = [
        f"{path}",
        f"format: {checkpoint.format}",
        "safe: read as plain data; nothing in it was executed",
        f"tensors: {len(tensors)}, {numbers:,} numbers",
        *(
            f"{_short(key)}: {_short(text)}"
            for key, text in checkpoint.metadata.items()
        ),
    ]
    if checkpoint.layers:
        listed = ", ".join(map(" ".join, checkpoint.layers))
        lines.append(f"layers: {_short(listed)}")
    if checkpoint.ignored_entries:
        names = _short(", ".join(checkpoint.ignored_entries))
        lines.append(f"ignored, because they are not weights: {names}")
    lines += ["", *_tensor_table(tensors)]
    return "\n".join(lines)


def report_fittings(checkpoint: Checkpoint) -> str:
    """Return the networks that a file fits, the most complete one first, as text."""
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split

    # These import Keras: the tensors are shown before.
    from model.weights import identify_network, restore, weight_settings

    candidates = identify_network.find_candidates(checkpoint)
    lines: dict[str, tuple[float, str, Any]] = {}
    for match in candidates.matches:
        if match.num_kernels and match.network.name not in lines:
            restored = restore.restore_match(match)
            lines[match.network.name] = (*_describe(match, restored), restored)
    ranked = sorted(lines.values(), key=lambda line: -line[0])
    texts = [text for _, text, _ in ranked] or ["fits no network that Graft knows"]
    if ranked and (best := ranked[0][2]).possible_positions():
        warnings = weight_settings.preprocessing_warnings(best.spec)
        texts += [f"warning: {line}" for line in warnings] or [
            f"preprocessing: {best.spec.describe_pixels()}"
        ]
    return "\n".join([*texts, *filter(None, [candidates.why_not])])


def _describe(match: Any, restored: Any) -> tuple[float, str]:
    """Return the share of the variables that a file has, and a line about it."""
    name, statuses = match.network.name, [e.status for e in restored.entries]
    num_restored, num_unused = map(statuses.count, ("restored", "unused"))
    num_variables = sum(map(len, restored.shapes.values()))
    line = (
        f"fits {name} (naming: {match.naming.source}): {num_restored} of "
        f"{num_variables} variables"
    )
    line += f", {num_unused} of the tensors unused; " if num_unused else "; "
    positions = restored.possible_features() or restored.possible_positions()
    if unexplained := match.naming.unexplained_layers(
        match.checkpoint, restored.shapes
    ):
        line += (
            f"but {unexplained[0]} shows that it belongs to another network; "
            f"--arch={name} uses what fits"
        )
    elif positions:
        line += f"a new head may sit on {positions[-1]}"
    else:
        line += "its first layers are missing, so a new head cannot use it"
    return num_restored / num_variables, line


def report_mean(path: Path) -> str:
    """Return a description of a Caffe mean image; "" for other files."""
    try:
        values = caffemodel.read_mean(path)
    except errors.CheckpointError:
        return ""
    size = " x ".join(map(str, values.shape[:-1])) or "one value"
    levels = ", ".join(
        f"{level:.4g}" for level in values.reshape(-1, 3).mean(axis=0, dtype=np.float64)
    )
    return (
        f"{path}\nformat: mean image, {size}\n"
        f"mean of each channel, in the file's order: {levels}\n"
        "It holds no weights. Pass it to --mean, with weights that have the same "
        "channel order."
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _tensor_table(tensors: dict[str, np.ndarray]) -> list[str]:
    rows = []
    for name, tensor in tensors.items():
        mean = std = "-"
        is_number = tensor.dtype.kind in "iuf" or tensor.dtype == ml_dtypes.bfloat16
        if tensor.size and is_number:
            with np.errstate(all="ignore"):  # numbers that are not finite are shown
                mean = f"{tensor.mean(dtype=np.float64):.4g}"
                std = f"{tensor.std(dtype=np.float64):.4g}"
        rows.append((_short(name), list(tensor.shape), tensor.dtype, mean, std))
    return command_line.table(("tensor", "shape", "dtype", "mean", "std"), rows, left=3)


def main(typed: dict[str, Any]) -> None:
    """Inspect the file named on the command line."""
    config = config_flags.build(Config, typed)
    path = Path(config.file)
    if re.fullmatch(r"\w+", config.file) and not path.exists():
        import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
        from model.weights import named_weights, weight_sources

        if config.file in weight_sources.NAMES:
            path = named_weights.resolve(config.file).path
    try:
        checkpoint = reading.read(path)
    except errors.UnknownFormat:
        if not (other := report_mean(path)):
            raise
        command_line.say(other)
        return
    command_line.say(report(path, checkpoint))
    sys.stdout.flush()
    command_line.say(f"\n{report_fittings(checkpoint)}")


if __name__ == "__main__":
    command_line.run(main, Config)
