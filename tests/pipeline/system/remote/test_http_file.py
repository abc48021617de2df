import hashlib
import subprocess
import sys
import time

import pytest

from pipeline.system.remote import http_file
from pipeline.system.remote.http_file import DownloadError, UnreachableError
from tests.support import files
from tests.support.http_server import Answer

BODY = bytes(range(256)) * 2000  # 512,000 bytes
SHA256 = hashlib.sha256(BODY).hexdigest()
DIGEST = f"sha256:{SHA256}"
CUT = 300_000
HINT = ". The part that arrived is kept; run again"


def get(server, folder, **options):
    """Download /file to folder/file, with retries that follow at once."""
    options = {"digest": DIGEST, "size_bytes": len(BODY), "backoff_s": 0} | options
    http_file.download(f"{server.url}/file", folder / "file", **options)


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"digest": DIGEST[:15]},
        {"digest": f"sha1:{hashlib.sha1(BODY).hexdigest()}"},
        {"digest": "", "size_bytes": 0},
    ],
    ids=["hash and size", "hash begins", "sha1", "nothing"],
)
def test_a_complete_file_gets_its_name(server, tmp_path, known):
    server.answers["/file"] = Answer(BODY)
    get(server, tmp_path / "new" / "folder", **known)
    assert files.folder_content(tmp_path) == {"new/folder/file": BODY}
    assert server.requests == [("/file", None)]


class TestFileThatIsThere:
    def test_the_right_file_is_not_downloaded_again(self, server, tmp_path):
        (tmp_path / "file").write_bytes(BODY)
        get(server, tmp_path)
        assert server.requests == []

    @pytest.mark.parametrize(
        ("there", "message"),
        [
            (BODY[:-1], "expected 512,000 bytes, found 511,999"),
            (BODY[:-1] + b"x", f"expected sha256 {SHA256}, found "),
        ],
        ids=["size", "hash"],
    )
    def test_another_file_is_refused_and_kept(self, server, tmp_path, there, message):
        (tmp_path / "file").write_bytes(there)
        message = f"{tmp_path}/file: {message}.*Remove the file and run again"
        with pytest.raises(DownloadError, match=message):
            get(server, tmp_path)
        assert files.folder_content(tmp_path) == {"file": there}
        assert server.requests == []


class TestCutConnection:
    def test_a_download_continues_where_it_was_cut(self, server, tmp_path):
        server.answers["/file"] = Answer(BODY, cut_after=CUT)
        get(server, tmp_path)
        assert files.folder_content(tmp_path) == {"file": BODY}
        (first, second) = server.requests
        assert first == ("/file", None)
        begin = int(second[1].removeprefix("bytes=").removesuffix("-"))
        assert CUT - 65_536 <= begin <= CUT

    def test_a_fifth_cut_ends_a_call_and_the_next_continues(self, server, tmp_path):
        server.answers["/file"] = [Answer(BODY, cut_after=70_000) for _ in range(9)]
        with pytest.raises(DownloadError, match=f"{HINT}$"):
            get(server, tmp_path)
        assert len(server.requests) == 5
        kept = (tmp_path / "file.part").read_bytes()
        assert kept == BODY[: 5 * 65_536]

        server.answers["/file"] = Answer(BODY)
        get(server, tmp_path)
        assert server.requests[5:] == [("/file", f"bytes={len(kept)}-")]
        assert files.folder_content(tmp_path) == {"file": BODY}

    def test_a_file_that_changed_meanwhile_starts_from_zero(self, server, tmp_path):
        """Halves of two files are never put together."""
        server.answers["/file"] = [
            Answer(BODY[::-1], cut_after=CUT, etag='"old"'),
            Answer(BODY, etag='"new"'),
        ]
        get(server, tmp_path, digest="", size_bytes=0)
        assert [bool(part) for _, part in server.requests] == [False, True]
        assert files.folder_content(tmp_path) == {"file": BODY}

    @pytest.mark.parametrize(
        ("behaviour", "asks_for_part"),
        [
            ({"etag": 'W/"weak"'}, False),
            ({"etag": ""}, False),
            ({"ranges": False}, True),
        ],
        ids=["weak etag", "no etag", "no ranges"],
    )
    def test_a_server_that_cannot_continue_starts_from_zero(
        self, server, tmp_path, behaviour, asks_for_part
    ):
        server.answers["/file"] = Answer(BODY, cut_after=CUT, **behaviour)
        get(server, tmp_path, digest="", size_bytes=0)
        assert [bool(part) for _, part in server.requests] == [False, asks_for_part]
        assert (tmp_path / "file").read_bytes() == BODY

    def test_a_complete_part_gets_its_name(self, server, tmp_path):
        """A call was killed between the last byte and renaming; the answer is 416."""
        server.answers["/file"] = Answer(BODY)
        (tmp_path / "file.part").write_bytes(BODY)
        (tmp_path / "file.etag").write_text('"one"')
        get(server, tmp_path)
        assert server.requests == [("/file", f"bytes={len(BODY)}-")]
        assert files.folder_content(tmp_path) == {"file": BODY}

    def test_a_part_without_an_etag_is_not_used(self, server, tmp_path):
        server.answers["/file"] = Answer(BODY)
        (tmp_path / "file.part").write_bytes(b"something else")
        get(server, tmp_path)
        assert server.requests == [("/file", None)]
        assert (tmp_path / "file").read_bytes() == BODY


class TestWrongFile:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"x" + BODY[1:], rf"expected sha256 {SHA256}, found [0-9a-f]{{64}}\. "),
            (b"<html>Log in here</html>", "expected 512,000 bytes, found 24"),
        ],
        ids=["hash", "a portal answers"],
    )
    def test_a_wrong_file_leaves_nothing_behind(self, server, tmp_path, body, message):
        server.answers["/file"] = Answer(body)
        with pytest.raises(DownloadError, match=f"{server.url}/file: {message}"):
            get(server, tmp_path)
        assert files.folder_content(tmp_path) == {}

    def test_a_damaged_part_is_removed(self, server, tmp_path):
        server.answers["/file"] = Answer(BODY)
        (tmp_path / "file.part").write_bytes(b"x" * 1000)
        (tmp_path / "file.etag").write_text('"one"')
        with pytest.raises(DownloadError, match="sha256"):
            get(server, tmp_path)
        assert files.folder_content(tmp_path) == {}
        get(server, tmp_path)
        assert (tmp_path / "file").read_bytes() == BODY

    def test_a_download_stops_when_more_arrives_than_expected(self, server, tmp_path):
        """A server without end cannot fill the disk."""
        server.answers["/file"] = Answer(BODY * 20)
        with pytest.raises(DownloadError, match="1,000 bytes, found 65,536"):
            get(server, tmp_path, size_bytes=1000)
        assert files.folder_content(tmp_path) == {}


class TestRefusal:
    @pytest.mark.parametrize(
        ("status", "reason", "num_requests"),
        [(404, "404 Not Found", 1), (500, "500 Internal Server Error", 5)],
    )
    def test_only_server_errors_are_repeated(
        self, server, tmp_path, status, reason, num_requests
    ):
        server.answers["/file"] = Answer(b"no", status=status)
        with pytest.raises(DownloadError, match=f"/file: the server answers {reason}$"):
            get(server, tmp_path)
        assert len(server.requests) == num_requests
        assert files.folder_content(tmp_path) == {}

    def test_an_error_page_does_not_touch_the_part(self, server, tmp_path):
        server.answers["/file"] = [
            Answer(BODY, cut_after=CUT),
            Answer(b"no", status=403, etag=""),
        ]
        with pytest.raises(DownloadError, match=r"403.*is kept; run again"):
            get(server, tmp_path)
        assert (tmp_path / "file.part").stat().st_size >= CUT - 65_536

    def test_pauses_grow_after_the_first(self, server, tmp_path):
        busy = [Answer(status=503), Answer(b"broken", status=500), Answer(status=503)]
        server.answers["/file"] = [*busy, Answer(BODY)]
        start = time.monotonic()
        get(server, tmp_path, backoff_s=0.05)
        assert (tmp_path / "file").read_bytes() == BODY
        assert time.monotonic() - start >= 0.1 + 0.2


class TestUnreachable:
    @pytest.mark.parametrize(
        ("part", "end"), [({}, ""), ({"file.part": "abc", "file.etag": "1"}, HINT)]
    )
    def test_a_closed_port_is_reported_in_seconds(
        self, closed_url, tmp_path, part, end
    ):
        for name, text in part.items():
            (tmp_path / name).write_text(text)
        start = time.monotonic()
        message = rf"/file: cannot be reached \(.*Connection refused\){end}$"
        with pytest.raises(UnreachableError, match=message):
            http_file.download(f"{closed_url}/file", tmp_path / "file")
        assert time.monotonic() - start < 3
        assert {path.name for path in tmp_path.iterdir()} == part.keys()

    def test_a_password_is_not_shown(self, closed_url, tmp_path):
        url = closed_url.replace("//", "//name:secret@")
        with pytest.raises(UnreachableError, match=f"{closed_url}/file: ") as caught:
            http_file.download(f"{url}/file", tmp_path / "file")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["file:///a", "http:///a", "ftp://a/b", "name", ""])
def test_other_addresses_than_http_are_refused(tmp_path, url):
    with pytest.raises(DownloadError, match="expected an http or https address"):
        http_file.download(url, tmp_path / "file")
    assert files.folder_content(tmp_path) == {}


DOWNLOAD = "import sys; from pathlib import Path; " + (
    "from pipeline.system.remote import http_file; "
    "http_file.download(sys.argv[1], Path(sys.argv[2]))"
)


def test_processes_share_one_download(server, tmp_path):
    """The others wait for the first one and use its file."""
    body = bytes(range(256)) * 40_000
    server.answers["/file"] = Answer(body)
    words = [sys.executable, "-c", DOWNLOAD, f"{server.url}/file", tmp_path / "file"]
    running = [subprocess.Popen(words, cwd=files.ROOT) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert files.folder_content(tmp_path) == {"file": body}
    assert len(server.requests) == 1
