"""What script/setup says where it cannot go on."""

import shutil
import subprocess

import pytest

from tests.support import files


@pytest.fixture
def setup(tmp_path):
    """Run script/setup where `python3` and others are programs that print a version."""
    for name in ("script/setup", "requirements.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(files.ROOT / name, tmp_path / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "dirname", "cat"):
        (programs / name).symlink_to(shutil.which(name))

    def run(**versions):
        for name, version in versions.items():
            program = programs / name.replace("_", ".")
            program.write_text(f"#!{programs}/bash\necho {version}\n")
            program.chmod(0o755)
        done = subprocess.run(
            [tmp_path / "script" / "setup"],
            env={"PATH": str(programs)},
            capture_output=True,
            text=True,
        )
        assert not (tmp_path / ".venv").exists()
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        return line

    return run


def test_a_newer_python_is_named_with_the_way_out(setup):
    line = setup(python3="3.14")
    expected = "script/setup: python3 is Python 3.14. TensorFlow supports 3.11, 3.12 "
    assert line.startswith(expected + "and 3.13. ")
    assert (
        'uv python install 3.13; PYTHON="$(uv python find 3.13)" script/setup' in line
    )


def test_another_python_that_is_there_is_proposed(setup):
    line = setup(python3="3.15", python3_12="3.12")
    assert line.endswith("Run: PYTHON=python3.12 script/setup")


def test_a_missing_python_is_said(setup):
    assert "python3 not found" in setup()
