"""The server as a process: readiness, crashes, signals; and its settings."""

import contextlib
import os
import signal
import socket
import time
from urllib.parse import urlsplit

import pytest
import requests

from model.serve import serve_settings, web_server
from pipeline.system.errors import DataError
from tests.support import drawn_photos, processes, server_process

photo = drawn_photos.encode_photo


def post(server, data):
    return requests.post(server.url + "predict", data=data, timeout=30)


def connect(server):
    host, port = server.netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_an_upload_that_is_too_large_is_refused_with_the_limit(server):
    response = post(server, bytes(25 << 20))
    assert response.status_code == 413
    assert "larger than 20 MB (--max_upload_mb)" in response.json()["error"]


@pytest.mark.parametrize(
    "data",
    [b"\r\n" * 1000, b"\x16\x03\x01" * 100, b"GET " + b"x" * 100_000, b"\0" * 5000],
    ids=["lines", "TLS", "long", "zeros"],
)
def test_bytes_that_are_not_http_do_no_harm(server, data):
    with connect(server) as connection, contextlib.suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert b"Traceback" not in connection.makefile("rb").read()
    assert post(server, photo()).json()["answer"] == "red"


def test_decoders_that_are_killed_are_replaced(server):
    before = processes.decoders(server.process.pid)
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    statuses = [post(server, photo()).status_code for _ in range(6)]
    assert set(statuses) <= {200, 422}
    assert statuses[-1] == 200
    assert not before & processes.decoders(server.process.pid)


def test_a_signal_stops_it_when_the_photos_under_way_are_answered(shared_run):
    data = photo()
    head = (
        "POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with server_process.running(shared_run) as server, connect(server) as uploading:
        uploading.sendall(head.encode() + data[:-1])
        while not requests.get(server.url + "health", timeout=30).json()["under_way"]:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        uploading.sendall(data[-1:])
        assert uploading.makefile("rb").read().startswith(b"HTTP/1.1 200 OK")
        log = server.process.communicate(timeout=30)[1]
    assert server.process.returncode == 128 + signal.SIGTERM
    assert log == "stopped by SIGTERM\n"


class TestErrors:
    def test_an_address_in_use_of_another_machine_or_of_no_machine_is_refused(self):
        with web_server.listen(serve_settings.Config(port=0)) as other_server:
            port = other_server.getsockname()[1]
            with pytest.raises(DataError, match=f"--port={port}: cannot listen"):
                web_server.listen(serve_settings.Config(port=port))
        for host in ("192.0.2.1", "a..b", "a" * 104):
            with pytest.raises(DataError, match=f"--host={host} .*: cannot listen"):
                web_server.listen(serve_settings.Config(host=host))

    def test_a_missing_run_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="no such run"):
            web_server.serve(
                serve_settings.Config(run_dir=str(tmp_path / "gone"), port=0)
            )

    def test_records_are_read_from_data(self, shared_run, monkeypatch):
        def service(_, config):
            raise DataError(f"looked in {config.data}")

        monkeypatch.setattr(web_server.prediction_service, "Service", service)
        config = serve_settings.Config(
            run_dir=str(shared_run), port=0, data="elsewhere"
        )
        with pytest.raises(DataError, match="looked in elsewhere"):
            web_server.serve(config)

    def test_a_missing_package_is_named(self, tmp_path):
        text = "raise ModuleNotFoundError(name='tornado')"
        (tmp_path / "tornado.py").write_text(text)
        words = ("-m", "model.serve", f"--run_dir={tmp_path}")
        done = processes.run_command(*words, PYTHONPATH=str(tmp_path))
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: the Python package tornado cannot be imported")


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:"),
        ("localhost", True, "http://127.0.0.1:"),
        ("0.0.0.0", False, "http://"),
    ],
)
def test_the_url_is_one_that_this_machine_can_open(host, loopback, url):
    config = serve_settings.Config(host=host, port=0)
    assert config.is_loopback == loopback
    with web_server.listen(config) as listening:
        address = web_server.url(config, listening)
        assert address.startswith(url)
        name, port = urlsplit(address).hostname, urlsplit(address).port
        assert config.accepts(name)
        socket.create_connection((name, port), timeout=5).close()


@pytest.mark.parametrize(
    ("network", "expected"),
    [({"192.0.2.1": "192.168.7.5"}, "192.168.7.5"), ({}, "127.0.0.1")],
    ids=["network", "no network"],
)
def test_the_url_is_that_of_the_network_if_there_is_one(monkeypatch, network, expected):
    class Probe(socket.socket):
        def connect(self, address):
            if address[0] not in network:
                raise OSError("Network is unreachable")
            self.address = network[address[0]]

        def getsockname(self):
            return getattr(self, "address", "0.0.0.0"), 8000

    config = serve_settings.Config(host="0.0.0.0")
    with Probe(socket.AF_INET) as listening:
        monkeypatch.setattr(web_server.socket, "socket", Probe)
        assert web_server.url(config, listening) == f"http://{expected}:8000/"
