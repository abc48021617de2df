"""Install the wheel into a fresh environment, and use it beside modules of a user."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from graft.__main__ import COMMANDS
from pipeline.system import program_name
from tests.support import drawn_photos, server_process

ROOT = Path(__file__).parents[1]


def without_python_path():
    return {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}


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
    """Programs of a new environment that has the wheel and the packages of this one."""
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
    """Folder of a user, with modules that have the same names as Graft's."""
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
        done = subprocess.run(
            [str(installed / "graft"), *words],
            cwd=own_folder,
            env=without_python_path(),
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
    assert graft("help", "split").startswith("Split records again")


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("{} --help >&-", 0, ""),
        ("{} --help >/dev/full", 2, "error: No space left on device"),
        (
            "mkdir gone; cd gone; rmdir ../gone; {} convert ../photos",
            2,
            "error: the current folder was removed",
        ),
    ],
)
def test_odd_places_to_start_from_are_no_traceback(
    installed, own_folder, command, code, message
):
    done = subprocess.run(
        command.format(installed / "graft"),
        shell=True,
        cwd=own_folder,
        env=without_python_path(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr.partition(".")[0]) == (code, message)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help_under_its_own_name(graft, name):
    text = graft(name, "--helpfull")
    assert f"usage: graft {name}" in text
    assert not re.search(r"\b(model|pipeline)\.[a-z]|\.py\b|docs/", text)


def test_messages_name_commands_as_they_are_called(graft):
    message = graft("split", "nowhere", code=2)
    assert "Convert your photos first: graft convert PHOTOS_FOLDER" in message
    message = graft("trian", code=2)
    assert message == "error: 'trian': no such command. Did you mean graft train?\n"


THREE_LINES = """
import graft
run = graft.train("photos", ckpt="none", arch="cifar_cnn", epochs=1, run_dir="runs/api")
print(run.predict("photos/red/red001.jpg").answer, run.evaluate().num_photos)
"""


def test_python_works_beside_modules_of_the_same_names(installed, own_folder):
    (own_folder / "three_lines.py").write_text(THREE_LINES)
    done = subprocess.run(
        [installed / "python", "three_lines.py"],
        cwd=own_folder,
        env=without_python_path(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search("^(blue|green|red) 3$", done.stdout, re.MULTILINE)
    assert "graft evaluate" not in done.stdout


@pytest.mark.slow
def test_every_command_works_beside_modules_of_the_same_names(
    graft, installed, own_folder
):
    photo = "photos/red/red001.jpg"
    assert "36 files in 3 classes" in graft("convert", "photos")
    flags = ["--ckpt=none", "--arch=cifar_cnn", "--epochs=1", "--run_dir=runs/a"]
    assert graft("train", *flags).endswith("run: runs/a\n")
    assert "top-1 accuracy" in graft("evaluate", "--run_dir=runs/a")
    assert "runs/a" in graft("evaluate", "--list")
    answer = json.loads(graft("predict", photo, "--format=jsonl", "--run_dir=runs/a"))
    assert {entry["class"] for entry in answer["classes"]} == {"blue", "green", "red"}
    assert "nothing found" in graft("check", "photos")
    export = ("export", "--format=keras", "--out=a.keras", "--run_dir=runs/a")
    assert "a.keras" in graft(*export)
    assert "tensors: " in graft("inspect", "runs/a/model.keras")
    drawn = ("paper-flowers", "drawn", "--images_per_class=2")
    assert "10 photos in 5 classes" in graft("download", *drawn)
    with (
        server_process.running(
            "runs/a",
            cwd=own_folder,
            command=(str(installed / "graft"), "serve"),
            environment=without_python_path(),
        ) as server,
        urllib.request.urlopen(server.url) as page,
    ):
        assert b"<title>" in page.read()
    assert "total     15" in graft("split", "tfrecords", "--folds=2")
