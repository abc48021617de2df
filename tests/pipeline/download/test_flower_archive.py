import hashlib
import io
import os
import random
import shutil
import tarfile
import zlib
from pathlib import Path

import pytest

from pipeline.download import flower_archive
from pipeline.system import http_file
from pipeline.system.errors import DataError
from tests.conftest import Answer

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
    return flower_archive.Archive(
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
        found = make_archive(server, photos_tar())
        assert flower_archive.download_archive(found, target) == 3
        assert content(target) == without_outer_folder()
        assert not list(target.glob(".*"))

    def test_second_call_needs_no_network(self, server, tmp_path):
        found = make_archive(server, photos_tar())
        flower_archive.download_archive(found, tmp_path)
        assert flower_archive.download_archive(found, tmp_path) == 0
        assert len(server.requests) == 1

    def test_cut_download_is_resumed(self, server, tmp_path):
        noise = {"f/daisy/1.jpg": os.urandom(300_000)}
        body = photos_tar(noise)
        found = make_archive(server, body, {"daisy": 1})
        answers = [Answer(body, cut_after=200_000), Answer(status=403, etag="")]
        server.answers["/flowers.tgz"] = answers
        with pytest.raises(http_file.FetchError, match="is kept, run again"):
            flower_archive.download_archive(found, tmp_path)
        assert not [path for path in tmp_path.iterdir() if path.name[0] != "."]

        server.answers["/flowers.tgz"] = Answer(body)
        assert flower_archive.download_archive(found, tmp_path) == 1
        assert server.requests[-1][1] is not None
        assert content(tmp_path) == without_outer_folder(noise)

    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_stopped_while_moving(self, server, tmp_path, monkeypatch, number):
        """One rename for the whole, three for what it holds."""
        found = make_archive(server, photos_tar())
        real, calls = Path.rename, []

        def rename(path, target):
            calls.append(path)
            if len(calls) == number:
                raise KeyboardInterrupt
            return real(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            with pytest.raises(KeyboardInterrupt):
                flower_archive.download_archive(found, tmp_path)
        assert flower_archive.download_archive(found, tmp_path) == 3
        assert content(tmp_path) == without_outer_folder()
        assert not list(tmp_path.glob(".*"))
        assert len(server.requests) == 1

    def test_stopped_while_cleaning_up(self, server, tmp_path, monkeypatch):
        found = make_archive(server, photos_tar())

        def rmtree(path, ignore_errors=False):
            if not ignore_errors:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", rmtree)
            with pytest.raises(KeyboardInterrupt):
                flower_archive.download_archive(found, tmp_path)
        flower_archive.download_archive(found, tmp_path)
        assert content(tmp_path) == without_outer_folder()
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        "counts",
        [{"daisy": 2, "roses": 2}, {"daisy": 2}, {"daisy": 2, "roses": 1, "tulips": 1}],
        ids=["photo missing", "class too many", "class missing"],
    )
    def test_wrong_counts(self, server, tmp_path, counts):
        found = make_archive(server, photos_tar(), counts)
        for _ in range(2):
            with pytest.raises(
                DataError,
                match=r"flowers\.tgz: unpacks to \{'daisy': 2, 'roses': 1\}, expected",
            ):
                flower_archive.download_archive(found, tmp_path)
            assert {path.name[0] for path in tmp_path.iterdir()} == {"."}
        assert len(server.requests) == 1

    def test_another_archive(self, server, tmp_path):
        found = make_archive(server, photos_tar())
        server.answers["/flowers.tgz"] = Answer(b"x" * found.size_bytes)
        with pytest.raises(http_file.FetchError, match="sha256"):
            flower_archive.download_archive(found, tmp_path)
        assert content(tmp_path) == {}

    @pytest.mark.parametrize(
        "name", ["mine.jpg", "daisy/mine.jpg", "roses/1.jpg", "deep/er/mine.txt"]
    )
    def test_folder_of_others_is_left_alone(self, server, tmp_path, name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
        found = make_archive(server, photos_tar())
        with pytest.raises(DataError, match=f"holds {name}, .*choose an empty folder"):
            flower_archive.download_archive(found, tmp_path)
        assert content(tmp_path) == {name: b"mine"}
        assert server.requests == []

    def test_hidden_files_are_no_obstacle(self, server, tmp_path):
        (tmp_path / ".DS_Store").write_bytes(b"x")
        found = make_archive(server, photos_tar())
        assert flower_archive.download_archive(found, tmp_path) == 3

    def test_target_is_a_file(self, server, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataError, match="is a file; expected a folder"):
            flower_archive.download_archive(
                make_archive(server, photos_tar()), tmp_path / "file"
            )

    def test_hostile_archive_leaves_nothing_visible(self, server, tmp_path):
        """Even one of the right hash."""
        body = make_tar(member("f/daisy/1.jpg", b"x"), member("f/../../evil", b"x"))
        with pytest.raises(DataError, match="leads out"):
            flower_archive.download_archive(
                make_archive(server, body, {"daisy": 1}), tmp_path / "a" / "b"
            )
        assert {path.name for path in tmp_path.rglob("*")} == {
            "a",
            "b",
            ".download",
            "flowers.tgz",
        }

    def test_flowers_is_the_public_set(self):
        assert sum(flower_archive.FLOWERS.counts.values()) == 3670
        assert len(flower_archive.FLOWERS.sha256) == 64
        assert flower_archive.FLOWERS.url.startswith("https://")


def unpack(tmp_path, body):
    (tmp_path / "file.tgz").write_bytes(body)
    flower_archive.unpack(tmp_path / "file.tgz", tmp_path / "out")
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
        with pytest.raises(DataError, match=message) as caught:
            unpack(tmp_path, make_tar(member("f/good/1", b"x"), *evil))
        assert str(tmp_path / "file.tgz") in str(caught.value)
        assert content(tmp_path).keys() == {"file.tgz", "out.txt"}
        assert (tmp_path / "out.txt").read_text() == "mine"
        assert not (tmp_path / "out").exists()
        assert not (tmp_path.parent / "evil").exists()

    def test_name_with_a_zero_byte(self, tmp_path):
        info, body = member("f/a", b"x", pax_headers={"path": "f/a\0b"})
        with pytest.raises(DataError, match="leads out"):
            unpack(tmp_path, make_tar((info, body), format=tarfile.PAX_FORMAT))

    def test_file_and_folder_of_the_same_name(self, tmp_path):
        with pytest.raises((DataError, OSError), match="a"):
            unpack(tmp_path, make_tar(member("f/a", b"x"), member("f/a/b", b"y")))

    def test_too_large(self, tmp_path):
        """Told before anything is unpacked; the tar file itself is a hole."""
        info, _ = member("f/a/1")
        info.size = (2 << 30) + 1
        with (tmp_path / "file.tar").open("wb") as file:
            file.write(info.tobuf())
            file.truncate(512 + (2 << 30) + 512 + 1024)
        with pytest.raises(DataError, match="unpacks to more than 2 GB"):
            flower_archive.unpack(tmp_path / "file.tar", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("at", [0, 100, 1500, 5000])
    def test_damaged(self, tmp_path, at):
        """A block of deflate that is of no known kind, in a header or a photo."""
        tar = make_tar(member("f/a/1", b"x" * 3000), member("f/a/2"), kind="")
        how = zlib.compressobj(wbits=31)
        start = how.compress(tar[:at]) + how.flush(zlib.Z_FULL_FLUSH)
        with pytest.raises(DataError, match=r"file\.tgz: damaged archive \("):
            unpack(tmp_path, start + b"\xff" * 100)

    @pytest.mark.parametrize("length", [0, 1, 100, 1000])
    def test_cut_off(self, tmp_path, length):
        text = random.Random(0).randbytes(2000)
        body = make_tar(member("f/a/1", text))
        with pytest.raises(DataError, match=r"file\.tgz: damaged archive \("):
            unpack(tmp_path, body[:length])

    def test_no_tar_file(self, tmp_path):
        with pytest.raises(DataError, match=r"file\.tgz: damaged archive \("):
            unpack(tmp_path, b"<html>Log in here</html>")
