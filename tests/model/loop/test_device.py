import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from model.loop import device
from tests.support import files

without_gpu = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="about machines without a GPU"
)


def run_program(program):
    """Run it in a process of its own: settings hold for the rest of a process."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=files.ROOT,
        env={k: v for k, v in os.environ.items() if "GPU" not in k},
    )


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
def test_auto_depends_on_the_processors_instructions(
    tmp_path, monkeypatch, flags, expected
):
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor\t: 0\nmodel name\t: Fast: 9000\n"
        f"flags\t\t: {flags}\nbugs\t\t: avx512_bf16\n\n"
        "processor\t: 1\nflags\t\t: amx_bf16\n"
    )
    monkeypatch.setattr(device, "CPU_INFO", path)
    assert device.choose_precision("auto") == expected


@without_gpu
def test_auto_is_float32_on_an_unknown_processor(tmp_path, monkeypatch):
    """On systems without /proc, and on processors that call their flags otherwise."""
    monkeypatch.setattr(device, "CPU_INFO", tmp_path / "nothing")
    assert device.choose_precision("auto") == "float32"


@pytest.mark.parametrize(
    ("precision", "trained"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")],
)
def test_layers_compute_in_the_requested_precision(precision, trained):
    """What trains computes in float32 instead of float16; variables are float32."""
    chosen = device.choose_precision(precision)
    setup = device.ComputeSetup(precision=chosen, cache_dir=Path())
    policies = [
        keras.dtype_policies.DTypePolicy(name)
        for name in (setup.frozen_policy, setup.trained_policy)
    ]
    assert [policy.compute_dtype for policy in policies] == [precision, trained]
    assert {policy.variable_dtype for policy in policies} == {"float32"}


@without_gpu
def test_set_up_names_the_processor_and_makes_runs_repeatable():
    done = run_program(
        "from pathlib import Path\n"
        "from model.loop import device\n"
        "print(device.set_up('auto', Path()).device_name)\n"
        "import tensorflow as tf\n"
        "print(tf.random.uniform([]))\n"
    )
    assert done.stdout.startswith("CPU (")
    # TensorFlow refuses random numbers without a seed from then on.
    assert done.returncode == 1
    assert "when determinism is enabled" in done.stderr


def test_commands_share_a_gpu_and_compute_in_full_float32():
    done = run_program(
        "import os\n"
        "import pipeline.system.tensorflow_import\n"
        "import tensorflow as tf\n"
        "print(tf.config.experimental.tensor_float_32_execution_enabled())\n"
        "print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])\n"
    )
    assert done.stdout.split() == ["False", "true"], done.stderr
