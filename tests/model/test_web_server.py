import socket
import threading
import time

import pytest

from model import web_server

SIZE = 32 << 20  # more than the buffers of both ends of a connection


@pytest.fixture
def port(monkeypatch):
    """Of a server in a thread that answers everything with as many zeros."""
    servers = []
    serving = web_server._Server.run
    monkeypatch.setattr(
        web_server._Server,
        "run",
        lambda self, **how: (servers.append(self), serving(self, **how)),
    )

    async def application(scope, receive, send):
        headers = [(b"content-length", str(SIZE).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(SIZE)})

    ready = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(
            target=web_server.serve,
            args=(application, listening),
            kwargs={
                "header_timeout_s": 0.5,
                "max_requests": 1,
                "on_ready": ready.set,
            },
        )
        thread.start()
        assert ready.wait(30)
        yield listening.getsockname()[1]
        servers[0].should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def ask(port):
    asking = socket.create_connection(("127.0.0.1", port), timeout=30)
    asking.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return asking


def read(asking, *, pause_s=0.0):
    """Bytes until the server hangs up, or all are there."""
    count = 0
    while count < SIZE and (part := asking.recv(1 << 20)):
        count += len(part)
        time.sleep(pause_s)
    return count


def test_one_that_does_not_read_its_answer(port):
    with ask(port) as asking:
        time.sleep(2)
        try:
            count = read(asking)
        except ConnectionResetError:
            count = 0
        assert count < SIZE


def test_one_that_reads_slowly(port):
    """Longer than the limit, but never without taking some."""
    started = time.monotonic()
    with ask(port) as asking:
        assert read(asking, pause_s=0.1) >= SIZE
    assert time.monotonic() - started > 0.5
