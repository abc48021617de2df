"""Serve a run: a page for browsers and an endpoint for programs.

Clients that are too slow or too many are disconnected. Tornado's own options limit how
long the head of a request, its body and a pause between requests may take. The
operating system closes connections whose client does not read the response.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
from typing import Any

from tornado import httpserver, iostream, web

from model.predict import classifier
from model.serve import prediction_service, web_app
from model.serve.serve_settings import Config
from pipeline.system import command_line
from pipeline.system.errors import DataError

_GRACE_S = 10  # for photos under way when the server is stopped
_MAX_HEAD_BYTES = 16 << 10
_MAX_BODY_BYTES = 1 << 62  # the application limits bodies
_MIN_CONNECTIONS, _CONNECTIONS_PER_PHOTO = 64, 8
_BACKLOG = 128


class _Server(httpserver.HTTPServer):
    """Close connections beyond a limit as soon as they are opened."""

    max_connections = _MIN_CONNECTIONS

    def handle_stream(
        self, stream: iostream.IOStream, address: tuple[Any, ...]
    ) -> None:
        if len(self._connections) < self.max_connections:
            super().handle_stream(stream, address)
        else:
            stream.close()


def listen(config: Config) -> socket.socket:
    """Listen at the address; connections wait until the server is ready."""
    try:
        family, *_, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            reuse = os.name == "posix"  # Windows would let two servers have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
                option, value = socket.TCP_USER_TIMEOUT, 1000 * config.upload_timeout_s
                listening.setsockopt(socket.IPPROTO_TCP, option, int(value))
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        return listening
    except (OSError, UnicodeError) as error:  # the latter of a name like "a..b"
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"--host={config.host} --port={config.port}: cannot listen there "
            f"({reason}). Choose another address, or --port=0 for a free port."
        ) from error


def url(config: Config, listening: socket.socket) -> str:
    """Return the address of the page, for browsers in the network if it is served."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
        outside = "192.0.2.1" if listening.family == socket.AF_INET else "2001:db8::1"
        with (
            socket.socket(listening.family, socket.SOCK_DGRAM) as probe,
            contextlib.suppress(OSError),  # no network
        ):
            probe.connect((outside, 9))  # sends nothing; chooses the network's address
            host = probe.getsockname()[0]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def start(
    application: web.Application, listening: socket.socket, config: Config
) -> httpserver.HTTPServer:
    """Start to serve in the running event loop, at a socket from `listen`."""
    logging.getLogger("tornado.general").setLevel(logging.ERROR)  # clients' mistakes
    server = _Server(
        application,
        idle_connection_timeout=config.upload_timeout_s,  # also for the head
        body_timeout=config.upload_timeout_s,
        max_header_size=_MAX_HEAD_BYTES,
        max_body_size=_MAX_BODY_BYTES,
    )
    server.max_connections = max(
        _MIN_CONNECTIONS, _CONNECTIONS_PER_PHOTO * config.max_requests
    )
    listening.setblocking(False)
    server.add_socket(listening)
    return server


def serve(config: Config) -> None:
    """Serve a run until SIGINT or SIGTERM, which raise command_line.Stopped."""
    with listen(config) as listening:
        run_classifier = classifier.load_run(config.run_dir)
        command_line.log(run_classifier.describe())
        service = prediction_service.Service(run_classifier, config)
        try:
            service.warm_up()
            application = web_app.application(service, config)
            received = asyncio.run(_run(application, listening, config))
        finally:
            service.close()
    raise command_line.Stopped(received, in_order=True)


async def _run(
    application: web.Application, listening: socket.socket, config: Config
) -> signal.Signals:
    """Serve until a signal; answer the photos under way; return the signal."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows stops at once
            loop.add_signal_handler(number, signals.put_nowait, number)
    server = start(application, listening, config)
    command_line.log(f"ready: {url(config, listening)}  (Ctrl-C stops it)")
    if not config.is_loopback:
        command_line.log(
            f"note: anybody on the network can use this server ({config.host}); there "
            "is no password"
        )
    received = await signals.get()
    server.stop()
    deadline = loop.time() + _GRACE_S
    while application.settings["photos"] and loop.time() < deadline:
        await asyncio.sleep(0.05)
    await server.close_all_connections()
    return received
