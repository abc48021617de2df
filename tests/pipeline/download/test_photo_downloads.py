import hashlib
import time

import pytest

from pipeline.download import download_settings, url_list
from tests.support import files
from tests.support.http_server import Answer

JPEG = b"\xff\xd8\xff\xe0" + b"x" * 1000
PLACEHOLDER = b"\xff\xd8\xff\xe0" + b"gone" * 500
SHA1 = hashlib.sha1(PLACEHOLDER).hexdigest()


def get(urls, target, workers=4, **limits):
    """[(status, reason)] of these addresses, downloaded to 0.jpg, 1.jpg and so on."""
    photos = [
        url_list.Photo(url=url, path=f"x/{number}.jpg", class_name="x", split="")
        for number, url in enumerate(urls)
    ]
    config = download_settings.Config(
        urls="list.csv", target=str(target), refuse_sha1=SHA1, workers=workers
    )
    options = {"timeout_s": 5, "backoff_s": 0} | limits
    outcomes = dict(url_list.download_all(photos, config, **options))
    results = [outcomes[photo.path] for photo in photos]
    for photo, outcome in zip(photos, results, strict=True):
        on_disk = url_list.outcome_on_disk(config, photo)
        assert on_disk.is_there == outcome.is_there
    return [(outcome.status, outcome.reason) for outcome in results]


def test_images_are_kept(server, tmp_path):
    kinds = {
        "0": JPEG,
        "1": b"\x89PNG\r\n\x1a\n" + b"x" * 1000,
        "2": b"GIF89a" + b"x" * 1000,
        "3": b"RIFF1234WEBP" + b"x" * 1000,
    }
    for name, body in kinds.items():
        server.answers[f"/{name}"] = Answer(body)
    results = get([f"{server.url}/{name}" for name in kinds], tmp_path)
    assert results == [("fetched", "")] * 4
    assert files.folder_content(tmp_path) == {
        f"x/{name}.jpg": body for name, body in kinds.items()
    }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(status=404), "the server answers 404 Not Found"),
        (Answer(b"\n <!DOCTYPE html>" + b"x" * 1000), "a web page, not an image"),
        (Answer(b"x" * 1000), "not an image"),
        (Answer(b"%PDF-1.4" + b"x" * 1000), "not an image"),
        (Answer(JPEG[:499]), "fewer than 500 bytes"),
        (Answer(PLACEHOLDER), "a placeholder (refused SHA-1)"),
        (Answer(status=302, headers={"Location": "/photo"}), "too many redirects"),
        (
            Answer(status=302, headers={"Location": "file:///etc/passwd"}),
            "No connection adapters were found for 'file:///etc/passwd'",
        ),
        (Answer(JPEG, trickle_s=0.1), "not complete after 0.5 s"),
        (Answer(JPEG + b"x" * 1_000_000), "more than 100,000 bytes"),
    ],
)
def test_what_is_not_a_photo_is_refused_with_the_reason(
    server, tmp_path, answer, reason
):
    server.answers |= {"/photo": answer, "/good": Answer(JPEG)}
    urls = [f"{server.url}/photo", f"{server.url}/good"]
    start = time.monotonic()
    results = get(urls, tmp_path, timeout_s=0.5, max_bytes=100_000)
    assert time.monotonic() - start < 3
    assert results == [("failed", reason), ("fetched", "")]
    assert list(files.folder_content(tmp_path)) == ["x/1.jpg"]


def test_redirects_are_followed(server, tmp_path):
    server.answers["/a"] = Answer(status=301, headers={"Location": "/b"})
    server.answers["/b"] = Answer(status=302, headers={"Location": "/c"})
    server.answers["/c"] = Answer(JPEG)
    assert get([f"{server.url}/a"], tmp_path) == [("fetched", "")]


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
    assert get([f"{server.url}/photo"], tmp_path) == [("fetched", "")]
    assert (time.monotonic() - start >= 1) == waits
    assert (tmp_path / "x" / "0.jpg").read_bytes() == JPEG


def test_a_connection_that_always_breaks_is_given_up(server, tmp_path):
    server.answers["/photo"] = [Answer(JPEG, cut_after=300) for _ in range(9)]
    ((status, reason),) = get([f"{server.url}/photo"], tmp_path)
    assert status == "failed"
    assert "300 bytes read" in reason
    assert len(server.requests) == 3
    assert files.folder_content(tmp_path) == {}


@pytest.mark.parametrize(
    "url",
    [
        *("", "file:///etc/passwd", "http:///a.jpg", "http://[/a.jpg"),
        *("http://a..b/c", f"http://{'x' * 70}/", "http://a:b/c"),
    ],
)
def test_addresses_that_cannot_exist_fail_alone(server, tmp_path, url):
    server.answers["/good"] = Answer(JPEG)
    results = get([f"{server.url}/good", url], tmp_path, workers=1)
    assert [status for status, _ in results] == ["fetched", "failed"]


def test_a_server_that_is_down_is_not_asked_again(server, closed_url, tmp_path):
    """Neither does it stop the downloads from other servers."""
    server.answers["/good"] = Answer(JPEG)
    urls = [f"{server.url}/good"]
    for number in range(50):
        urls += [f"{closed_url}/{number}", f"{server.url}/{number}"]
    results = get(urls, tmp_path, workers=1)
    assert results[0] == ("fetched", "")
    reasons = [reason for _, reason in results[1::2]]
    num_tries = sum("cannot be reached (" in reason for reason in reasons)
    assert 3 <= num_tries <= 4  # the fourth photo waits its turn meanwhile
    assert reasons[num_tries:] == [f"{closed_url} cannot be reached"] * (50 - num_tries)
    assert {r for _, r in results[2::2]} == {"the server answers 404 Not Found"}
