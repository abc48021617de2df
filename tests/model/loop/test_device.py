import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from model.loop import device

without_gpu = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="about machines without a GPU"
)
PREPARE = """
from model.loop import device
print(device.prepare())
import tensorflow as tf
print(tf.random.uniform([]))
"""


@pytest.fixture
def cpu_info(tmp_path, monkeypatch):
    """Puts a text in the place of /proc/cpuinfo."""

    def write(text):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        monkeypatch.setattr(device, "CPU_INFO", path)

    return write


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_requested_precision_is_used(precision):
    assert device.choose_precision(precision) == precision


@pytest.mark.parametrize("precision", ["float64", "", "mixed_bfloat16", "AUTO"])
def test_unknown_precision_is_named_with_the_known_ones(precision):
    with pytest.raises(
        ValueError,
        match=f"precision '{precision}': expected one of auto, float32, bfloat16, "
        "float16$",
    ):
        device.choose_precision(precision)


@without_gpu
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse avx512f avx512_bf16 amx_tile", "bfloat16"),
        ("fpu amx_bf16", "bfloat16"),
        ("fpu sse avx2 avx512f avx512_vnni", "float32"),
        ("fpu avx512_bf16_not", "float32"),
        ("", "float32"),
    ],
)
def test_auto_depends_on_the_processors_instructions(cpu_info, flags, expected):
    cpu_info(
        "processor\t: 0\nmodel name\t: Fast: 9000\n"
        f"flags\t\t: {flags}\nbugs\t\t: avx512_bf16\n\n"
        "processor\t: 1\nflags\t\t: amx_bf16\n"
    )
    assert device.choose_precision("auto") == expected


@without_gpu
def test_auto_is_float32_on_an_unknown_processor(tmp_path, monkeypatch):
    """On systems without /proc, and on processors that call their flags otherwise."""
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "nothing")
    assert device.choose_precision("auto") == "float32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_frozen_layers_compute_in_the_precision_with_float32_variables(precision):
    setup = device.ComputeSetup(precision=precision, cache_dir=Path())
    policy = keras.dtype_policies.DTypePolicy(setup.frozen_policy)
    assert policy.compute_dtype == precision
    assert policy.variable_dtype == "float32"


def test_what_trains_computes_in_float32_instead_of_float16():
    policies = {
        precision: device.ComputeSetup(
            precision=precision, cache_dir=Path()
        ).trained_policy
        for precision in ("float32", "bfloat16", "float16")
    }
    assert policies == {
        "float32": "float32",
        "bfloat16": "mixed_bfloat16",
        "float16": "float32",
    }


@without_gpu
def test_prepare_names_the_processor_and_makes_runs_repeatable():
    """In a process of its own: it holds for the rest of the process."""
    asked = subprocess.run(
        [sys.executable, "-c", PREPARE],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert asked.stdout.startswith("CPU (")
    # TensorFlow refuses random numbers without a seed from then on.
    assert asked.returncode == 1
    assert "when determinism is enabled" in asked.stderr


def test_commands_share_a_gpu_and_compute_in_full_float32():
    """In a process of its own: this one's settings are of conftest.py too."""
    program = (
        "import os\n"
        "import pipeline.system.tensorflow_import\n"
        "import tensorflow as tf\n"
        "print(tf.config.experimental.tensor_float_32_execution_enabled())\n"
        "print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if "GPU" not in k}
    asked = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env=environment,
    )
    assert asked.stdout.split() == ["False", "true"]
