import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import pytest

from pipeline import download, fetch, paper_flowers, schema
from tests.conftest import ROOT, Answer, folder_digest, run_command

PHOTOS = {
    "flowers/LICENSE.txt": b"free",
    "flowers/daisy/1.jpg": b"first",
    "flowers/daisy/2.jpg": b"second",
    "flowers/roses/1.jpg": b"third",
}
COUNTS = {"daisy": 2, "roses": 1}


def member(name, content=b"", **how):
    """(header, content) of a tar member; `how` are attributes of the header."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in how.items():
        setattr(info, key, value)
    return info, content


def make_tar(*members, kind="gz", **how):
    """The bytes of a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}", **how) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def photos_tar(photos=PHOTOS):
    return make_tar(*(member(name, content) for name, content in photos.items()))


def make_archive(server, body, counts=COUNTS):
    server.answers["/flowers.tgz"] = Answer(body)
    return download.Archive(
        url=f"{server.url}/flowers.tgz",
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        counts=counts,
    )


def content(folder):
    """{path: bytes} of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def without_outer_folder(photos=PHOTOS):
    return {name.split("/", 1)[1]: body for name, body in photos.items()}


class TestArchive:
    def test_complete(self, server, tmp_path):
        target = tmp_path / "new" / "flowers"
        archive = make_archive(server, photos_tar())
        assert download.download_archive(archive, target) == 3
        assert content(target) == without_outer_folder()
        assert not list(target.glob(".*"))

    def test_second_call_needs_no_network(self, server, tmp_path):
        archive = make_archive(server, photos_tar())
        download.download_archive(archive, tmp_path)
        assert download.download_archive(archive, tmp_path) == 0
        assert len(server.requests) == 1

    def test_cut_download_is_resumed(self, server, tmp_path):
        noise = {"f/daisy/1.jpg": os.urandom(300_000)}
        body = photos_tar(noise)
        archive = make_archive(server, body, {"daisy": 1})
        answers = [Answer(body, cut_after=200_000), Answer(status=403, etag="")]
        server.answers["/flowers.tgz"] = answers
        with pytest.raises(fetch.FetchError, match="is kept, run again"):
            download.download_archive(archive, tmp_path)
        assert not [path for path in tmp_path.iterdir() if path.name[0] != "."]

        server.answers["/flowers.tgz"] = Answer(body)
        assert download.download_archive(archive, tmp_path) == 1
        assert server.requests[-1][1] is not None
        assert content(tmp_path) == without_outer_folder(noise)

    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_stopped_while_moving(self, server, tmp_path, monkeypatch, number):
        """One rename for the whole, three for what it holds."""
        archive = make_archive(server, photos_tar())
        real, calls = Path.rename, []

        def rename(path, target):
            calls.append(path)
            if len(calls) == number:
                raise KeyboardInterrupt
            return real(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            with pytest.raises(KeyboardInterrupt):
                download.download_archive(archive, tmp_path)
        assert download.download_archive(archive, tmp_path) == 3
        assert content(tmp_path) == without_outer_folder()
        assert not list(tmp_path.glob(".*"))
        assert len(server.requests) == 1

    def test_stopped_while_cleaning_up(self, server, tmp_path, monkeypatch):
        archive = make_archive(server, photos_tar())

        def rmtree(path, ignore_errors=False):
            if not ignore_errors:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", rmtree)
            with pytest.raises(KeyboardInterrupt):
                download.download_archive(archive, tmp_path)
        download.download_archive(archive, tmp_path)
        assert content(tmp_path) == without_outer_folder()
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        "counts",
        [{"daisy": 2, "roses": 2}, {"daisy": 2}, {"daisy": 2, "roses": 1, "tulips": 1}],
        ids=["photo missing", "class too many", "class missing"],
    )
    def test_wrong_counts(self, server, tmp_path, counts):
        archive = make_archive(server, photos_tar(), counts)
        for _ in range(2):
            with pytest.raises(
                schema.DataError,
                match=r"flowers\.tgz: unpacks to \{'daisy': 2, 'roses': 1\}, expected",
            ):
                download.download_archive(archive, tmp_path)
            assert {path.name[0] for path in tmp_path.iterdir()} == {"."}
        assert len(server.requests) == 1

    def test_another_archive(self, server, tmp_path):
        archive = make_archive(server, photos_tar())
        server.answers["/flowers.tgz"] = Answer(b"x" * archive.size_bytes)
        with pytest.raises(fetch.FetchError, match="sha256"):
            download.download_archive(archive, tmp_path)
        assert content(tmp_path) == {}

    @pytest.mark.parametrize(
        "name", ["mine.jpg", "daisy/mine.jpg", "roses/1.jpg", "deep/er/mine.txt"]
    )
    def test_folder_of_others_is_left_alone(self, server, tmp_path, name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
        archive = make_archive(server, photos_tar())
        with pytest.raises(
            schema.DataError, match=f"holds {name}, .*choose an empty folder"
        ):
            download.download_archive(archive, tmp_path)
        assert content(tmp_path) == {name: b"mine"}
        assert server.requests == []

    def test_hidden_files_are_no_obstacle(self, server, tmp_path):
        (tmp_path / ".DS_Store").write_bytes(b"x")
        archive = make_archive(server, photos_tar())
        assert download.download_archive(archive, tmp_path) == 3

    def test_target_is_a_file(self, server, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(schema.DataError, match="is a file; expected a folder"):
            download.download_archive(
                make_archive(server, photos_tar()), tmp_path / "file"
            )

    def test_hostile_archive_leaves_nothing_visible(self, server, tmp_path):
        """Even one of the right hash."""
        body = make_tar(member("f/daisy/1.jpg", b"x"), member("f/../../evil", b"x"))
        with pytest.raises(schema.DataError, match="leads out"):
            download.download_archive(
                make_archive(server, body, {"daisy": 1}), tmp_path / "a" / "b"
            )
        assert {path.name for path in tmp_path.rglob("*")} == {
            "a",
            "b",
            ".download",
            "flowers.tgz",
        }

    def test_flowers_is_the_public_set(self):
        assert sum(download.FLOWERS.counts.values()) == 3670
        assert len(download.FLOWERS.sha256) == 64
        assert download.FLOWERS.url.startswith("https://")


def unpack(tmp_path, body):
    (tmp_path / "file.tgz").write_bytes(body)
    download.unpack(tmp_path / "file.tgz", tmp_path / "out")
    return content(tmp_path / "out")


LINK = {"type": tarfile.SYMTYPE}
HARD_LINK = {"type": tarfile.LNKTYPE}


class TestUnpack:
    def test_leading_dot(self, tmp_path):
        assert unpack(tmp_path, make_tar(member("./f/a/1", b"x"))) == {"a/1": b"x"}

    @pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
    def test_compression_is_told_by_content(self, tmp_path, kind):
        body = make_tar(member("f/a/1", b"x"), kind=kind)
        assert unpack(tmp_path, body) == {"a/1": b"x"}

    def test_rights_are_not_taken_over(self, tmp_path):
        unpack(tmp_path, make_tar(member("f/a/1", b"x", mode=0o6777, uid=0)))
        mode = (tmp_path / "out" / "a" / "1").stat().st_mode
        assert mode & (0o6111) == 0

    @pytest.mark.parametrize(
        ("evil", "message"),
        [
            ([member("/f/evil", b"x")], "/f/evil leads out of the folder"),
            ([member("//f/evil", b"x")], "//f/evil leads out"),
            ([member("../f/evil", b"x")], "leads out"),
            ([member("f/../../evil", b"x")], "leads out"),
            ([member("f/a/../../../evil", b"x")], "leads out"),
            ([member("f/..", type=tarfile.DIRTYPE)], "leads out"),
            ([member("f\\..\\..\\evil", b"x")], "leads out"),
            ([member("evil", b"x")], "evil lies in no folder"),
            ([member("f/a", **LINK, linkname="../../evil")], "f/a is a link or a dev"),
            ([member("f/a", **LINK, linkname="/evil")], "is a link"),
            (
                [
                    member("f/a", **LINK, linkname=".."),
                    member("f/a/evil", b"x"),
                ],
                "f/a is a link",
            ),
            ([member("f/a", **HARD_LINK, linkname="../out.txt")], "f/a is a link"),
            (
                [
                    member("f/a", **HARD_LINK, linkname="../out.txt"),
                    member("f/a", b"overwritten"),
                ],
                "f/a is a link",
            ),
            ([member("f/a", type=tarfile.CHRTYPE, devmajor=1, devminor=5)], "a device"),
            ([member("f/a", type=tarfile.BLKTYPE)], "a device"),
            ([member("f/a", type=tarfile.FIFOTYPE)], "a device"),
        ],
        ids=[
            "absolute",
            "two slashes",
            "up first",
            "up",
            "up later",
            "folder up",
            "backslash",
            "no folder",
            "link up",
            "absolute link",
            "file through a link",
            "hard link",
            "file over a hard link",
            "character device",
            "block device",
            "pipe",
        ],
    )
    def test_evil_member(self, tmp_path, evil, message):
        """Nothing is written, not even the good member before it."""
        (tmp_path / "out.txt").write_text("mine")
        with pytest.raises(schema.DataError, match=message) as caught:
            unpack(tmp_path, make_tar(member("f/good/1", b"x"), *evil))
        assert str(tmp_path / "file.tgz") in str(caught.value)
        assert content(tmp_path).keys() == {"file.tgz", "out.txt"}
        assert (tmp_path / "out.txt").read_text() == "mine"
        assert not (tmp_path / "out").exists()
        assert not (tmp_path.parent / "evil").exists()

    def test_name_with_a_zero_byte(self, tmp_path):
        info, body = member("f/a", b"x", pax_headers={"path": "f/a\0b"})
        with pytest.raises(schema.DataError, match="leads out"):
            unpack(tmp_path, make_tar((info, body), format=tarfile.PAX_FORMAT))

    def test_file_and_folder_of_the_same_name(self, tmp_path):
        with pytest.raises((schema.DataError, OSError), match="a"):
            unpack(tmp_path, make_tar(member("f/a", b"x"), member("f/a/b", b"y")))

    def test_too_large(self, tmp_path):
        """Told before anything is unpacked; the tar file itself is a hole."""
        info, _ = member("f/a/1")
        info.size = (2 << 30) + 1
        with (tmp_path / "file.tar").open("wb") as file:
            file.write(info.tobuf())
            file.truncate(512 + (2 << 30) + 512 + 1024)
        with pytest.raises(schema.DataError, match="unpacks to more than 2 GB"):
            download.unpack(tmp_path / "file.tar", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("at", [0, 100, 1500, 5000])
    def test_damaged(self, tmp_path, at):
        """A block of deflate that is of no known kind, in a header or a photo."""
        tar = make_tar(member("f/a/1", b"x" * 3000), member("f/a/2"), kind="")
        how = zlib.compressobj(wbits=31)
        start = how.compress(tar[:at]) + how.flush(zlib.Z_FULL_FLUSH)
        with pytest.raises(schema.DataError, match=r"file\.tgz: damaged archive \("):
            unpack(tmp_path, start + b"\xff" * 100)

    @pytest.mark.parametrize("length", [0, 1, 100, 1000])
    def test_cut_off(self, tmp_path, length):
        text = random.Random(0).randbytes(2000)
        body = make_tar(member("f/a/1", text))
        with pytest.raises(schema.DataError, match=r"file\.tgz: damaged archive \("):
            unpack(tmp_path, body[:length])

    def test_no_tar_file(self, tmp_path):
        with pytest.raises(schema.DataError, match=r"file\.tgz: damaged archive \("):
            unpack(tmp_path, b"<html>Log in here</html>")


class TestPaperFlowers:
    def draw(self, folder, count=2, seed=0):
        return download.draw_paper_flowers(folder, images_per_class=count, seed=seed)

    def test_folders_and_counts(self, tmp_path):
        assert self.draw(tmp_path / "f") == 10
        assert sorted(content(tmp_path / "f")) == [
            f"{kind}/{kind}_{number:04d}.jpg"
            for kind in ("aster", "globe", "lily", "poppy", "tulip")
            for number in range(2)
        ]

    def test_every_photo_is_the_one_of_its_name(self, tmp_path):
        """However they are spread over processes."""
        self.draw(tmp_path, seed=5)
        for kind in paper_flowers.KINDS:
            for number in range(2):
                drawn = paper_flowers.encode(paper_flowers.draw(kind, 5, number))
                path = tmp_path / kind / f"{kind}_{number:04d}.jpg"
                assert path.read_bytes() == drawn

    def test_rerun_draws_what_is_missing(self, tmp_path):
        self.draw(tmp_path)
        before = folder_digest(tmp_path)
        assert self.draw(tmp_path) == 0
        (tmp_path / "lily" / "lily_0001.jpg").unlink()
        shutil.rmtree(tmp_path / "aster")
        (tmp_path / "poppy" / ".poppy_0001.jpg.partial").write_bytes(b"half")
        assert self.draw(tmp_path) == 3
        (tmp_path / "poppy" / ".poppy_0001.jpg.partial").unlink()
        assert folder_digest(tmp_path) == before

    def test_more_can_be_asked_for_later(self, tmp_path):
        self.draw(tmp_path, 1)
        before = folder_digest(tmp_path)
        assert self.draw(tmp_path, 2) == 5
        assert before.items() <= folder_digest(tmp_path).items()

    def test_another_seed_is_not_mixed_in(self, tmp_path):
        self.draw(tmp_path, 1, seed=0)
        before = folder_digest(tmp_path)
        with pytest.raises(
            schema.DataError,
            match=r"aster/aster_0000\.jpg is not what --seed=1 draws; choose an empty",
        ):
            self.draw(tmp_path, 2, seed=1)
        assert folder_digest(tmp_path) == before

    @pytest.mark.parametrize(
        "name", ["mine.jpg", "rose/rose_0000.jpg", "aster/aster_0002.jpg"]
    )
    def test_folder_of_others_is_left_alone(self, tmp_path, name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(schema.DataError, match=f"{name}.*choose an empty folder"):
            self.draw(tmp_path)
        assert content(tmp_path) == {name: b"mine"}

    def test_target_is_a_file(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(schema.DataError, match="is a file; expected a folder"):
            self.draw(tmp_path / "file")


class TestCommand:
    def test_offline(self, tmp_path, closed_url, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", closed_url)
        monkeypatch.setenv("https_proxy", closed_url)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        start = time.monotonic()
        done = run_command("-m", "pipeline.download", "flowers", tmp_path / "f")
        assert time.monotonic() - start < 10
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {download.FLOWERS.url}: cannot be reached (")
        assert content(tmp_path) == {}

    def test_paper_flowers_twice(self, tmp_path):
        folder = tmp_path / "f"
        how = ("--images_per_class=1", "--seed=3")
        for new in (5, 0):
            done = run_command("-m", "pipeline.download", "paper-flowers", folder, *how)
            assert done.returncode == 0, done.stderr
            assert done.stdout == f"{folder}: 5 photos in 5 classes, {new} new\n"

    def test_killed_and_started_again(self, tmp_path):
        """What a killed call leaves is completed to what one call draws."""
        folder = tmp_path / "f"
        command = [sys.executable, "-m", "pipeline.download", "paper-flowers", folder]
        with subprocess.Popen(
            [*command, "--images_per_class=6"], cwd=ROOT, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and len(list(folder.rglob("*.jpg"))) < 2:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        time.sleep(0.5)  # workers end with their parent
        left = content(folder)
        new = download.draw_paper_flowers(folder, images_per_class=6, seed=0)
        assert 0 < new <= 28
        assert len(list(folder.rglob("*.jpg"))) == 30
        for path in folder.rglob("*.jpg"):
            name = path.relative_to(folder).as_posix()
            kind, number = path.parent.name, int(path.stem[-4:])
            if name in left or number == 5:
                drawn = paper_flowers.encode(paper_flowers.draw(kind, 0, number))
                assert path.read_bytes() == drawn

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["roses", "f"], "no data set 'roses'; expected one of paper-flowers, flo"),
            (["flowers"], "expected a data set and a folder"),
            (["paper-flowers", "f", "--images_per_class=0"], "images_per_class"),
            (["paper-flowers", "f", "--seed=-1"], "seed"),
        ],
        ids=["name", "no folder", "no photos", "seed"],
    )
    def test_usage(self, tmp_path, monkeypatch, words, message):
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        done = run_command("-m", "pipeline.download", *words, cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
