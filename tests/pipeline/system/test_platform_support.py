"""What Linux has and other systems lack is hidden: see tests/support/other_systems."""

import pytest

from pipeline.system import platform_support
from tests.support import clips, files, processes


def elsewhere(program, *words, **options):
    """Run a program on such a system; return its lines."""
    done = processes.run_command(
        "-c", program, *words, PYTHONPATH=files.OTHER_SYSTEMS, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


LOCKS = """
import subprocess, sys
from pathlib import Path
from pipeline.system import platform_support

with platform_support.locked(Path(sys.argv[1]), None) as is_free:
    print(is_free, flush=True)
    if sys.argv[2:]:
        subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)
"""


@pytest.mark.parametrize("name", ["folder", "file"])
@pytest.mark.parametrize("run", [elsewhere, None], ids=["elsewhere", "here"])
def test_a_place_is_locked_for_one_process_at_a_time(tmp_path, name, run):
    (tmp_path / "folder").mkdir()
    place = tmp_path / name
    if run:
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        lines = run(LOCKS, place, LOCKS, TMPDIR=str(temporary))
        assert len([*temporary.iterdir()]) == 1
        assert len([*tmp_path.iterdir()]) == 2  # and no file beside the folder
    else:
        done = processes.run_command("-c", LOCKS, place, LOCKS)
        lines = done.stdout.splitlines()
    assert lines == ["True", "False"]
    with platform_support.locked(place, None) as is_free:
        assert is_free


ENDINGS = """
from pipeline.system import sandbox

module = "tests.pipeline.system.sandbox_child"
child = sandbox.Child(module, task="test", environment={})
for work, timeout_s in (("spin", 0.3), ("crash", 30), ("raise", 30)):
    child.send({"work": work}, timeout_s=timeout_s)
    try:
        child.receive()
    except sandbox.ChildEnded as error:
        print(type(error).__name__)
child.send({"work": "sleep a little"}, timeout_s=30)
print(child.receive()[0]["work"])
child.close()
"""


def test_a_child_without_timers_ends_in_the_same_ways():
    """And a time limit is no longer than that of its request."""
    expected = ["OutOfTime", "ChildEnded", "ChildEnded", "sleep a little"]
    assert elsewhere(ENDINGS) == expected


VIDEO = """
import sys
from pipeline.images import video_frames

video = video_frames.VideoFrames(sys.argv[1:], every_s=1.0)
print([frame.problem or frame.time_s for frame in video])
video.close()
"""


def test_a_video_is_read_where_files_have_no_second_name(tmp_path):
    path = clips.red_then_blue(tmp_path / "100%02d.mp4")
    assert elsewhere(VIDEO, path) == [str([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])]


RUNNING = """
import os
from pipeline.system import platform_support as system
print(system.is_running(os.getpid()), system.is_running(999_999_999))
print(system.peak_memory_bytes())
"""


def test_whether_a_process_exists_is_known_and_its_memory_is_not():
    assert elsewhere(RUNNING) == ["True False", "0"]
    assert 1 << 20 < platform_support.peak_memory_bytes() < 1 << 40
