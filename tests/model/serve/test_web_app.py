"""What the server says, to whom, and what it refuses."""

import base64
import dataclasses
import io
import json
import threading
import time
import zlib

import cv2
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("httpx2", reason="tests/requirements.txt is not installed")

from starlette.testclient import TestClient

from model.predict import classifier
from model.serve import prediction_service, web_app, web_guard
from pipeline.images import opencv
from pipeline.system import sandbox
from tests import conftest

LIMITS = web_app.Limits(
    max_upload_bytes=1 << 20,
    max_requests=4,
    upload_timeout_s=5,
    unknown_below=0.0,
    top=2,
)
URL = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def answering(shared_run):
    found = prediction_service.Service(
        classifier.of_run(str(shared_run)), max_pixels=1_000_000, decode_timeout_s=30
    )
    yield found
    found.close()


def client_of(answering, limits=LIMITS):
    application = web_app.application(answering, limits, web_guard.LOOPBACK_HOSTS)
    return TestClient(application, base_url=URL, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(answering):
    return client_of(answering)


def photo(class_name="red", extension=".jpg", number=1):
    pixels = conftest.draw_photo(class_name, number)
    return cv2.imencode(extension, pixels)[1].tobytes()


class TestPredict:
    def test_bytes(self, client):
        found = client.post("/predict", content=photo()).json()
        assert found["answer"] == found["classes"][0]["class"] == "red"
        assert len(found["classes"]) == 2
        assert found["unknown"] is False
        assert 0.3 < found["probability"] <= 1
        assert "seen" not in found

    def test_a_form(self, client):
        data = photo("blue")
        found = client.post(
            "/predict?top=1",
            files={"file": ("../../etc/passwd", data)},
            data={"note": "x"},
        )
        assert found.json()["answer"] == "blue"
        assert len(found.json()["classes"]) == 1

    def test_why(self, client):
        found = client.post("/predict?explain=1", content=photo()).json()
        for name in ("seen", "looked_at"):
            head, _, body = found[name].partition(",")
            assert head == "data:image/jpeg;base64"
            assert len(body) > 1000
        assert len(found["nearest"]) == prediction_service.NEIGHBOURS
        for near in found["nearest"]:
            answer = client.get(near["thumbnail"])
            assert answer.headers["content-type"] == "image/jpeg"
            assert answer.content[:2] == b"\xff\xd8"

    def test_thumbnails_are_named_by_what_they_show(self, client, answering):
        """Browsers keep them, and another run's may be served at the same port."""
        found = client.post("/predict?explain=1", content=photo()).json()
        rows = {row.path: row for row in answering.explainer.index.rows}
        for near in found["nearest"]:
            sha256 = rows[near["photo"]].sha256
            assert near["thumbnail"] == f"/thumbnails/{sha256}"
            answer = client.get(near["thumbnail"])
            assert answer.headers["cache-control"] == "private, max-age=3600"

    def test_unknown(self, answering, monkeypatch):
        unsure = dataclasses.replace(answering.chosen, temperature=100.0)
        monkeypatch.setattr(answering, "chosen", unsure)
        limits = dataclasses.replace(LIMITS, unknown_below=1.0)
        found = client_of(answering, limits).post("/predict", content=photo()).json()
        assert (found["answer"], found["unknown"]) == ("unknown", True)
        assert found["classes"][0]["class"] == "red"


def bomb():
    """A PNG that says it has 30,000 x 30,000 pixels."""
    data = bytearray(photo(extension=".png"))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


HOSTILE = {
    "nothing": (b"", 400, "empty file"),
    "text": (b"<script>alert(1)</script>", 415, "not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "not an image"),
    "pdf": (b"%PDF-1.7", 415, "a PDF file"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", 415, "HEIC"),
    "cut png": (photo(extension=".png")[:300], 422, "PNG that does not decode"),
    "cut jpeg": (photo()[:60], 422, "JPEG that does not decode"),
    "zeros": (bytes(10_000), 415, "not an image"),
    "bomb": (bomb(), 413, "larger than 1,000,000 pixels"),
    "large file": (bytes((1 << 20) + 1), 413, "larger than 1 MB"),
    "very large file": (bytes(5 << 20), 413, "larger than 1 MB"),
}


class TestHostile:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_uploads(self, client, name):
        data, status, reason = HOSTILE[name]
        for answer in (
            client.post("/predict?explain=1", content=data),
            client.post("/predict", files={"file": ("a.jpg", data)}),
        ):
            assert answer.status_code == status, answer.text
            assert reason in answer.json()["error"]
        assert client.post("/predict", content=photo()).status_code == 200

    def test_random_damage(self, client):
        random = np.random.default_rng(1)
        for extension in (".jpg", ".png", ".webp", ".tiff", ".bmp"):
            data = np.frombuffer(photo(extension=extension), np.uint8)
            for _ in range(6):
                bad = data.copy()
                bad[random.integers(0, len(bad), 20)] = random.integers(0, 256, 20)
                answer = client.post("/predict", content=bad.tobytes())
                assert answer.status_code in (200, 413, 415, 422), answer.text
                assert answer.json()

    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            (b"x", "multipart/form-data"),
            (b"x", "multipart/form-data; boundary=y"),
            (b"--y\r\n\r\n", "multipart/form-data; boundary=y"),
            (b"--y--\r\n", "multipart/form-data; boundary=y"),
            (
                b'--y\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
                b"b\r\n--y--\r\n",
                "multipart/form-data; boundary=y",
            ),
            (b"--y\r\n" * 10_000, "multipart/form-data; boundary=y"),
        ],
        ids=range(6),
    )
    def test_forms_that_are_none(self, client, body, kind):
        answer = client.post("/predict", content=body, headers={"content-type": kind})
        assert answer.status_code == 400
        assert "form" in answer.json()["error"]

    @pytest.mark.parametrize(
        "query",
        ["top=0", "top=-1", "top=x", "top=9999999", "explain=yes", "top=²", "up=1"],
    )
    def test_queries(self, client, query):
        answer = client.post(f"/predict?{query}", content=photo())
        assert answer.status_code == 400
        assert "expected" in answer.json()["error"]

    @pytest.mark.parametrize(
        "path",
        [
            "/thumbnails/0",
            "/thumbnails/" + "9" * 5000,
            "/thumbnails/" + "f" * 64,
            "/thumbnails/-1",
            "/thumbnails/..%2f..%2fetc%2fpasswd",
            "/page/..%2fserve.html",
            "/page/serve.html",
            "/page/__init__.py",
            "/etc/passwd",
            "/predict/x",
        ],
    )
    def test_paths(self, client, path):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]

    def test_methods(self, client):
        assert client.get("/predict").status_code == 405
        assert client.post("/").json()["error"]

    def test_a_decoder_that_does_not_start(self, answering, monkeypatch):
        def fail(*_, **__):
            raise sandbox.NotStarted("a decoder did not start")

        monkeypatch.setattr(answering, "answer", fail)
        answer = client_of(answering).post("/predict", content=photo())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "try again" in answer.json()["error"]

    def test_a_fault_of_ours_is_no_traceback(self, answering, monkeypatch):
        def fail(*_, **__):
            raise RuntimeError("secret")

        monkeypatch.setattr(answering, "answer", fail)
        answer = client_of(answering).post("/predict", content=photo())
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert answer.json()["error"].startswith("a fault of the server")


class TestWhoMayAsk:
    @pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "[::2]"])
    def test_other_names(self, client, host):
        answer = client.get("/health", headers={"host": host})
        assert answer.status_code == 421

    @pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:1"])
    def test_names_of_this_machine(self, client, host):
        assert client.get("/health", headers={"host": host}).status_code == 200

    def test_pages_of_other_sites(self, client):
        for origin in ("http://evil.example", "null", "http://[bad"):
            answer = client.post(
                "/predict", content=photo(), headers={"origin": origin}
            )
            assert answer.status_code == 403
        answer = client.post("/predict", content=photo(), headers={"origin": URL})
        assert answer.status_code == 200

    def test_any_name(self, answering):
        application = web_app.application(answering, LIMITS, frozenset())
        client = TestClient(application, base_url="http://flowers.example")
        assert client.get("/health").status_code == 200
        headers = {"origin": "http://evil.example"}
        assert client.get("/health", headers=headers).status_code == 403


def test_headers(client):
    for path in ("/", "/page/serve.js", "/health", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_health(client):
    found = client.get("/health").json()
    assert found["status"] == "ready"
    assert found["classes"] == ["blue", "green", "red"]
    assert found["under_way"] == 0


def test_too_many_at_once(answering, monkeypatch):
    """Those that are turned away are told when to come back; the others are served."""
    client = client_of(answering)
    go_on = threading.Event()
    right = answering.answer

    def slow(*words, **how):
        go_on.wait(20)
        return right(*words, **how)

    monkeypatch.setattr(answering, "answer", slow)
    found = []
    with client:
        threads = [
            threading.Thread(
                target=lambda: found.append(client.post("/predict", content=photo()))
            )
            for _ in range(LIMITS.max_requests)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while client.get("/health").json()["under_way"] < LIMITS.max_requests:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        refused = client.post("/predict", content=photo())
        go_on.set()
        for thread in threads:
            thread.join()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert [answer.status_code for answer in found] == [200] * LIMITS.max_requests
    assert client.post("/predict", content=photo()).status_code == 200


def test_names_are_escaped(answering, monkeypatch):
    names = ("<script>alert(1)</script>", "b\udcff", '"quoted"')
    hostile = dataclasses.replace(answering.chosen, class_names=names, name="<b>")
    monkeypatch.setattr(answering, "chosen", hostile)
    client = client_of(answering)
    text = client.get("/").text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<b>" not in text
    found = client.post("/predict?top=3&explain=1", content=photo()).json()
    assert {one["class"] for one in found["classes"]} == {names[0], "b\\xff", names[2]}
    assert json.dumps(client.get("/health").json())


def test_pictures_are_what_the_network_saw(client):
    found = client.post("/predict?explain=1", content=photo()).json()
    data = base64.b64decode(found["seen"].partition(",")[2])
    assert opencv.decode_rgb(data).shape == (224, 224, 3)
    assert io.BytesIO(data).read(2) == b"\xff\xd8"
