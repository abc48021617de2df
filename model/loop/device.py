"""Choose what a training computes with: devices, numeric precision, processes."""

import dataclasses
import json
import timeit
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model.loop import distributed
from model.networks import fast_graphs
from model.networks.architecture import Network
from pipeline.batches.input_spec import InputSpec
from pipeline.system import command_line, file_system
from pipeline.system.errors import DataError

# Linux lists the processor's name and instructions there.
CPU_INFO = Path("/proc/cpuinfo")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# File in the cache folder: {network and processor: its fastest precision}.
TABLE_NAME = "fastest_precision.json"
# Networks that are faster in bfloat16 on every processor with instructions for it.
_FASTER_IN_BFLOAT16 = ("alexnet", "alexnet_owt")
# bfloat16, which is less exact, is chosen only if it is this many times as fast.
_LEAST_GAIN = 1.1
_TIMED_PHOTOS, _TIMED_ROUNDS = 16, 3
_measured: dict[str, str] = {}  # here, in case the file cannot be written


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeSetup:
    """What a training computes with."""

    precision: str  # "float32", "bfloat16" or "float16"
    cache_dir: Path  # of all feature caches
    device_name: str = ""  # names of the GPUs, or of the processor
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
    """Prepare TensorFlow for a training with repeatable results, before it computes."""
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
    capability 7; else float32. `choose_for_network` then looks at the network.
    """
    if requested != "auto":
        return requested
    if gpus := tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpus[0])
        major = details.get("compute_capability", (0, 0))[0]
        return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    flags = set(_cpu_entry("flags").split())
    return "bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"


def choose_for_network(
    setup: ComputeSetup, requested: str, network: Network, spec: InputSpec, last: str
) -> ComputeSetup:
    """Return the setup that suits a network, the same in all processes.

    Not every network is faster with a processor's instructions for bfloat16. "auto"
    therefore times a network on such a processor once, up to the layer `last`, and
    keeps the answer in the user's cache folder. `requested` is one of PRECISIONS.
    """
    precision = setup.precision
    on_cpu = not tf.config.list_physical_devices("GPU")
    is_undecided = requested == "auto" and on_cpu and precision != "float32"
    if is_undecided and network.name not in _FASTER_IN_BFLOAT16:
        precision = _fastest_on_cpu(network, spec, last)
    own = np.array(PRECISIONS.index(precision), np.float32)
    number = int(setup.process_group.of_chief(own))
    return dataclasses.replace(setup, precision=PRECISIONS[number])


def _fastest_on_cpu(network: Network, spec: InputSpec, last: str) -> str:
    """Return "float32" or "bfloat16", from the table or by measuring."""
    shapes = zlib.crc32(repr(network.variable_shapes(spec)).encode())
    key = (
        f"{network.name} {shapes:08x} to {last}, {spec.size_px} px; "
        f"{_cpu_entry('model name')}; TensorFlow {tf.__version__}"
    )
    path = file_system.cache_folder() / TABLE_NAME
    table = _read_table(path) | _measured
    if table.get(key) not in ("float32", "bfloat16"):
        exact, narrow = _seconds_in_each(network, spec, last)
        _measured[key] = "bfloat16" if exact > _LEAST_GAIN * narrow else "float32"
        place = f"kept in {path}"
        try:
            file_system.make_inside(path.parent.parent, path.parent.name)
            with file_system.replacing(path) as partial:
                partial.write_text(json.dumps(table | _measured, indent=2) + "\n")
        except (OSError, DataError):
            place = f"used this time only, because {path} cannot be written"
        command_line.log(
            f"precision: {network.name} computes {_TIMED_PHOTOS / exact:,.0f} photos/s "
            f"in float32 and {_TIMED_PHOTOS / narrow:,.0f} in bfloat16 on this "
            f"processor; {_measured[key]} is {place}. --precision overrides it"
        )
    return (table | _measured)[key]


def _read_table(path: Path) -> dict[str, Any]:
    """Return a table of precisions; {} for a file that is missing or damaged."""
    try:
        text = file_system.regular(path, file_system.MAX_TEXT_BYTES).read_text("utf-8")
        return dict(json.loads(text))
    except (OSError, DataError, ValueError, TypeError):
        return {}


def _seconds_in_each(
    network: Network, spec: InputSpec, last: str
) -> tuple[float, float]:
    """Return the shortest seconds of a forward pass in float32 and in bfloat16."""
    shape = (_TIMED_PHOTOS, spec.size_px, spec.size_px, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    steps = [
        fast_graphs.for_any_batch(
            fast_graphs.folded(network.build(spec, last=last, dtype=dtype))
        )
        for dtype in ("float32", "mixed_bfloat16")
    ]

    def seconds(step: Any) -> float:
        return timeit.timeit(lambda: step(images).numpy(), number=1)

    rounds = [list(map(seconds, steps)) for _ in range(1 + _TIMED_ROUNDS)]
    exact, narrow = np.min(rounds[1:], axis=0).tolist()  # the first one traces
    return exact, narrow


def _cpu_entry(name: str) -> str:
    """Return what Linux says of the first processor; "" if it does not say it."""
    lines = CPU_INFO.read_text("utf-8").splitlines() if CPU_INFO.exists() else []
    entries = (line.partition(":")[2] for line in lines if line.startswith(name))
    return next(entries, "").strip()
