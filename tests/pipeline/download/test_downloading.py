import shutil
import signal
import subprocess
import sys
import time

import pytest

from pipeline.download import downloading, flower_archive, flower_canvas, paper_flowers
from pipeline.system.errors import DataError
from tests.support import files, processes


def content(folder):
    """{path: bytes} of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestPaperFlowers:
    def draw(self, folder, count=2, seed=0):
        return downloading.draw_paper_flowers(folder, images_per_class=count, seed=seed)

    def test_every_photo_is_the_one_of_its_name(self, tmp_path):
        """Processes draw them, a block each."""
        assert self.draw(tmp_path / "f", seed=5) == 10
        assert content(tmp_path / "f") == {
            f"{kind}/{kind}_{number:04d}.jpg": flower_canvas.encode(
                paper_flowers.draw(kind, 5, number)
            )
            for kind in ("aster", "globe", "lily", "poppy", "tulip")
            for number in range(2)
        }

    def test_a_later_call_draws_what_is_missing(self, tmp_path):
        self.draw(tmp_path, 1)
        before = files.folder_digest(tmp_path)
        assert self.draw(tmp_path, 1) == 0
        (tmp_path / "lily" / "lily_0000.jpg").unlink()
        shutil.rmtree(tmp_path / "aster")
        assert self.draw(tmp_path, 2) == 7
        assert before.items() <= files.folder_digest(tmp_path).items()

    def test_photos_of_another_seed_are_not_mixed_in(self, tmp_path):
        self.draw(tmp_path, 1, seed=0)
        before = files.folder_digest(tmp_path)
        with pytest.raises(
            DataError,
            match=r"aster/aster_0000\.jpg is not what --seed=1 draws\. Choose",
        ):
            self.draw(tmp_path, 2, seed=1)
        assert files.folder_digest(tmp_path) == before

    @pytest.mark.parametrize(
        "name", ["mine.jpg", "rose/rose_0000.jpg", "aster/aster_0002.jpg"]
    )
    def test_a_folder_with_other_files_is_left_alone(self, tmp_path, name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(DataError, match=f"{name}.*Choose an empty folder"):
            self.draw(tmp_path)
        assert content(tmp_path) == {name: b"mine"}

    def test_a_file_cannot_be_the_folder(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataError, match="is a file"):
            self.draw(tmp_path / "file")


class TestCommand:
    def test_without_a_network_the_command_fails_in_seconds(
        self, tmp_path, closed_url, monkeypatch
    ):
        monkeypatch.setenv("HTTPS_PROXY", closed_url)
        monkeypatch.setenv("https_proxy", closed_url)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        start = time.monotonic()
        done = processes.run_command(
            "-m", "pipeline.download", "flowers", tmp_path / "f"
        )
        assert time.monotonic() - start < 10
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(
            f"error: {flower_archive.FLOWERS.url}: cannot be reached ("
        )
        assert content(tmp_path) == {}

    def test_a_second_call_draws_nothing(self, tmp_path):
        folder = tmp_path / "f"
        how = ("--images_per_class=1", "--seed=3")
        for new in (5, 0):
            done = processes.run_command(
                "-m", "pipeline.download", "paper-flowers", folder, *how
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout == f"{folder}: 5 photos in 5 classes, {new} new\n"

    @pytest.mark.slow
    def test_a_killed_command_is_completed_by_the_next(self, tmp_path):
        folder = tmp_path / "f"
        command = [sys.executable, "-m", "pipeline.download", "paper-flowers", folder]
        with subprocess.Popen(
            [*command, "--images_per_class=6"],
            cwd=files.ROOT,
            stderr=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None and len(list(folder.rglob("*.jpg"))) < 2:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        time.sleep(0.5)  # workers end with their parent
        left = content(folder)
        new = downloading.draw_paper_flowers(folder, images_per_class=6, seed=0)
        assert 0 < new <= 28
        assert len(list(folder.rglob("*.jpg"))) == 30
        for path in folder.rglob("*.jpg"):
            name = path.relative_to(folder).as_posix()
            kind, number = path.parent.name, int(path.stem[-4:])
            if name in left or number == 5:
                drawn = flower_canvas.encode(paper_flowers.draw(kind, 0, number))
                assert path.read_bytes() == drawn

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["roses", "f"],
                "data set 'roses' is unknown: expected one of paper-flowers, flo",
            ),
            (["flowers"], "expected a data set and a folder"),
            (["paper-flowers", "f", "--images_per_class=0"], "images_per_class"),
            (["paper-flowers", "f", "--seed=-1"], "seed"),
        ],
        ids=["name", "no folder", "no photos", "seed"],
    )
    def test_wrong_arguments_are_refused(self, tmp_path, monkeypatch, words, message):
        monkeypatch.setenv("PYTHONPATH", str(files.ROOT))
        done = processes.run_command("-m", "pipeline.download", *words, cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
