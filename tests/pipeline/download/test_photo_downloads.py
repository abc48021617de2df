import contextlib
import hashlib
import itertools
import socketserver
import threading
import time

import pytest

from pipeline.download import photo_downloads
from pipeline.system import http_file
from tests.conftest import Answer

JPEG = b"\xff\xd8\xff\xe0" + b"x" * 1000


def get(urls, target, *, refused=(), **how):
    """[(status, reason)] of these addresses, fetched into 0.jpg, 1.jpg and so on."""
    wanted = [
        photo_downloads.Wanted(url=url, path=f"x/{number}.jpg")
        for number, url in enumerate(urls)
    ]
    how = {"workers": 4, "min_bytes": 500, "timeout_s": 5, "patience_s": 0.01} | how
    target.mkdir(exist_ok=True)
    outcomes = {}
    photo_downloads.fetch_all(
        wanted, target, photo_downloads.How(refused=frozenset(refused), **how), outcomes
    )
    return [(outcomes[n].status, outcomes[n].reason) for n in range(len(wanted))]


def files(target):
    return sorted(p.relative_to(target).as_posix() for p in target.rglob("*.*"))


def test_images_are_kept(server, tmp_path):
    kinds = {
        "jpeg": JPEG,
        "png": b"\x89PNG\r\n\x1a\n" + b"x" * 1000,
        "gif": b"GIF89a" + b"x" * 1000,
        "webp": b"RIFF1234WEBP" + b"x" * 1000,
    }
    for name, body in kinds.items():
        server.answers[f"/{name}"] = Answer(body)
    found = get([f"{server.url}/{name}" for name in kinds], tmp_path / "t")
    assert found == [("fetched", "")] * 4
    assert [(tmp_path / "t" / "x" / f"{n}.jpg").read_bytes() for n in range(4)] == [
        *kinds.values()
    ]
    server.requests.clear()
    found = get([f"{server.url}/{name}" for name in kinds], tmp_path / "t")
    assert found == [("there", "")] * 4
    assert server.requests == []


PLACEHOLDER = b"\xff\xd8\xff\xe0" + b"gone" * 500


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=404), "the server answers 404 Not Found"),
        (Answer(status=410), "the server answers 410 Gone"),
        (Answer(JPEG, status=500), "the server answers 500 Internal Server Error"),
        (Answer(b"\n <!DOCTYPE html>" + b"x" * 1000), "a web page, no image"),
        (Answer(b"x" * 1000), "no image"),
        (Answer(b"%PDF-1.4" + b"x" * 1000), "no image"),
        (Answer(b""), "fewer than 500 bytes"),
        (Answer(JPEG[:499]), "fewer than 500 bytes"),
        (Answer(PLACEHOLDER), "a placeholder (refused SHA-1)"),
        (
            Answer(JPEG, headers={"Location": "/photo"}, status=302),
            "too many redirects",
        ),
        (
            Answer(status=302, headers={"Location": "file:///etc/passwd"}),
            "No connection adapters were found for 'file:///etc/passwd'",
        ),
        (Answer(JPEG, trickle_s=0.1), "not complete after 0.5 s"),
    ],
    ids=[
        "404",
        "410",
        "500",
        "web page",
        "text",
        "PDF",
        "empty",
        "small",
        "placeholder",
        "redirect loop",
        "redirect to a file",
        "trickle",
    ],
)
def test_what_is_no_photo(server, tmp_path, answer, reason):
    server.answers["/photo"] = answer
    server.answers["/good"] = Answer(JPEG)
    digest = hashlib.sha1(PLACEHOLDER).hexdigest()
    start = time.monotonic()
    found = get(
        [f"{server.url}/photo", f"{server.url}/good"],
        tmp_path / "t",
        refused=(digest,),
        timeout_s=0.5,
    )
    assert time.monotonic() - start < 3
    assert found == [("failed", reason), ("fetched", "")]
    assert files(tmp_path / "t") == ["x/1.jpg"]


def test_redirects_are_followed(server, tmp_path):
    server.answers["/a"] = Answer(status=301, headers={"Location": "/b"})
    server.answers["/b"] = Answer(status=302, headers={"Location": "/c"})
    server.answers["/c"] = Answer(JPEG)
    assert get([f"{server.url}/a"], tmp_path / "t") == [("fetched", "")]


@contextlib.contextmanager
def endless(begin, more):
    """The address of a server that never stops saying `more`."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(4096)
            self.request.sendall(begin)
            with contextlib.suppress(OSError):
                while not stop.wait(0.01):
                    self.request.sendall(more)

    stop = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            stop.set()
            running.shutdown()
            thread.join()


def test_what_comes_with_a_redirect_is_not_read(server, tmp_path):
    server.answers["/good"] = Answer(JPEG)
    begin = f"HTTP/1.1 302 Found\r\nLocation: {server.url}/good\r\n\r\n".encode()
    start = time.monotonic()
    with endless(begin, b"x" * 1000) as url:
        assert get([url], tmp_path / "t") == [("fetched", "")]
    assert time.monotonic() - start < 3


def test_a_server_that_trickles_its_headers_is_given_up(server, tmp_path):
    server.answers["/good"] = Answer(JPEG)
    with endless(b"HTTP/1.1 200 OK\r\nX-More: ", b"x") as url:
        urls = [*(f"{url}/{number}" for number in range(5)), f"{server.url}/good"]
        found = get(urls, tmp_path / "t", workers=2, timeout_s=0.2)
    assert found[-1] == ("fetched", "")
    late = [("failed", "not complete after 0.8 s")]
    assert found[:4] == late * 4  # two at once
    assert found[4] == ("failed", f"{url} cannot be reached")


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(JPEG, cut_after=300), Answer(JPEG)],
        [Answer(JPEG, cut_after=300), Answer(status=503), Answer(JPEG)],
        [Answer(b"x", status=429, headers={"Retry-After": "1"}), Answer(JPEG)],
    ],
    ids=["cut", "cut and busy", "asked to wait"],
)
def test_what_passes_is_tried_again(server, tmp_path, answers):
    waits = "Retry-After" in answers[0].headers
    server.answers["/photo"] = answers
    start = time.monotonic()
    assert get([f"{server.url}/photo"], tmp_path / "t") == [("fetched", "")]
    assert (time.monotonic() - start >= 1) == waits
    assert (tmp_path / "t" / "x" / "0.jpg").read_bytes() == JPEG


def test_cut_again_and_again(server, tmp_path):
    server.answers["/photo"] = [Answer(JPEG, cut_after=300) for _ in range(9)]
    ((status, reason),) = get([f"{server.url}/photo"], tmp_path / "t")
    assert status == "failed"
    assert "300 bytes read" in reason
    assert len(server.requests) == 3
    assert files(tmp_path / "t") == []


def test_too_large(server, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_downloads, "_MAX_PHOTO_BYTES", 100_000)
    server.answers["/photo"] = Answer(JPEG + b"x" * 1_000_000)
    found = get([f"{server.url}/photo"], tmp_path / "t")
    assert found == [("failed", "more than 100,000 bytes")]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "ftp://a/b.jpg",
        "photo.jpg",
        "http:///a.jpg",
        "http://[/a.jpg",
        "data:image/png;base64,AAAA",
    ],
)
def test_other_addresses_are_refused(tmp_path, url):
    found = get([url], tmp_path / "t")
    assert found == [("failed", "expected an http or https address")]


@pytest.mark.parametrize(
    "url", ["http://a..b/c", f"http://{'x' * 70}/", "http://a:b/c"]
)
def test_addresses_that_cannot_be(server, tmp_path, url):
    server.answers["/good"] = Answer(JPEG)
    found = get([f"{server.url}/good", url], tmp_path / "t", workers=1)
    assert [status for status, _ in found] == ["fetched", "failed"]


def test_a_server_that_is_gone_costs_no_time(server, closed_url, tmp_path):
    """It is not asked again and again, and does not stop the others."""
    server.answers["/good"] = Answer(JPEG)
    urls = [f"{server.url}/good"]
    urls += itertools.chain(
        *([f"{closed_url}/{n}", f"{server.url}/n"] for n in range(50))
    )
    found = get(urls, tmp_path / "t", workers=1)
    assert found[0] == ("fetched", "")
    reasons = [reason for _, reason in found[1::2]]
    assert all("cannot be reached (" in reason for reason in reasons[:3])
    assert reasons[3:] == [f"{closed_url} cannot be reached"] * 47
    assert {reason for _, reason in found[2::2]} == {"the server answers 404 Not Found"}


def test_offline(closed_url, tmp_path):
    with pytest.raises(
        http_file.Unreachable, match=r"cannot be reached .*no server of the"
    ):
        get([f"{closed_url}/{number}" for number in range(100)], tmp_path / "t")
    assert files(tmp_path / "t") == []


def test_offline_with_all_there(closed_url, tmp_path):
    (tmp_path / "t" / "x").mkdir(parents=True)
    (tmp_path / "t" / "x" / "0.jpg").write_bytes(JPEG)
    assert get([f"{closed_url}/0"], tmp_path / "t") == [("there", "")]


def test_a_file_that_cannot_be_written_ends_it(server, tmp_path):
    server.answers["/good"] = Answer(JPEG)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x").write_text("a file")
    with pytest.raises(OSError, match="x"):
        get([f"{server.url}/good"], tmp_path / "t")


def test_password_is_not_told(server, tmp_path):
    url = server.url.replace("//", "//name:secret@")
    ((_, reason),) = get([f"{url}/nothing"], tmp_path / "t")
    assert reason == "the server answers 404 Not Found"
