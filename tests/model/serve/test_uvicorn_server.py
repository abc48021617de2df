import socket
import threading
import time

import pytest

from model.serve import uvicorn_server

LARGE = 32 << 20  # more than the buffers of both ends of a connection
SMALL = 48 << 10  # less than asyncio lets wait without a word


@pytest.fixture
def port(monkeypatch):
    """Of a server in a thread that answers with as many zeros as the path says."""
    servers = []
    serving = uvicorn_server._Server.run
    monkeypatch.setattr(
        uvicorn_server._Server,
        "run",
        lambda self, **how: (servers.append(self), serving(self, **how)),
    )

    async def application(scope, receive, send):
        size = int(scope["path"][1:])
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size)})

    ready = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        thread = threading.Thread(
            target=uvicorn_server.serve,
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


def ask(port, size):
    asking = socket.socket()
    asking.settimeout(30)
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asking.connect(("127.0.0.1", port))
    asking.sendall(f"GET /{size} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return asking


def read(asking, size, *, pause_s=0.0):
    """Bytes until the server hangs up, or all are there."""
    count = 0
    while count < size and (part := asking.recv(1 << 20)):
        count += len(part)
        time.sleep(pause_s)
    return count


@pytest.mark.parametrize("size", [LARGE, SMALL])
def test_one_that_does_not_read_its_answer(port, size):
    with ask(port, size) as asking:
        time.sleep(2)
        try:
            count = read(asking, size)
        except ConnectionResetError:
            count = 0
        assert count < size


def test_one_that_reads_slowly(port):
    """Longer than the limit, but never without taking some."""
    started = time.monotonic()
    with ask(port, SMALL) as asking:
        assert read(asking, SMALL, pause_s=0.1) >= SMALL
    assert time.monotonic() - started > 0.5
