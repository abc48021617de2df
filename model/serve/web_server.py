"""Run the web application, and hang up on clients that are too slow or too many.

Tornado's own options limit how long the head of a request, its body and a pause between
requests may take. The operating system ends connections whose client does not receive.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

from tornado import httpserver, iostream

from model.serve import upload_limits, web_app

_GRACE_S = 10  # seconds for photos under way when the server is stopped
_MAX_HEAD_BYTES = 16 << 10
_MAX_OTHER_BODY_BYTES = 64 << 10  # body of a request that is not an upload
_BACKLOG = 128


class _Server(httpserver.HTTPServer):
    """Close connections beyond a limit as soon as they are opened."""

    max_connections = 64
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
    application: web_app.Application,
    listening: socket.socket,
    limits: upload_limits.Limits,
) -> httpserver.HTTPServer:
    """Start to serve in the running event loop.

    Args:
        application: application that answers.
        listening: socket with its address.
        limits: limits for clients.
    """
    logging.getLogger("tornado.general").setLevel(logging.ERROR)  # clients' mistakes
    server = _Server(
        application,
        idle_connection_timeout=limits.timeout_s,
        body_timeout=limits.timeout_s,
        max_header_size=_MAX_HEAD_BYTES,
        max_body_size=_MAX_OTHER_BODY_BYTES,
    )
    server.max_connections = limits.max_connections
    listening.setblocking(False)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted sockets inherit it
        milliseconds = int(1000 * limits.timeout_s)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    listening.listen(_BACKLOG)
    server.add_socket(listening)
    return server


def serve(
    application: web_app.Application,
    listening: socket.socket,
    limits: upload_limits.Limits,
    on_ready: Callable[[], None],
) -> signal.Signals:
    """Serve until SIGINT or SIGTERM; then answer the photos under way.

    Args:
        application: application that answers.
        listening: socket with its address.
        limits: limits for clients.
        on_ready: function to call when connections are accepted.

    Returns:
        The signal.
    """

    async def run() -> signal.Signals:
        loop = asyncio.get_running_loop()
        stopped: asyncio.Future[signal.Signals] = loop.create_future()

        def stop(number: signal.Signals) -> None:
            if not stopped.done():
                stopped.set_result(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        server = start(application, listening, limits)
        on_ready()
        await stopped
        server.stop()
        deadline = loop.time() + _GRACE_S
        while application.num_photos and loop.time() < deadline:
            await asyncio.sleep(0.05)
        await server.close_all_connections()
        return stopped.result()

    return asyncio.run(run())
