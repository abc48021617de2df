"""Who may import whom: downstream imports upstream only."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path
    for path in (
        *(ROOT / "pipeline").rglob("*.py"),
        *(ROOT / "model").rglob("*.py"),
        ROOT / "train.py",
        ROOT / "evaluate.py",
    )
)


def imports(path):
    """Top-level names that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def users_of(*wanted):
    return {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if any(name.split(".")[0] in wanted for name in imports(path))
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_direction(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & {"train", "evaluate", "tests", "benchmarks"}
    if path.relative_to(ROOT).parts[0] == "pipeline":
        assert "model" not in tops


def test_opencv_decodes_in_one_place():
    # The second one only draws.
    assert users_of("cv2") == {
        "pipeline/images/record_image.py",
        "pipeline/download/paper_flowers.py",
    }


def test_pickles_are_read_in_one_place():
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if re.search(
            r"(?<!un)pickle\.(load|Unpickler)|allow_pickle=True",
            path.read_text(encoding="utf-8"),
        )
    }
    assert readers == {"model/checkpoints/unpickle.py"}


def test_flags_are_read_by_commands_alone():
    commands = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    using = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if "absl.flags" in imports(path)
    }
    # inspect has no flags, nor replay, which export starts; those of train.py are made
    # of settings, and answers and pretrained declare what several commands have.
    shared = {
        "pipeline/system/command_line.py",
        "pipeline/system/config_flags.py",
        "model/training/settings.py",
    }
    shared |= {
        "model/predict/output_formats.py",
        "model/weights/pretrained_classifier.py",
    }
    assert using - shared == commands - {
        "model/inspect.py",
        "model/export/replay.py",
    }


def test_conversion_starts_without_tensorflow():
    """TensorFlow takes seconds to import, and conversion does not need it."""
    modules = ("convert", "check", "split", "download", "verify", "beam", "storage")
    program = "; ".join(f"import pipeline.{module}" for module in modules)
    program += "; import sys; assert not {'tensorflow', 'keras'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_every_module_says_what_it_does():
    for path in MODULES:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert text, path


def test_no_network_name_is_left_out_of_the_tables():
    from model.networks import registry
    from model.weights import layer_names

    # This one is met by layer names alone.
    assert {n.network for n in layer_names.NAMINGS} == {*registry.NETWORKS} - {
        "cifar_cnn_avg"
    }
    assert all(name == found.name for name, found in registry.NETWORKS.items())


def test_tensorflow_comes_quietly_and_alone():
    """And what was kept out of its import can still be imported afterwards."""
    program = (
        "import sys, pipeline.system.tensorflow_import\n"
        "assert 'keras' in sys.modules\n"
        "assert not {'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "import matplotlib.figure\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
