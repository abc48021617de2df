"""The server as a process: ready, slow clients, crashes, signals; and its flags."""

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import time

import cv2
import psutil
import pytest

from model.serve import serving
from pipeline.system.errors import DataError
from tests import conftest
from tests.model import server_process

pytest.importorskip("uvicorn", reason="the extra serve is not installed")


@pytest.fixture(scope="module")
def server(shared_run):
    with server_process.running(shared_run, "--upload_timeout_s=1.5") as found:
        yield found


def photo(class_name="red"):
    return cv2.imencode(".jpg", conftest.draw_photo(class_name, 1))[1].tobytes()


def post(server, data, path="/predict"):
    connection = http.client.HTTPConnection(server.netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", path, body=data)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def connect(server):
    host, port = server.netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_it_answers(server):
    status, found = post(server, photo())
    assert (status, found["answer"]) == (200, "red")


def test_an_upload_that_is_too_large_hears_why(server):
    status, found = post(server, bytes(25 << 20))
    assert status == 413
    assert found["error"].startswith("larger than 20 MB")


class TestSlowClients:
    def test_one_that_says_nothing(self, server):
        with connect(server) as connection:
            start = time.monotonic()
            assert connection.recv(100) == b""
            assert 1 < time.monotonic() - start < 10

    def test_one_that_does_not_finish_its_head(self, server):
        with connect(server) as connection:
            start = time.monotonic()
            connection.sendall(b"POST /predict HTTP/1.1\r\n")
            with pytest.raises(OSError):
                while True:
                    connection.sendall(b"X: y\r\n")
                    time.sleep(0.2)
                    assert time.monotonic() - start < 10

    def test_one_that_does_not_finish_its_photo(self, server):
        with connect(server) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 1000\r\n\r\nabc"
            )
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 408
            assert json.loads(answer.read()) == {"error": "the upload took too long"}

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", 200),
            (b"POST /predict HTTP/1.1\r\nHost: evil.example\r\n", 421),
            (b"POST /predict?top=x HTTP/1.1\r\nHost: localhost\r\n", 400),
        ],
        ids=["GET with a body", "another name", "a wrong number"],
    )
    @pytest.mark.parametrize("bytes_more", [1, 100])
    def test_one_that_was_answered_before_it_has_asked(
        self, server, head, status, bytes_more
    ):
        """Whether it then says a byte and no more, or goes on byte by byte."""
        with connect(server) as connection:
            connection.settimeout(8)
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n")
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == status
            assert answer.read()
            start = time.monotonic()
            with contextlib.suppress(ConnectionError):
                for _ in range(bytes_more):
                    connection.sendall(b"x")
                    time.sleep(0.1)
                assert connection.recv(100) == b""
            assert 1 < time.monotonic() - start < 7

    def test_one_that_was_answered_early_and_finishes(self, server):
        """The connection is as good as ever: what was wrong is over."""
        with connect(server) as connection:
            head = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
            for _ in range(3):
                connection.sendall(head + b"Content-Length: 3\r\n\r\n")
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                assert json.loads(answer.read())["status"] == "ready"
                time.sleep(1)
                connection.sendall(b"abc")

    def test_one_that_hangs_up(self, server):
        with connect(server) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 1000\r\n\r\nabc"
            )
        assert post(server, photo())[0] == 200


def test_too_many_connections(server):
    """Whoever comes then is told so as a program reads it, and when to come back."""
    with contextlib.ExitStack() as stack:
        for _ in range(8 * serving.Config().max_requests):
            stack.enter_context(connect(server))
        connection = http.client.HTTPConnection(server.netloc, timeout=30)
        stack.enter_context(contextlib.closing(connection))
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert "too many connections" in json.loads(answer.read())["error"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    deadline = time.monotonic() + 20
    while post(server, photo())[0] == 503:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "data",
    [b"\r\n" * 1000, b"\x16\x03\x01" * 100, b"GET " + b"x" * 100_000, b"\0" * 5000],
    ids=["lines", "TLS", "long", "zeros"],
)
def test_what_is_no_http(server, data):
    with connect(server) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as file, contextlib.suppress(OSError):
            assert b"Traceback" not in file.read()
    assert post(server, photo())[0] == 200


def children(pid):
    """Of its processes, those that decode."""
    return [
        one.pid
        for one in psutil.Process(pid).children()
        if one.status() != psutil.STATUS_ZOMBIE
        and any("decoder_process.main" in word for word in one.cmdline())
    ]


def test_decoders_that_are_killed_are_replaced(server):
    before = children(server.process.pid)
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    statuses = [post(server, photo())[0] for _ in range(6)]
    assert set(statuses) <= {200, 422}
    assert statuses[-1] == 200
    assert not set(before) & set(children(server.process.pid))


def test_a_signal_ends_it_when_all_is_answered(shared_run):
    with server_process.running(shared_run) as found:
        code, said = found.stop(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert said == "stopped by SIGTERM\n"


class TestErrors:
    def test_the_port_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(DataError, match=f"--port={port}: cannot listen"):
                serving.listen(serving.Config(port=port))

    def test_an_address_of_another_machine(self):
        with pytest.raises(DataError, match="cannot listen there"):
            serving.listen(serving.Config(host="192.0.2.1"))

    def test_no_run(self, tmp_path):
        with pytest.raises(DataError, match="no such run"):
            serving.serve(serving.Config(run_dir=str(tmp_path / "gone"), port=0))

    def test_records_that_were_moved(self, shared_run, monkeypatch):
        """They are looked for where --data says."""

        def service(*_, data, **__):
            raise DataError(f"looked in {data}")

        monkeypatch.setattr(serving.prediction_service, "Service", service)
        config = serving.Config(run_dir=str(shared_run), port=0, data="elsewhere")
        with pytest.raises(DataError, match="looked in elsewhere"):
            serving.serve(config)

    def test_without_the_extra(self, monkeypatch):
        import model.serve

        monkeypatch.delattr(model.serve, "web_app", raising=False)
        monkeypatch.setitem(sys.modules, "model.serve.web_app", None)
        with pytest.raises(DataError, match=r"pip install '\.\[serve\]'"):
            serving.serve(serving.Config())

    @pytest.mark.parametrize(
        "changed",
        [{"unknown_below": 2}, {"upload_timeout_s": 0}, {"decode_timeout_s": -1}],
        ids=str,
    )
    def test_config(self, changed):
        with pytest.raises(ValueError, match="expected"):
            serving.Config(**changed)


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:"),
        ("localhost", True, "http://127.0.0.1:"),
        ("0.0.0.0", False, "http://127.0.0.1:"),
    ],
)
def test_addresses(host, loopback, url):
    config = serving.Config(host=host, port=0)
    assert config.is_loopback == loopback
    with serving.listen(config) as listening:
        listening.listen()
        assert serving.url(config, listening).startswith(url)
