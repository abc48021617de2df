"""What computes, and in which precision."""

from pathlib import Path

import tensorflow as tf

# Tells the processor's name and instructions, on Linux.
CPU_INFO = Path("/proc/cpuinfo")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Keras dtype policies: variables stay float32, the layers compute in this.
_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


def prepare() -> str:
    """Makes runs repeatable; returns the device in words."""
    tf.config.experimental.enable_op_determinism()
    if gpus := tf.config.list_physical_devices("GPU"):
        names = [tf.config.experimental.get_device_details(g) for g in gpus]
        return ", ".join(str(n.get("device_name", "GPU")) for n in names)
    return f"CPU ({_cpu_name()})"


def gpus() -> tuple[str, ...]:
    """Names of the GPUs, as tf.device takes them."""
    return tuple(gpu.name for gpu in tf.config.list_logical_devices("GPU"))


def choose_precision(wanted: str) -> str:
    """Resolves "auto" to what this machine computes fast.

    bfloat16 where the processor has instructions for it (AlexNet ran 1.7 times as fast)
    or the GPU is of compute capability 8 or later; float16 on 7; else float32.

    Raises:
        ValueError: `wanted` is none of PRECISIONS.
    """
    if wanted not in PRECISIONS:
        raise ValueError(
            f"precision {wanted!r}: expected one of {', '.join(PRECISIONS)}"
        )
    if wanted != "auto":
        return wanted
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        major = details.get("compute_capability", (0, 0))[0]
        return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    return "bfloat16" if {"avx512_bf16", "amx_bf16"} & _cpu_flags() else "float32"


def policy(precision: str) -> str:
    """The Keras dtype policy of a precision."""
    return _POLICIES[precision]


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
