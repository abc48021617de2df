"""Install the wheel into a fresh environment, and use it beside modules of a user."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from graft.__main__ import COMMANDS
from pipeline.system import program_name
from tests.support import drawn_photos

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    pip += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(pip, check=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder of programs of an environment with the wheel, and the packages of ours."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (place,) = folder.glob("lib/python*/site-packages")
    (place / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    pip += ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory):
    """Folder of a user, whose modules have the names of Graft's."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("model", "pipeline", "train", "evaluate", "utils"):
        (folder / f"{name}.py").write_text(
            f"raise ImportError('the user\\'s {name}')\n"
        )
    drawn_photos.write_photos(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def graft(installed, own_folder):
    def run(*words, code=0):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            [str(installed / "graft"), *words],
            cwd=own_folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


def test_the_wheel_has_one_name_at_the_top(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        names = set(archive.namelist())
    assert {top for top in tops if not top.endswith(".dist-info")} == {"graft"}
    assert {"graft/recipes/flowers.toml", "graft/model/serve/page/serve.js"} <= names


def test_graft_alone_says_in_ten_lines_what_to_do(graft):
    lines = graft().splitlines()
    assert len(lines) <= 10
    assert lines[3].startswith("    graft convert flowers/ ")
    assert graft("--version") == f"graft {program_name.VERSION}\n"
    listed = [line.split()[1] for line in graft("--help").splitlines()[1:]]
    assert listed == [*COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help_under_its_own_name(graft, name):
    text = graft(name, "--help")
    assert f"usage: graft {name}" in text
    assert not re.search(r"python -m (model|pipeline)|\.py\b", text)


def test_messages_name_commands_as_they_are_called(graft):
    message = graft("split", "nowhere", code=2)
    assert "Convert your photos first: graft convert PHOTOS_FOLDER" in message
    message = graft("trian", code=2)
    assert message == "error: 'trian': no such command. Did you mean graft train?\n"


def test_a_folder_becomes_a_classifier_beside_modules_of_the_same_names(graft):
    assert "12" in graft("convert", "photos")
    flags = ["--ckpt=none", "--arch=cifar_cnn", "--epochs=1", "--run_dir=runs/a"]
    assert graft("train", *flags).endswith("run: runs/a\n")
    answer = json.loads(graft("predict", "photos/red/red001.jpg", "--format=jsonl"))
    assert {entry["class"] for entry in answer["classes"]} == {"blue", "green", "red"}
