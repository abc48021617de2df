import signal
import subprocess
import sys
import time

import pytest

from pipeline.download import flower_archive, paper_flowers
from tests.support import files, processes


def test_without_a_network_the_command_fails_in_seconds(
    tmp_path, closed_url, monkeypatch
):
    monkeypatch.setenv("https_proxy", closed_url)
    monkeypatch.setenv("no_proxy", "")
    start = time.monotonic()
    done = processes.run_command("-m", "pipeline.download", "flowers", tmp_path / "f")
    assert time.monotonic() - start < 10
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    place = flower_archive.FLOWERS.url
    assert line.startswith(f"error: {place}: cannot be reached (the proxy: ")
    assert files.folder_content(tmp_path) == {}


def test_a_second_call_draws_nothing(tmp_path):
    folder = tmp_path / "f"
    flags = ("--images_per_class=1", "--seed=3")
    for new in (5, 0):
        done = processes.run_command(
            "-m", "pipeline.download", "paper-flowers", folder, *flags
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{folder}: 5 photos in 5 classes, {new} new\n"


@pytest.mark.slow
def test_a_killed_command_is_completed_by_the_next(tmp_path):
    folder = tmp_path / "f"
    command = [sys.executable, "-m", "pipeline.download", "paper-flowers", folder]
    with subprocess.Popen(
        [*command, "--images_per_class=6"], cwd=files.ROOT, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and len(list(folder.rglob("*.jpg"))) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    time.sleep(0.5)  # workers end with their parent
    left = files.folder_content(folder)
    new = paper_flowers.draw_missing(folder, images_per_class=6, seed=0)
    assert 0 < new <= 28
    assert len(list(folder.rglob("*.jpg"))) == 30
    for path in folder.rglob("*.jpg"):
        name = path.relative_to(folder).as_posix()
        if name in left or path.stem.endswith("5"):
            assert path.read_bytes() == paper_flowers.photo(name, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("roses f", "data set 'roses' is unknown: expected one of paper-flowers, flo"),
        ("flowers", "expected a data set and a folder"),
        ("paper-flowers f --seed=-1", "--seed=-1"),
        ("--urls=a.csv flowers f", "expected a data set and a folder, such as"),
        ("--urls=a.csv --refuse_sha1=abc f", "--refuse_sha1=abc: expected 40 hex"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, monkeypatch, words, message):
    monkeypatch.setenv("PYTHONPATH", str(files.ROOT))
    done = processes.run_command(
        "-m", "pipeline.download", *words.split(), cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
