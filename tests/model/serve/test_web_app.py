"""Responses to browsers and programs, and requests that are refused."""

import base64
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import socket
import threading
import time
import zlib

import numpy as np
import pytest
import requests

from model.serve import (
    collected_photos,
    prediction_service,
    serve_settings,
    web_app,
)
from pipeline.images import opencv
from pipeline.system import sandbox
from tests.support import conversions, drawn_photos, server_process

CONFIG = {"max_upload_mb": 1, "max_requests": 4, "upload_timeout_s": 5, "top": 2}


class Client:
    """Requests to a server in a thread of this process."""

    def __init__(self, port):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def request(self, method, path, **options):
        return requests.request(method, self.url + path, timeout=30, **options)

    get = functools.partialmethod(request, "GET")
    post = functools.partialmethod(request, "POST")
    head = functools.partialmethod(request, "HEAD")


@contextlib.contextmanager
def running(service, **changed):
    config = serve_settings.Config(**CONFIG | changed)
    application = web_app.application(service, config)
    with server_process.in_thread(application, config.upload_timeout_s) as port:
        yield Client(port)


@pytest.fixture(scope="module")
def client(service):
    with running(service) as started:
        yield started


photo = drawn_photos.encode_photo


class TestPredict:
    def test_a_photo_can_be_sent_as_it_is(self, client):
        response = client.post("/predict", data=photo()).json()
        assert response["answer"] == response["classes"][0]["class"] == "red"
        assert len(response["classes"]) == 2
        assert response["unknown"] is False
        assert 0.3 < response["probability"] <= 1
        assert "seen" not in response

    def test_a_photo_can_be_sent_in_a_form(self, client):
        response = client.post(
            "/predict?top=1",
            files={"file": ("../../etc/passwd", photo("blue"))},
            data={"note": "x"},
        )
        assert response.json()["answer"] == "blue"
        assert len(response.json()["classes"]) == 1

    def test_the_type_of_a_form_may_be_in_capital_letters(self, client):
        head = b'--y\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n'
        response = client.post(
            "/predict",
            data=head + photo("blue") + b"\r\n--y--\r\n",
            headers={"content-type": 'Multipart/Form-Data; Boundary="y"'},
        )
        assert response.json()["answer"] == "blue"

    def test_an_explanation_has_pictures_and_thumbnails(self, client, service):
        response = client.post("/predict?explain=1", data=photo()).json()
        for name in ("seen", "looked_at"):
            head, _, body = response[name].partition(",")
            assert head == "data:image/jpeg;base64"
            pixels = opencv.decode_rgb(base64.b64decode(body))
            assert pixels.shape == (224, 224, 3)
        assert len(response["nearest"]) == prediction_service.NUM_SIMILAR
        # Browsers keep them, and another run may be served at the same port.
        rows = {row.path: row for row in service.explainer.index.rows}
        for similar in response["nearest"]:
            sha256 = rows[similar["photo"]].sha256
            assert similar["thumbnail"] == f"/thumbnails/{sha256}"
            thumbnail = client.get(similar["thumbnail"])
            assert thumbnail.headers["content-type"] == "image/jpeg"
            assert thumbnail.headers["cache-control"] == "private, max-age=3600"
            assert thumbnail.content[:2] == b"\xff\xd8"
            large = client.get(similar["thumbnail"] + "?large").content
            row = rows[similar["photo"]]
            assert opencv.decode_rgb(large).shape == (row.height, row.width, 3)

    def test_an_improbable_answer_is_unknown(self, service, monkeypatch):
        unsure = dataclasses.replace(service.classifier, temperature=100.0)
        monkeypatch.setattr(service, "classifier", unsure)
        with running(service, unknown_below=1.0) as client:
            response = client.post("/predict", data=photo()).json()
        assert (response["answer"], response["unknown"]) == ("unknown", True)
        assert response["classes"][0]["class"] == "red"

    def test_a_photo_of_none_of_the_classes_is_a_stranger(self, client):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        encoded = opencv.page_jpeg(noise)
        strange = client.post("/predict", data=encoded).json()["stranger"]
        assert strange["is_stranger"] is True
        assert strange["score"] >= strange["threshold"] == 1
        explained = client.post("/predict?explain=1", data=encoded).json()["stranger"]
        assert explained["score"] == pytest.approx(strange["score"], rel=1e-3)

    def test_an_upload_that_takes_too_long_gets_408(self, service):
        with running(service, upload_timeout_s=0.5) as client:
            with unfinished_upload(client) as slow:
                response = slow.makefile("rb").read()
            assert response.startswith(b"HTTP/1.1 408 ")
            assert b'"error": "The upload took too long' in response
            assert client.get("/health").json()["under_way"] == 0

    def test_a_client_that_hangs_up_no_longer_counts(self, client):
        with unfinished_upload(client):
            wait_for(client, 1)
        wait_for(client, 0)


@contextlib.contextmanager
def unfinished_upload(client, data=b"abc"):
    """Send all but the last byte of an upload."""
    with socket.create_connection(("127.0.0.1", client.port), 30) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: %d\r\n\r\n" % len(data) + data[:-1]
        )
        yield connection


def wait_for(client, num_photos):
    deadline = time.monotonic() + 20
    while client.get("/health").json()["under_way"] != num_photos:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def bomb():
    """A PNG whose header states 30,000 x 30,000 pixels."""
    data = bytearray(photo(extension=".png"))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


HOSTILE = {
    "nothing": (b"", 400, "empty file"),
    "text": (b"<script>alert(1)</script>", 415, "not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "not an image"),
    "pdf": (b"%PDF-1.7", 415, "a PDF file"),
    "raw": (b"\0\0\0\x18ftypcrx \0\0\0\0crx isom", 415, "camera RAW"),
    "cut png": (photo(extension=".png")[:300], 422, "PNG that does not decode"),
    "cut jpeg": (photo()[:60], 422, "JPEG that does not decode"),
    "zeros": (bytes(10_000), 415, "not an image"),
    "bomb": (bomb(), 413, "larger than 1,000,000 pixels"),
    "large file": (bytes((1 << 20) + 1), 413, "larger than 1 MB"),
    "very large file": (bytes(5 << 20), 413, "larger than 1 MB"),
}


FORMS = [
    None,
    b"x",
    b"--y\r\n\r\n",
    b"--y--\r\n",
    b'--y\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--y--\r\n',
    b"--y\r\n" * 10_000,
]


MISSING = [
    *("/thumbnails/0", "/thumbnails/..%2f..%2fpasswd", "/thumbnails/" + "9" * 5000),
    *("/page/..%2fserve.html", "/page/serve.html", "/page/__init__.py"),
    *("/etc/passwd", "/predict/x"),
]


class TestHostile:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_an_upload_gets_the_status_of_its_fault(self, client, name):
        data, status, reason = HOSTILE[name]
        for response in (
            client.post("/predict?explain=1", data=data),
            client.post("/predict", files={"file": ("a.jpg", data)}),
        ):
            assert response.status_code == status, response.text
            assert reason in response.json()["error"]
        assert client.post("/predict", data=photo()).status_code == 200

    def test_files_damaged_at_random_get_an_answer_or_a_refusal(self, client):
        random = np.random.default_rng(1)
        for extension in (".jpg", ".png", ".webp", ".tiff", ".bmp"):
            data = np.frombuffer(photo(extension=extension), np.uint8)
            for _ in range(6):
                bad = data.copy()
                bad[random.integers(0, len(bad), 20)] = random.integers(0, 256, 20)
                response = client.post("/predict", data=bad.tobytes())
                assert response.status_code in (200, 413, 415, 422), response.text
                assert response.json()

    @pytest.mark.parametrize("body", FORMS, ids=range(len(FORMS)))
    def test_a_form_without_a_file_gets_400(self, client, body):
        boundary = "" if body is None else "; boundary=y"
        headers = {"content-type": f"multipart/form-data{boundary}"}
        response = client.post("/predict", data=body or b"x", headers=headers)
        assert response.status_code == 400
        assert "form" in response.json()["error"]

    @pytest.mark.parametrize(
        "query",
        ["top=0", "top=-1", "top=x", "top=9999999", "explain=yes", "top=²", "up=1"],
    )
    def test_a_wrong_option_gets_400(self, client, query):
        response = client.post(f"/predict?{query}", data=photo())
        assert response.status_code == 400
        assert "expected" in response.json()["error"].lower()

    @pytest.mark.parametrize("path", MISSING, ids=range(len(MISSING)))
    def test_a_path_that_does_not_exist_gets_404(self, client, path):
        response = client.get(path)
        assert response.status_code == 404
        assert response.json()["error"]

    @pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/nothing", 404)])
    def test_a_body_where_none_belongs_is_dropped(self, client, path, status):
        assert client.get(path, data=bytes(1 << 19)).status_code == status
        for megabytes in (1.5, 5):
            response = client.get(path, data=bytes(int(megabytes * (1 << 20))))
            assert response.status_code == 413
            assert "larger than 1 MB" in response.json()["error"]

    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/predict"), ("POST", "/"), ("FOO", "/predict")]
    )
    def test_a_wrong_method_gets_405(self, client, caplog, method, path):
        response = client.request(method, path)
        assert response.status_code == 405
        assert response.json()["error"]
        assert client.get("/health").json()["under_way"] == 0
        assert caplog.text == ""

    @pytest.mark.parametrize(
        ("failure", "status", "message"),
        [
            (sandbox.NotStarted("secret"), 503, "The server is too busy"),
            (RuntimeError("secret"), 500, "Internal server error"),
        ],
        ids=["no decoder", "error"],
    )
    def test_an_error_of_the_server_shows_no_details(
        self, service, monkeypatch, failure, status, message
    ):
        def fail(*_, **__):
            raise failure

        monkeypatch.setattr(service, "classify", fail)
        with running(service) as client:
            response = client.post("/predict", data=photo())
        assert response.status_code == status
        assert response.json()["error"].startswith(message)
        assert "secret" not in response.text
        assert ("retry-after" in response.headers) == (status == 503)


class TestOtherSites:
    @pytest.mark.parametrize(
        ("status", "hosts"),
        [
            (421, ["evil.example", "evil.example:8000", "[::2]"]),
            (200, ["localhost:8000", "127.0.0.1", "[::1]:1"]),
        ],
    )
    def test_host_names_of_this_machine_alone_are_answered(self, client, status, hosts):
        for host in hosts:
            headers = {"host": host}
            assert client.get("/health", headers=headers).status_code == status

    def test_pages_of_other_sites_are_refused(self, client):
        for origin in ("http://evil.example", "null", "http://[bad"):
            headers = {"origin": origin}
            response = client.post("/predict", data=photo(), headers=headers)
            assert response.status_code == 403
        headers = {"origin": client.url}
        response = client.post("/predict", data=photo(), headers=headers)
        assert response.status_code == 200

    def test_on_a_network_addresses_and_own_names_are_answered(self, service):
        own = socket.gethostname()
        with running(service, host="0.0.0.0") as client:
            for host in ("192.168.7.5:8000", "[fd00::1]:80", "localhost", own.upper()):
                headers = {"host": host}
                assert client.get("/health", headers=headers).status_code == 200
            # DNS rebinding: the name of another site that leads to this computer.
            for host in ("evil.example:8000", "", "192.168.7.5.evil.example"):
                headers = {"host": host}
                assert client.get("/health", headers=headers).status_code in (400, 421)
            headers = {"host": "192.168.7.5", "origin": "http://192.168.7.6"}
            assert client.get("/health", headers=headers).status_code == 403
            headers["origin"] = "http://localhost"
            assert client.get("/health", headers=headers).status_code == 403

    def test_a_proxy_is_answered_by_its_name_alone(self, service):
        config = {"host": "0.0.0.0", "allowed_hosts": "flowers.example"}
        with running(service, **config) as client:
            for host, status in (("flowers.example", 200), ("192.168.7.5", 421)):
                headers = {"host": host}
                assert client.get("/health", headers=headers).status_code == status


class TestCollect:
    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "collected"

    @pytest.fixture
    def collecting(self, service, folder):
        with running(service, collect=str(folder)) as client:
            yield client

    def names(self, folder):
        return {p.relative_to(folder).as_posix() for p in folder.glob("*/*")}

    def test_nothing_is_collected_unless_a_folder_is_named(self, client):
        response = client.post("/collect?label=red", data=photo())
        assert response.status_code == 404
        assert "correction" not in client.get("/").text

    def test_a_photo_lies_in_its_class_folder_and_may_change_its_label(
        self, collecting, folder
    ):
        data, other = photo(), photo(extension=".png")
        sha256 = hashlib.sha256(data).hexdigest()
        for label in ("blue", "green", "green"):
            response = collecting.post(f"/collect?label={label}", data=data)
            assert response.json() == {"label": label}
            assert self.names(folder) == {f"{label}/{sha256}.jpg"}
        assert (folder / "green" / f"{sha256}.jpg").read_bytes() == data
        collecting.post("/collect?label=red", data=other)
        assert f"red/{hashlib.sha256(other).hexdigest()}.png" in self.names(folder)
        lines = (folder / ".collected.jsonl").read_text().splitlines()
        assert [json.loads(line)["label"] for line in lines] == [
            *("blue", "green", "green", "red"),
        ]
        assert {json.loads(line)["predicted"] for line in lines} == {"red"}

    def test_what_is_collected_can_be_converted(self, collecting, folder, tmp_path):
        for label in ("blue", "green", "red"):
            collecting.post(f"/collect?label={label}", data=photo(label))
        found = conversions.convert(folder, tmp_path / "records").manifest
        assert [row.class_name for row in found.rows] == ["blue", "green", "red"]

    @pytest.mark.parametrize(
        ("query", "data", "headers", "status"),
        [
            ("label=tulip", photo(), {}, 400),
            ("", photo(), {}, 400),
            ("label=red", b"no photo", {}, 415),
            ("label=red", b"", {}, 400),
            ("label=red", photo(), {"origin": "http://evil.example"}, 403),
            ("label=../red", photo(), {}, 400),
        ],
    )
    def test_other_requests_store_nothing(
        self, collecting, folder, query, data, headers, status
    ):
        response = collecting.post(f"/collect?{query}", data=data, headers=headers)
        assert response.status_code == status, response.text
        assert not [*folder.iterdir()]

    @pytest.mark.parametrize("limit", ["MAX_PHOTOS", "MAX_BYTES"])
    def test_a_full_folder_refuses_new_photos_also_after_a_restart(
        self, service, folder, monkeypatch, capsys, limit
    ):
        data = photo("red", 1)
        monkeypatch.setattr(
            collected_photos, limit, 1 if limit == "MAX_PHOTOS" else len(data) + 9
        )
        for statuses in ([200, 507, 200], [200, 507, 200]):
            with running(service, collect=str(folder)) as client:
                answers = [
                    client.post(f"/collect?label={label}", data=data).status_code
                    for label, data in (
                        ("red", data),
                        ("red", photo("red", 2)),
                        ("blue", data),  # is there: only its label changes
                    )
                ]
                assert answers == statuses
        assert len(self.names(folder)) == 1
        assert f"--collect: {folder} is full: at most" in capsys.readouterr().err

    def test_a_class_whose_name_is_no_folder_has_one_all_the_same(self, tmp_path):
        collected = collected_photos.CollectedPhotos(str(tmp_path))
        path = collected.add(photo(), "../a/b", "red", 0.5)
        assert path.parent.parent == tmp_path


def test_every_response_has_security_headers(client):
    for path in ("/", "/page/serve.js", "/health", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_health_tells_what_is_served(client):
    response = client.get("/health").json()
    assert response["status"] == "ready"
    assert response["classes"] == ["blue", "green", "red"]
    assert response["under_way"] == 0
    head = client.head("/health")
    assert (head.status_code, head.content) == (200, b"")


def test_photos_beyond_the_limit_are_refused_and_the_others_answered(
    service, monkeypatch
):
    proceed = threading.Event()
    classify = service.classify

    def wait(*arguments, **options):
        proceed.wait(20)
        return classify(*arguments, **options)

    monkeypatch.setattr(service, "classify", wait)
    count = CONFIG["max_requests"]
    with (
        running(service) as client,
        concurrent.futures.ThreadPoolExecutor(count) as threads,
    ):
        post = functools.partial(client.post, "/predict", data=photo())
        accepted = [threads.submit(post) for _ in range(count)]
        wait_for(client, count)
        refused = client.post("/predict", data=photo() + bytes(900_000))
        proceed.set()
        assert [future.result().status_code for future in accepted] == [200] * count
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert post().status_code == 200


def test_names_are_escaped(service, monkeypatch):
    names = ("<script>alert(1)</script>", "b\udcff", '"quoted"')
    hostile = dataclasses.replace(service.classifier, class_names=names, name="<b>")
    monkeypatch.setattr(service, "classifier", hostile)
    with running(service) as client:
        text = client.get("/").text
        response = client.post("/predict?top=3&explain=1", data=photo()).json()
        assert json.dumps(client.get("/health").json())
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<b>" not in text
    classes = {entry["class"] for entry in response["classes"]}
    assert classes == {names[0], "b\\xff", names[2]}
