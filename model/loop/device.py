"""Choose what a training computes with: devices, numeric precision, processes."""

import dataclasses
from pathlib import Path

import tensorflow as tf

from model.loop import distributed

# Linux lists the processor's name and instructions there.
CPU_INFO = Path("/proc/cpuinfo")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeSetup:
    """What a training computes with.

    Attributes:
        precision: "float32", "bfloat16" or "float16".
        cache_dir: Folder of all feature caches.
        device_name: Names of the GPUs, or of the processor.
    """

    precision: str
    cache_dir: Path
    device_name: str = ""
    process_group: distributed.ProcessGroup = distributed.SINGLE_PROCESS

    @property
    def frozen_policy(self) -> str:
        """Keras dtype policy of the frozen layers, whose variables stay float32."""
        return "float32" if self.precision == "float32" else f"mixed_{self.precision}"

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
    """
    tf.config.experimental.enable_op_determinism()
    device_name = f"CPU ({_cpu_entry('model name') or 'unknown'})"
    if physical := tf.config.list_physical_devices("GPU"):
        details = map(tf.config.experimental.get_device_details, physical)
        device_name = ", ".join(str(d.get("device_name", "GPU")) for d in details)
    group = distributed.ProcessGroup.from_environment()
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    return ComputeSetup(
        precision=choose_precision(precision),
        cache_dir=cache_dir,
        device_name=device_name,
        process_group=group.on_gpus(gpus),
    )


def choose_precision(requested: str) -> str:
    """Return the precision to compute in, for one of PRECISIONS.

    For "auto" it is bfloat16 where the processor has instructions for it (AlexNet ran
    1.7 times as fast) or the GPU has compute capability 8 or later; float16 on GPUs of
    capability 7; else float32.
    """
    if requested != "auto":
        return requested
    if gpus := tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        major = details.get("compute_capability", (0, 0))[0]
        return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    flags = set(_cpu_entry("flags").split())
    return "bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"


def _cpu_entry(name: str) -> str:
    """Return what Linux says of the first processor; "" if it does not say it."""
    lines = CPU_INFO.read_text("utf-8").splitlines() if CPU_INFO.exists() else []
    entries = (line.partition(":")[2] for line in lines if line.startswith(name))
    return next(entries, "").strip()
