import hashlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from pipeline.system import http_file
from tests.conftest import ROOT, Answer

BODY = bytes(range(256)) * 2000  # 512,000 bytes
SHA256 = hashlib.sha256(BODY).hexdigest()
DIGEST = f"sha256:{SHA256}"
CUT = 300_000


def get(server, folder, **how):
    """Fetches /file into folder/file, with retries that follow at once."""
    how = {"digest": DIGEST, "size_bytes": len(BODY), "patience_s": 0} | how
    http_file.fetch(f"{server.url}/file", folder / "file", **how)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"digest": DIGEST[:15]},
        {"digest": f"sha1:{hashlib.sha1(BODY).hexdigest()}"},
        {"digest": f"md5:{hashlib.md5(BODY).hexdigest()}"},
        {"digest": ""},
        {"size_bytes": 0},
        {"digest": "", "size_bytes": 0},
    ],
    ids=["hash and size", "hash begins", "sha1", "md5", "size", "hash", "nothing"],
)
def test_complete_download(server, tmp_path, known):
    server.answers["/file"] = Answer(BODY)
    get(server, tmp_path / "new" / "folder", **known)
    assert names(tmp_path / "new" / "folder") == ["file"]
    assert (tmp_path / "new" / "folder" / "file").read_bytes() == BODY
    assert server.requests == [("/file", None)]


def test_empty_file(server, tmp_path):
    server.answers["/file"] = Answer(b"")
    get(server, tmp_path, digest="", size_bytes=0)
    assert (tmp_path / "file").read_bytes() == b""


class TestFileThatIsThere:
    def test_is_not_fetched_again(self, server, tmp_path):
        (tmp_path / "file").write_bytes(BODY)
        get(server, tmp_path)
        assert server.requests == []

    @pytest.mark.parametrize(
        ("there", "message"),
        [
            (BODY[:-1], "511,999 bytes, expected 512,000"),
            (BODY[:-1] + b"x", f"sha256 is .*, expected {SHA256}"),
        ],
        ids=["size", "hash"],
    )
    def test_is_not_believed(self, server, tmp_path, there, message):
        """The message names the local file, which alone can be wrong."""
        (tmp_path / "file").write_bytes(there)
        with pytest.raises(http_file.FetchError, match=message) as caught:
            get(server, tmp_path)
        assert str(caught.value).startswith(f"{tmp_path / 'file'}: ")
        assert str(caught.value).endswith("remove it and run again")
        assert (tmp_path / "file").read_bytes() == there
        assert server.requests == []


class TestCutConnection:
    def test_resumes_where_it_was_cut(self, server, tmp_path):
        server.answers["/file"] = Answer(BODY, cut_after=CUT)
        get(server, tmp_path)
        assert (tmp_path / "file").read_bytes() == BODY
        assert names(tmp_path) == ["file"]
        (first, second) = server.requests
        assert first == ("/file", None)
        begin = int(second[1].removeprefix("bytes=").removesuffix("-"))
        assert CUT - 65_536 <= begin <= CUT

    def test_again_and_again(self, server, tmp_path):
        server.answers["/file"] = [
            Answer(BODY, cut_after=100_000) for _ in range(4)
        ] + [Answer(BODY)]
        get(server, tmp_path)
        assert (tmp_path / "file").read_bytes() == BODY
        begins = [int(r[len("bytes=") : -1]) if r else 0 for _, r in server.requests]
        assert begins == sorted(set(begins))
        assert len(begins) == 5

    def test_too_often(self, server, tmp_path):
        """A later call goes on with what the first one got."""
        server.answers["/file"] = [Answer(BODY, cut_after=70_000) for _ in range(9)]
        with pytest.raises(
            http_file.FetchError, match="what has arrived is kept, run aga"
        ):
            get(server, tmp_path)
        assert len(server.requests) == 5
        assert names(tmp_path) == ["file.part", "file.part.etag"]
        kept = (tmp_path / "file.part").read_bytes()
        assert kept == BODY[: len(kept)]
        assert len(kept) == 5 * 65_536

        server.answers["/file"] = Answer(BODY)
        get(server, tmp_path)
        assert server.requests[5:] == [("/file", f"bytes={len(kept)}-")]
        assert (tmp_path / "file").read_bytes() == BODY
        assert names(tmp_path) == ["file"]

    def test_file_changed_meanwhile(self, server, tmp_path):
        """Halves of two files are never put together."""
        other = BODY[::-1]
        server.answers["/file"] = [
            Answer(other, cut_after=CUT, etag='"old"'),
            Answer(BODY, etag='"new"'),
        ]
        get(server, tmp_path, digest="", size_bytes=0)
        assert len(server.requests) == 2
        assert server.requests[1][1] is not None
        assert (tmp_path / "file").read_bytes() == BODY
        assert names(tmp_path) == ["file"]

    @pytest.mark.parametrize("etag", ['W/"weak"', ""], ids=["weak", "none"])
    def test_starts_anew_without_a_strong_etag(self, server, tmp_path, etag):
        server.answers["/file"] = Answer(BODY, cut_after=CUT, etag=etag)
        get(server, tmp_path, digest="", size_bytes=0)
        assert server.requests == [("/file", None)] * 2
        assert (tmp_path / "file").read_bytes() == BODY

    def test_server_that_ignores_range(self, server, tmp_path):
        server.answers["/file"] = Answer(BODY, cut_after=CUT, ranges=False)
        get(server, tmp_path, digest="", size_bytes=0)
        assert server.requests[1][1] is not None
        assert (tmp_path / "file").read_bytes() == BODY

    def test_nothing_was_missing(self, server, tmp_path):
        """Stopped between the last byte and the new name: the server answers 416."""
        server.answers["/file"] = Answer(BODY)
        (tmp_path / "file.part").write_bytes(BODY)
        (tmp_path / "file.part.etag").write_text('"one"')
        get(server, tmp_path)
        assert server.requests == [("/file", f"bytes={len(BODY)}-")]
        assert (tmp_path / "file").read_bytes() == BODY
        assert names(tmp_path) == ["file"]

    def test_leftover_of_unknown_origin_is_not_used(self, server, tmp_path):
        server.answers["/file"] = Answer(BODY)
        (tmp_path / "file.part").write_bytes(b"something else")
        get(server, tmp_path)
        assert server.requests == [("/file", None)]
        assert (tmp_path / "file").read_bytes() == BODY


class TestWrongFile:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"x" + BODY[1:], rf"sha256 is [0-9a-f]{{64}}, expected {SHA256}; "),
            (b"<html>Log in here</html>", "24 bytes, expected 512,000; "),
            (b"", "0 bytes, expected 512,000; "),
        ],
        ids=["hash", "a portal answers", "empty"],
    )
    def test_leaves_nothing_behind(self, server, tmp_path, body, message):
        server.answers["/file"] = Answer(body)
        with pytest.raises(http_file.FetchError, match=message) as caught:
            get(server, tmp_path)
        assert str(caught.value).startswith(f"{server.url}/file: ")
        assert names(tmp_path) == []

    def test_is_fetched_whole_the_next_time(self, server, tmp_path):
        server.answers["/file"] = Answer(BODY[::-1])
        with pytest.raises(http_file.FetchError, match="sha256"):
            get(server, tmp_path)
        server.answers["/file"] = Answer(BODY)
        get(server, tmp_path)
        assert server.requests == [("/file", None)] * 2
        assert (tmp_path / "file").read_bytes() == BODY

    def test_kept_part_was_damaged(self, server, tmp_path):
        server.answers["/file"] = Answer(BODY)
        (tmp_path / "file.part").write_bytes(b"x" * 1000)
        (tmp_path / "file.part.etag").write_text('"one"')
        with pytest.raises(http_file.FetchError, match="sha256"):
            get(server, tmp_path)
        assert names(tmp_path) == []
        get(server, tmp_path)
        assert (tmp_path / "file").read_bytes() == BODY

    def test_stops_when_more_comes_than_expected(self, server, tmp_path):
        """A server without end cannot fill the disk."""
        server.answers["/file"] = Answer(BODY * 20)
        with pytest.raises(
            http_file.FetchError, match="bytes, expected 1,000"
        ) as caught:
            get(server, tmp_path, size_bytes=1000)
        received = int(
            str(caught.value).split(" bytes")[0].split()[-1].replace(",", "")
        )
        assert received <= 1000 + 65_536
        assert names(tmp_path) == []


class TestRefusal:
    def test_not_found_is_not_asked_for_again(self, server, tmp_path):
        with pytest.raises(
            http_file.FetchError, match=r"/file: the server answers 404 Not Found$"
        ) as caught:
            get(server, tmp_path)
        assert not isinstance(caught.value, http_file.Unreachable)
        assert len(server.requests) == 1
        assert names(tmp_path) == []

    def test_server_error_is_retried(self, server, tmp_path):
        server.answers["/file"] = [
            Answer(b"busy", status=503),
            Answer(b"broken", status=500),
            Answer(BODY),
        ]
        get(server, tmp_path)
        assert (tmp_path / "file").read_bytes() == BODY

    def test_server_error_that_lasts(self, server, tmp_path):
        server.answers["/file"] = Answer(b"broken", status=500)
        with pytest.raises(
            http_file.FetchError, match="the server answers 500 Internal"
        ):
            get(server, tmp_path)
        assert len(server.requests) == 5
        assert names(tmp_path) == []

    def test_error_page_does_not_touch_what_arrived(self, server, tmp_path):
        server.answers["/file"] = [
            Answer(BODY, cut_after=CUT),
            Answer(b"no", status=403, etag=""),
        ]
        with pytest.raises(http_file.FetchError, match=r"403.*is kept, run again"):
            get(server, tmp_path)
        assert (tmp_path / "file.part").stat().st_size >= CUT - 65_536

    def test_pause_doubles(self, server, tmp_path):
        server.answers["/file"] = [Answer(status=503)] * 3 + [Answer(BODY)]
        start = time.monotonic()
        get(server, tmp_path, patience_s=0.05)
        assert time.monotonic() - start >= 0.05 + 0.1 + 0.2


class TestUnreachable:
    def test_nobody_listens(self, closed_url, tmp_path):
        start = time.monotonic()
        with pytest.raises(
            http_file.Unreachable,
            match=r"/file: cannot be reached \(.*Connection refused\)$",
        ):
            http_file.fetch(f"{closed_url}/file", tmp_path / "file")
        assert time.monotonic() - start < 3
        assert names(tmp_path) == []

    def test_offline_with_a_part_is_told_as_fast(self, closed_url, tmp_path):
        (tmp_path / "file.part").write_bytes(b"abc")
        (tmp_path / "file.part.etag").write_text('"one"')
        start = time.monotonic()
        with pytest.raises(http_file.Unreachable, match="is kept, run again"):
            http_file.fetch(f"{closed_url}/file", tmp_path / "file")
        assert time.monotonic() - start < 3
        assert (tmp_path / "file.part").read_bytes() == b"abc"

    def test_server_that_hangs_up(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/file"
            thread = threading.Thread(target=lambda: listening.accept()[0].close())
            thread.start()
            with pytest.raises(http_file.Unreachable, match="cannot be reached"):
                http_file.fetch(url, tmp_path / "file")
            thread.join()
        assert names(tmp_path) == []

    def test_proxy_that_is_not_there(self, server, closed_url, tmp_path, monkeypatch):
        """The message says that it is the proxy."""
        monkeypatch.setenv("http_proxy", closed_url)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        with pytest.raises(
            http_file.Unreachable, match=r"reached \(the proxy: .*Connection refused\)$"
        ):
            get(server, tmp_path)

    def test_password_is_not_told(self, closed_url, tmp_path):
        url = closed_url.replace("//", "//name:secret@")
        with pytest.raises(http_file.Unreachable) as caught:
            http_file.fetch(f"{url}/file", tmp_path / "file")
        assert f"{closed_url}/file: cannot" in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://a/b", "name", ""])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(http_file.FetchError, match="expected an http or https address"):
        http_file.fetch(url, tmp_path / "file")
    assert names(tmp_path) == []


def test_address_without_a_host_is_not_tried_again(tmp_path):
    start = time.monotonic()
    with pytest.raises(http_file.FetchError, match="expected an http or https"):
        http_file.fetch("http:///file", tmp_path / "file")
    assert time.monotonic() - start < 1


def test_folder_that_cannot_be_written(server, tmp_path):
    server.answers["/file"] = Answer(BODY)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match="file"):
        http_file.fetch(f"{server.url}/file", tmp_path / "file" / "file")


FETCH = "import sys; from pathlib import Path; " + (
    "from pipeline.system import http_file; "
    "http_file.fetch(sys.argv[1], Path(sys.argv[2]))"
)


def test_two_processes_fetch_one_file(server, tmp_path):
    """The second one waits, and takes what the first has got."""
    body = bytes(range(256)) * 40_000
    server.answers["/file"] = Answer(body)
    words = [sys.executable, "-c", FETCH, f"{server.url}/file", str(tmp_path / "file")]
    running = [
        subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)
    ]
    for process in running:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == body
    assert len(server.requests) == 1
