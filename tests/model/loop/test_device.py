import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from model.loop import device
from model.networks import registry
from pipeline.system import file_system
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


def test_commands_share_a_gpu_and_compute_in_full_float32_repeatably():
    done = run_program(
        "import os\n"
        "from pathlib import Path\n"
        "import pipeline.system.tensorflow_import\n"
        "import tensorflow as tf\n"
        "from model.loop import device\n"
        "print(tf.config.experimental.tensor_float_32_execution_enabled())\n"
        "print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'])\n"
        "print(device.set_up('auto', Path()).device_name)\n"
        "print(tf.random.uniform([]))\n"
    )
    precise, shared, name = done.stdout.splitlines()
    assert (precise, shared) == ("False", "true"), done.stderr
    assert name.startswith("CPU (") or tf.config.list_physical_devices("GPU")
    # TensorFlow refuses random numbers without a seed from then on.
    assert done.returncode == 1
    assert "when determinism is enabled" in done.stderr


def test_tests_have_a_cache_of_their_own():
    assert file_system.cache_folder().parent.name.startswith("graft-tests-")


@pytest.fixture
def bfloat16_processor(tmp_path, monkeypatch):
    """A processor with bfloat16, a cache folder of its own, and nothing measured."""
    path = tmp_path / "cpuinfo"
    path.write_text("model name\t: Fast 9000\nflags\t\t: avx512_bf16\n")
    monkeypatch.setattr(device, "CPU_INFO", path)
    monkeypatch.setattr(device, "_measured", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def choose(name="cifar10_quick", requested="auto"):
    network = registry.by_name(name)
    precision = device.choose_precision(requested)
    setup = device.ComputeSetup(precision=precision, cache_dir=Path())
    last = network.features[-1]
    spec = network.input_spec
    return device.choose_for_network(setup, requested, network, spec, last).precision


@without_gpu
@pytest.mark.usefixtures("bfloat16_processor")
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [((1.0, 0.8), "bfloat16"), ((1.0, 0.95), "float32"), ((1.0, 1.4), "float32")],
)
def test_a_network_is_timed_once_and_the_answer_kept(seconds, expected, monkeypatch):
    monkeypatch.setattr(device, "_seconds_in_each", lambda *_: seconds)
    assert choose() == expected
    monkeypatch.setattr(device, "_measured", {})  # another process
    monkeypatch.setattr(device, "_seconds_in_each", None)
    assert choose() == expected
    assert choose("alexnet_owt") == "bfloat16"  # known
    for requested in device.PRECISIONS[1:]:
        assert choose(requested=requested) == requested


@without_gpu
@pytest.mark.usefixtures("bfloat16_processor")
@pytest.mark.parametrize(
    "damage", [b"{", b"[1]", b"\xff", b'{"other": 1}', "a folder", "no folder"]
)
def test_a_table_that_cannot_be_used_is_measured_again(damage, monkeypatch, capsys):
    if damage != b"{":  # once in earnest
        monkeypatch.setattr(device, "_seconds_in_each", lambda *_: (1.0, 0.5))
    path = file_system.cache_folder() / device.TABLE_NAME
    if damage == "no folder":  # and none can be made
        path.parent.parent.write_text("a file")
    elif damage == "a folder":
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True)
        path.write_bytes(damage)
    assert choose() in ("float32", "bfloat16")
    said = capsys.readouterr().err
    assert "cifar10_quick computes" in said
    assert ("is kept in" in said) == isinstance(damage, bytes)
    monkeypatch.setattr(device, "_seconds_in_each", None)
    choose()  # the same process does not measure again
    if isinstance(damage, bytes):
        assert len(json.loads(path.read_text())) == 1 + (b"other" in damage)
