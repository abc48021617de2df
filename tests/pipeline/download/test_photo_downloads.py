import contextlib
import hashlib
import socketserver
import threading
import time

import pytest

from pipeline.download import photo_downloads
from tests.support.http_server import Answer

JPEG = b"\xff\xd8\xff\xe0" + b"x" * 1000


def get(urls, target, *, refused=(), **options):
    """[(status, reason)] of these addresses, downloaded to 0.jpg, 1.jpg and so on."""
    photos = [
        photo_downloads.Photo(url=url, path=f"x/{number}.jpg", class_name="x", split="")
        for number, url in enumerate(urls)
    ]
    options = {"workers": 4, "min_bytes": 500, "timeout_s": 5, "backoff_s": 0} | options
    target.mkdir(exist_ok=True)
    options = photo_downloads.DownloadOptions(refused=frozenset(refused), **options)
    outcomes = dict(photo_downloads.download_all(photos, target, options))
    results = [outcomes[photo.path] for photo in photos]
    return [(outcome.status, outcome.reason) for outcome in results]


def names(target):
    return sorted(p.relative_to(target).as_posix() for p in target.rglob("*.*"))


def test_images_are_kept_and_not_downloaded_again(server, tmp_path):
    kinds = {
        "jpeg": JPEG,
        "png": b"\x89PNG\r\n\x1a\n" + b"x" * 1000,
        "gif": b"GIF89a" + b"x" * 1000,
        "webp": b"RIFF1234WEBP" + b"x" * 1000,
    }
    for name, body in kinds.items():
        server.answers[f"/{name}"] = Answer(body)
    results = get([f"{server.url}/{name}" for name in kinds], tmp_path / "t")
    assert results == [("fetched", "")] * 4
    assert [(tmp_path / "t" / "x" / f"{n}.jpg").read_bytes() for n in range(4)] == [
        *kinds.values()
    ]
    server.requests.clear()
    results = get([f"{server.url}/{name}" for name in kinds], tmp_path / "t")
    assert results == [("there", "")] * 4
    assert server.requests == []


PLACEHOLDER = b"\xff\xd8\xff\xe0" + b"gone" * 500


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=404), "the server answers 404 Not Found"),
        (Answer(status=410), "the server answers 410 Gone"),
        (Answer(JPEG, status=500), "the server answers 500 Internal Server Error"),
        (Answer(b"\n <!DOCTYPE html>" + b"x" * 1000), "a web page, not an image"),
        (Answer(b"x" * 1000), "not an image"),
        (Answer(b"%PDF-1.4" + b"x" * 1000), "not an image"),
        (Answer(b""), "fewer than 500 bytes"),
        (Answer(JPEG[:499]), "fewer than 500 bytes"),
        (Answer(PLACEHOLDER), "a placeholder (refused SHA-1)"),
        (Answer(status=302, headers={"Location": "/photo"}), "too many redirects"),
        (
            Answer(status=302, headers={"Location": "file:///etc/passwd"}),
            "No connection adapters were found for 'file:///etc/passwd'",
        ),
        (Answer(JPEG, trickle_s=0.1), "not complete after 0.5 s"),
    ],
)
def test_what_is_not_a_photo_is_refused_with_the_reason(
    server, tmp_path, answer, reason
):
    server.answers["/photo"] = answer
    server.answers["/good"] = Answer(JPEG)
    digest = hashlib.sha1(PLACEHOLDER).hexdigest()
    start = time.monotonic()
    results = get(
        [f"{server.url}/photo", f"{server.url}/good"],
        tmp_path / "t",
        refused=(digest,),
        timeout_s=0.5,
    )
    assert time.monotonic() - start < 3
    assert results == [("failed", reason), ("fetched", "")]
    assert names(tmp_path / "t") == ["x/1.jpg"]


def test_redirects_are_followed(server, tmp_path):
    server.answers["/a"] = Answer(status=301, headers={"Location": "/b"})
    server.answers["/b"] = Answer(status=302, headers={"Location": "/c"})
    server.answers["/c"] = Answer(JPEG)
    assert get([f"{server.url}/a"], tmp_path / "t") == [("fetched", "")]


@contextlib.contextmanager
def endless(begin, repeated):
    """The address of a server that sends `begin`, and `repeated` without end."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(4096)
            self.request.sendall(begin)
            with contextlib.suppress(OSError):
                while not stop.wait(0.01):
                    self.request.sendall(repeated)

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


def test_a_server_that_trickles_its_headers_is_given_up(server, tmp_path):
    server.answers["/good"] = Answer(JPEG)
    with endless(b"HTTP/1.1 200 OK\r\nX-More: ", b"x") as url:
        urls = [*(f"{url}/{number}" for number in range(5)), f"{server.url}/good"]
        results = get(urls, tmp_path / "t", workers=2, timeout_s=0.2)
    assert results == [("failed", "not complete after 0.2 s")] * 5 + [("fetched", "")]


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(JPEG, cut_after=300), Answer(JPEG)],
        [Answer(JPEG, cut_after=300), Answer(status=503), Answer(JPEG)],
        [Answer(b"x", status=429, headers={"Retry-After": "1"}), Answer(JPEG)],
    ],
    ids=["cut", "cut and busy", "asked to wait"],
)
def test_a_passing_failure_is_tried_again(server, tmp_path, answers):
    waits = "Retry-After" in answers[0].headers
    server.answers["/photo"] = answers
    start = time.monotonic()
    assert get([f"{server.url}/photo"], tmp_path / "t") == [("fetched", "")]
    assert (time.monotonic() - start >= 1) == waits
    assert (tmp_path / "t" / "x" / "0.jpg").read_bytes() == JPEG


def test_a_connection_that_always_breaks_is_given_up(server, tmp_path):
    server.answers["/photo"] = [Answer(JPEG, cut_after=300) for _ in range(9)]
    ((status, reason),) = get([f"{server.url}/photo"], tmp_path / "t")
    assert status == "failed"
    assert "300 bytes read" in reason
    assert len(server.requests) == 3
    assert names(tmp_path / "t") == []


def test_a_file_above_the_size_limit_is_refused(server, tmp_path):
    server.answers["/photo"] = Answer(JPEG + b"x" * 1_000_000)
    results = get([f"{server.url}/photo"], tmp_path / "t", max_bytes=100_000)
    assert results == [("failed", "more than 100,000 bytes")]


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
def test_other_addresses_than_http_are_refused(tmp_path, url):
    results = get([url], tmp_path / "t")
    assert results == [("failed", "expected an http or https address")]


@pytest.mark.parametrize(
    "url", ["http://a..b/c", f"http://{'x' * 70}/", "http://a:b/c"]
)
def test_addresses_that_cannot_exist_fail_alone(server, tmp_path, url):
    server.answers["/good"] = Answer(JPEG)
    results = get([f"{server.url}/good", url], tmp_path / "t", workers=1)
    assert [status for status, _ in results] == ["fetched", "failed"]


def test_a_server_that_is_down_is_not_asked_again(server, closed_url, tmp_path):
    """Neither does it stop the downloads from other servers."""
    server.answers["/good"] = Answer(JPEG)
    urls = [f"{server.url}/good"]
    for number in range(50):
        urls += [f"{closed_url}/{number}", f"{server.url}/{number}"]
    results = get(urls, tmp_path / "t", workers=1)
    assert results[0] == ("fetched", "")
    reasons = [reason for _, reason in results[1::2]]
    num_tries = sum("cannot be reached (" in reason for reason in reasons)
    assert 3 <= num_tries <= 4  # the fourth photo waits its turn meanwhile
    assert reasons[num_tries:] == [f"{closed_url} cannot be reached"] * (50 - num_tries)
    assert {r for _, r in results[2::2]} == {"the server answers 404 Not Found"}
