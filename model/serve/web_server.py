"""Run the web application, and disconnect clients that are too slow or too many.

Tornado's own options limit how long the head of a request, its body and a pause between
requests may take. The operating system ends connections whose client does not receive.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

from tornado import httpserver, iostream, web

_GRACE_S = 10  # for photos under way when the server is stopped
_MAX_HEAD_BYTES = 16 << 10
_MAX_OTHER_BODY_BYTES = 64 << 10  # body of a request that is not an upload
_MIN_CONNECTIONS, _CONNECTIONS_PER_PHOTO = 64, 8
_BACKLOG = 128


class _Server(httpserver.HTTPServer):
    """Close connections beyond a limit as soon as they are opened."""

    max_connections = _MIN_CONNECTIONS
    _num_connections = 0

    def handle_stream(
        self, stream: iostream.IOStream, address: tuple[Any, ...]
    ) -> None:
        if self._num_connections >= self.max_connections:
            stream.close()
            return
        self._num_connections += 1
        super().handle_stream(stream, address)

    def on_close(self, server_conn: object) -> None:
        self._num_connections -= 1
        super().on_close(server_conn)


def start(
    application: web.Application,
    listening: socket.socket,
    *,
    timeout_s: float,
    max_photos: int,
) -> httpserver.HTTPServer:
    """Start to serve in the running event loop.

    Args:
        application: application that answers.
        listening: socket that is bound to an address.
        timeout_s: seconds that a client may take for the head of a request, for its
            body, or without receiving anything of a response.
        max_photos: photos at the same time; each allows for some connections.
    """
    logging.getLogger("tornado.general").setLevel(logging.ERROR)  # clients' mistakes
    server = _Server(
        application,
        idle_connection_timeout=timeout_s,
        body_timeout=timeout_s,
        max_header_size=_MAX_HEAD_BYTES,
        max_body_size=_MAX_OTHER_BODY_BYTES,
    )
    server.max_connections = max(_MIN_CONNECTIONS, _CONNECTIONS_PER_PHOTO * max_photos)
    listening.setblocking(False)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
        option, value = socket.TCP_USER_TIMEOUT, int(1000 * timeout_s)
        listening.setsockopt(socket.IPPROTO_TCP, option, value)
    listening.listen(_BACKLOG)
    server.add_socket(listening)
    return server


def serve(
    application: web.Application,
    listening: socket.socket,
    *,
    timeout_s: float,
    max_photos: int,
    on_ready: Callable[[], None],
) -> signal.Signals:
    """Serve until SIGINT or SIGTERM; then answer the photos under way.

    Args:
        application: application that answers.
        listening: socket that is bound to an address.
        timeout_s: time limit for clients, in seconds.
        max_photos: photos at the same time.
        on_ready: function to call when connections are accepted.

    Returns:
        The signal.
    """

    async def run() -> signal.Signals:
        loop = asyncio.get_running_loop()
        signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signals.put_nowait, number)
        server = start(
            application, listening, timeout_s=timeout_s, max_photos=max_photos
        )
        on_ready()
        received = await signals.get()
        server.stop()
        deadline = loop.time() + _GRACE_S
        while application.settings["photos"] and loop.time() < deadline:
            await asyncio.sleep(0.05)
        await server.close_all_connections()
        return received

    return asyncio.run(run())
