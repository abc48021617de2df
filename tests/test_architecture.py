"""Keep the house in order: who imports whom, and how large rooms and modules are.

A room is a folder of `pipeline/` or `model/`, or a module that stands there alone. It
imports rooms of lower ranks, whether at the top of a module or inside a function.
"""

import ast
import collections
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path
    for path in (
        *(ROOT / "pipeline").rglob("*.py"),
        *(ROOT / "model").rglob("*.py"),
        *(ROOT / "graft").rglob("*.py"),
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


# The way of a photo, from its bytes to an answer; rooms in one line do not know each
# other.
RANKS = (
    ("start",),
    ("system",),
    ("records",),
    ("sources",),
    ("images",),
    ("grouping",),
    ("review",),
    ("batches",),
    ("convert", "split", "check", "download"),
    ("checkpoints",),
    ("networks",),
    ("weights",),
    ("loop",),
    ("runs",),
    ("evaluation",),
    ("training",),
    ("reports", "predict"),
    ("export",),
    ("serve",),
    ("train", "evaluate", "inspect"),
    ("graft",),
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
MAX_ENTRIES = 12  # of a folder, __init__.py not counted
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
# What is larger still. These lists only shrink.
LARGE_FILES: set[str] = set()
LARGE_FUNCTIONS: set[str] = set()


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def room_of(module):
    """Room of a dotted module name; "" of what is no module of ours."""
    top, *rest = module.split(".")
    if top in ("train", "evaluate", "graft"):
        return top
    return rest[0] if top in ("pipeline", "model") and rest else ""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_its_own_room_and_lower_ones_alone(path):
    tops = {name.split(".")[0] for name in imports(path)}
    commands = set() if path.parent.name == "graft" else {"train", "evaluate", "graft"}
    assert not tops & {*commands, "tests", "benchmarks"}
    if path.relative_to(ROOT).parts[0] == "pipeline":
        assert "model" not in tops
    own = room_of(name_of(path).removesuffix(".py").replace("/", "."))
    if own == "__init__":
        return
    for name in imports(path):
        room = room_of(name)
        if room and room != own:
            assert RANK[room] < RANK[own], f"{name_of(path)} imports {name}"


def test_every_room_has_a_rank():
    rooms = {
        room_of(name_of(path).removesuffix(".py").replace("/", ".")) for path in MODULES
    }
    assert rooms - {"__init__"} == RANK.keys()


def test_a_folder_can_be_taken_in_at_a_glance():
    assets = {"__pycache__", "templates", "page"}
    tops = (ROOT / "pipeline", ROOT / "model")
    folders = [*tops, *(p for top in tops for p in top.rglob("*") if p.is_dir())]
    large = {
        name_of(folder)
        for folder in folders
        if folder.name not in assets
        and sum(
            path.name not in ("__pycache__", "__init__.py") for path in folder.iterdir()
        )
        > MAX_ENTRIES
    }
    assert not large


def test_a_module_is_read_in_one_sitting():
    large = {
        name_of(path)
        for path in MODULES
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_FILE_LINES
    }
    assert large <= LARGE_FILES


def test_a_function_fits_a_screen():
    large = {
        f"{name_of(path)} {node.name}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert large <= LARGE_FUNCTIONS


def test_no_two_modules_have_one_name():
    stems = collections.Counter(path.stem for path in MODULES)
    shared = {stem for stem, count in stems.items() if count > 1}
    assert shared <= {"__init__", "__main__", "errors"}


def test_opencv_decodes_in_one_place():
    # The first decodes photos, the second videos, and the third only draws.
    assert users_of("cv2") == {
        "pipeline/images/opencv.py",
        "pipeline/images/video_frames.py",
        "pipeline/download/paper_flowers.py",
    }


def test_pillow_decodes_in_one_place():
    assert users_of("PIL", "pi_heif") == {"pipeline/images/photo_pixels.py"}


def test_pickles_are_read_in_one_place():
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        if re.search(
            r"(?<!un)pickle\.(load|_?Unpickler)|allow_pickle=True",
            path.read_text(encoding="utf-8"),
        )
    }
    assert readers == {"model/checkpoints/pickles/unpickle.py"}


# Names of distributions that are not those of the modules they bring.
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "google": "protobuf",
}
# Libraries that other libraries import for us: runners of Beam, stores of fsspec.
INDIRECT = {"dask", "gcsfs", "s3fs"}


def test_what_is_imported_is_declared_and_nothing_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *itertools.chain(*extras)]
    declared = {re.split(r"[\[>=<]", text)[0] for text in requirements}
    ours = {"pipeline", "model", "graft", "train", "evaluate", "_typeshed"}
    modules = {name.split(".")[0] for path in MODULES for name in imports(path)}
    imported = {
        DISTRIBUTIONS.get(name, name.replace("_", "-"))
        for name in modules - ours - sys.stdlib_module_names
    }
    assert imported == declared - INDIRECT


def test_conversion_starts_without_tensorflow():
    """TensorFlow takes seconds to import, and conversion does not need it."""
    modules = (
        "convert.conversion",
        "check.checking",
        "split",
        "download.url_list",
        "images.decode_with_beam",
    )
    program = "; ".join(f"import pipeline.{module}" for module in modules)
    program += "; import sys; assert not {'tensorflow', 'keras'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_every_module_says_what_it_does():
    for path in MODULES:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert text, path


def test_no_network_name_is_left_out_of_the_tables():
    from model.networks import applications, registry
    from model.weights import naming_conventions

    # These are met by layer names alone.
    by_name = {"cifar_cnn_avg", *applications.MODELS}
    known = {n.network for n in naming_conventions.NAMINGS}
    assert known == {*registry.NETWORKS} - by_name
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


def test_the_map_of_the_code_follows_the_docstrings():
    command = [sys.executable, "script/map", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
