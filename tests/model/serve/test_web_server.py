"""Clients that are slow, silent or too many; a stub application behind the server."""

import contextlib
import socket
import time

import pytest
from tornado import web

from tests.support import server_process

LIMIT_S = 0.5
LARGE = 32 << 20  # more than the buffers of both ends of a connection
MAX_CONNECTIONS = 64


class Zeros(web.RequestHandler):
    def get(self, size):
        self.finish(bytes(int(size)))


@pytest.fixture(scope="module")
def port():
    application = web.Application([(r"/(\d+)", Zeros)], log_function=lambda _: None)
    with server_process.in_thread(application, LIMIT_S) as port:
        yield port


def connect(port, receive_bytes=1 << 16):
    connection = socket.socket()
    connection.settimeout(30)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect(("127.0.0.1", port))
    return connection


HEAD = b"GET /0 HTTP/1.1\r\nHost: localhost\r\n"


SLOW = {
    "silent": (b"", b""),
    "first line": (b"", b"G"),
    "headers": (HEAD, b"X: y\r\n"),
    "second request": (HEAD + b"\r\nGET /", b"0"),
    "body": (HEAD + b"Content-Length: 1000\r\n\r\n", b"x"),
    "chunked": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "WebSocket": (HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"x"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0"),
}


@pytest.mark.parametrize(("first", "repeated"), SLOW.values(), ids=SLOW)
def test_a_client_that_sends_byte_by_byte_is_hung_up_on(port, first, repeated):
    start = time.monotonic()
    with connect(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(first)
        connection.settimeout(0.05)
        while time.monotonic() - start < 20:
            connection.sendall(repeated)
            with contextlib.suppress(TimeoutError):
                if connection.recv(1000) == b"":
                    break
    assert time.monotonic() - start < 10 * LIMIT_S


LONG = HEAD + b"A: " + b"x" * 60_000 + b"\r\n\r\n"  # one packet
UNANSWERABLE = {
    "not HTTP": b"\x16\x03\r\n\r\n",
    "wrong length": HEAD + b"Content-Length: x\r\n\r\n" + bytes(500_000),
    "long head": LONG,
    "long second head": HEAD + b"\r\n" + LONG,
    "cut off": HEAD,
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nz\r\n",
}


@pytest.mark.parametrize("data", UNANSWERABLE.values(), ids=UNANSWERABLE)
def test_a_request_that_is_not_valid_ends_its_connection_alone(port, data):
    with connect(port) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        receive(connection, LARGE)
    with connect(port) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert receive(connection, 12) >= 12


def receive(connection, size, *, pause_s=0.0):
    """Count bytes until the server hangs up, or all are there."""
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while count < size and (part := connection.recv(1 << 16)):
            count += len(part)
            time.sleep(pause_s)
    return count


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such limit"
)
def test_a_client_that_does_not_read_its_response_is_hung_up_on(port):
    with connect(port, receive_bytes=4096) as connection:
        connection.sendall(f"GET /{LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(5 * LIMIT_S)
        assert receive(connection, LARGE) < LARGE


def test_a_client_that_reads_slowly_gets_its_whole_response(port):
    size = 4 << 20
    with connect(port, receive_bytes=1 << 18) as connection:
        connection.sendall(f"GET /{size} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        start = time.monotonic()
        assert receive(connection, size, pause_s=LIMIT_S / 20) >= size
        assert time.monotonic() - start > 2 * LIMIT_S


def test_connections_beyond_the_limit_are_closed_at_once(port):
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(connect(port))
        extra = stack.enter_context(connect(port))
        start = time.monotonic()
        assert receive(extra, 1) == 0
        assert time.monotonic() - start < LIMIT_S
    for _ in range(100):
        with connect(port) as connection:
            connection.sendall(HEAD + b"\r\n")
            if receive(connection, 1):
                return
        time.sleep(0.1)
    raise AssertionError("closed connections still count")
