import hashlib
import io
import itertools
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from pipeline.download import flower_archive
from pipeline.system.errors import DataError
from pipeline.system.remote.http_file import DownloadError
from tests.support import files
from tests.support.http_server import Answer

PHOTOS = {
    "flowers/LICENSE.txt": b"free",
    "flowers/daisy/1.jpg": b"first",
    "flowers/daisy/2.jpg": b"second",
    "flowers/roses/1.jpg": b"third",
}
COUNTS = {"daisy": 2, "roses": 1}


def photos_tar(photos=PHOTOS, *members):
    """The bytes of a tar file of {path: content} and of empty members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, body in photos.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
        for info in members:
            tar.addfile(info)
    return buffer.getvalue()


def make_archive(server, body, counts=COUNTS):
    server.answers["/flowers.tgz"] = Answer(body)
    return flower_archive.Archive(
        url=f"{server.url}/flowers.tgz",
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        counts=counts,
    )


def without_outer_folder(photos=PHOTOS):
    return {name.split("/", 1)[1]: body for name, body in photos.items()}


def test_an_archive_becomes_class_folders_once(server, tmp_path):
    """Hidden files in the folder do not matter."""
    target = tmp_path / "new" / "flowers"
    archive = make_archive(server, photos_tar())
    assert flower_archive.download_archive(archive, target) == 3
    assert files.folder_content(target) == without_outer_folder()
    assert not list(target.glob(".*"))
    (target / ".DS_Store").write_bytes(b"x")
    assert flower_archive.download_archive(archive, target) == 0
    assert len(server.requests) == 1


def test_a_cut_download_is_continued(server, tmp_path):
    noise = {"f/daisy/1.jpg": os.urandom(300_000)}
    body = photos_tar(noise)
    archive = make_archive(server, body, {"daisy": 1})
    answers = [Answer(body, cut_after=200_000), Answer(status=403, etag="")]
    server.answers["/flowers.tgz"] = answers
    with pytest.raises(DownloadError, match="is kept; run again"):
        flower_archive.download_archive(archive, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".download"]

    server.answers["/flowers.tgz"] = Answer(body)
    assert flower_archive.download_archive(archive, tmp_path) == 1
    assert server.requests[-1][1] is not None
    assert files.folder_content(tmp_path) == without_outer_folder(noise)


@pytest.mark.parametrize(
    ("place", "name", "number"),
    [(Path, "rename", 1), (Path, "rename", 3), (shutil, "rmtree", 2)],
)
def test_a_call_stopped_at_the_end_is_completed_by_the_next(
    server, tmp_path, monkeypatch, place, name, number
):
    """Three paths are moved, then the download is removed."""
    archive = make_archive(server, photos_tar())
    real, calls = getattr(place, name), itertools.count(1)

    def interrupted(*args, **kwargs):
        if next(calls) == number:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            flower_archive.download_archive(archive, tmp_path)
    assert flower_archive.download_archive(archive, tmp_path) == 3
    assert files.folder_content(tmp_path) == without_outer_folder()
    assert not list(tmp_path.glob(".*"))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "counts",
    [{"daisy": 2, "roses": 2}, {"daisy": 2}],
    ids=["photo missing", "class too many"],
)
def test_an_archive_with_other_photos_is_refused(server, tmp_path, counts):
    archive = make_archive(server, photos_tar(), counts)
    for _ in range(2):
        message = r"flowers\.tgz: expected .*, found \{'daisy': 2, 'roses': 1\}"
        with pytest.raises(DataError, match=message):
            flower_archive.download_archive(archive, tmp_path)
        assert {path.name[0] for path in tmp_path.iterdir()} == {"."}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("{}/outside.jpg", tarfile.REGTYPE, ""),
        ("flowers/../../../../outside.jpg", tarfile.REGTYPE, ""),
        ("flowers/link", tarfile.SYMTYPE, "/etc"),
        ("flowers/link", tarfile.SYMTYPE, "../../.."),
        ("flowers/link", tarfile.LNKTYPE, "../outside"),
        ("flowers/device", tarfile.CHRTYPE, ""),
    ],
)
def test_members_outside_of_the_folder_are_refused(server, tmp_path, name, kind, link):
    member = tarfile.TarInfo(name.format(tmp_path))
    member.type, member.linkname = kind, link
    archive = make_archive(server, photos_tar(PHOTOS, member))
    with pytest.raises((tarfile.FilterError, ValueError)):
        flower_archive.download_archive(archive, tmp_path / "flowers")
    assert [path.name for path in tmp_path.iterdir()] == ["flowers"]
    assert [path.name for path in (tmp_path / "flowers").iterdir()] == [".download"]


def test_another_file_of_the_same_size_is_refused(server, tmp_path):
    archive = make_archive(server, photos_tar())
    server.answers["/flowers.tgz"] = Answer(b"x" * archive.size_bytes)
    with pytest.raises(DownloadError, match="sha256"):
        flower_archive.download_archive(archive, tmp_path)
    assert files.folder_content(tmp_path) == {}


@pytest.mark.parametrize("name", ["mine.jpg", "roses/1.jpg", "deep/er/mine.txt"])
def test_a_folder_with_other_files_is_left_alone(server, tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"mine")
    archive = make_archive(server, photos_tar())
    with pytest.raises(DataError, match=f"has {name}, .*Choose an empty folder"):
        flower_archive.download_archive(archive, tmp_path)
    assert files.folder_content(tmp_path) == {name: b"mine"}
    assert server.requests == []
