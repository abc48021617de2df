"""Choose what a training computes with: devices, numeric precision, processes."""

import dataclasses
from pathlib import Path

import tensorflow as tf

from model.loop import distributed

# Linux lists the processor's name and instructions there.
CPU_INFO = Path("/proc/cpuinfo")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Keras dtype policies: layers compute in the precision, variables stay float32.
_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeSetup:
    """What a training computes with.

    Attributes:
        precision: "float32", "bfloat16" or "float16".
        cache_dir: Folder of all feature caches.
        device_name: Names of the GPUs, or of the processor.
        process_group: Processes and devices that share each batch.
    """

    precision: str
    cache_dir: Path
    device_name: str = ""
    process_group: distributed.ProcessGroup = distributed.SINGLE_PROCESS

    @property
    def frozen_policy(self) -> str:
        """Keras dtype policy of the frozen layers."""
        return _POLICIES[self.precision]

    @property
    def trained_policy(self) -> str:
        """Keras dtype policy of the layers that train.

        Gradients vanish in float16, so there these layers compute in float32.
        """
        return "float32" if self.precision == "float16" else self.frozen_policy


def set_up(precision: str, cache_dir: Path) -> ComputeSetup:
    """Prepare TensorFlow for a training with repeatable results.

    Must be called before TensorFlow computes anything.

    Args:
        precision: One of PRECISIONS.
        cache_dir: Folder of all feature caches.

    Raises:
        DataError: TF_CONFIG cannot be understood.
    """
    name = prepare()
    group = distributed.ProcessGroup.from_environment()
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    return ComputeSetup(
        precision=choose_precision(precision),
        cache_dir=cache_dir,
        device_name=name,
        process_group=group.on_gpus(gpus),
    )


def prepare() -> str:
    """Make TensorFlow's results repeatable and return the names of the devices."""
    tf.config.experimental.enable_op_determinism()
    if gpus := tf.config.list_physical_devices("GPU"):
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return ", ".join(str(d.get("device_name", "GPU")) for d in details)
    return f"CPU ({_cpu_name()})"


def choose_precision(requested: str) -> str:
    """Return the precision to compute in.

    For "auto" it is bfloat16 where the processor has instructions for it (AlexNet ran
    1.7 times as fast) or the GPU has compute capability 8 or later; float16 on GPUs of
    capability 7; else float32.

    Raises:
        ValueError: `requested` is not in PRECISIONS.
    """
    if requested not in PRECISIONS:
        raise ValueError(
            f"precision {requested!r}: expected one of {', '.join(PRECISIONS)}"
        )
    if requested != "auto":
        return requested
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        major = details.get("compute_capability", (0, 0))[0]
        return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "float32"


def _cpu_lines() -> list[str]:
    if not CPU_INFO.exists():
        return []
    return CPU_INFO.read_text(encoding="utf-8").splitlines()


def _cpu_flags() -> set[str]:
    for line in _cpu_lines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()


def _cpu_name() -> str:
    for line in _cpu_lines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"
