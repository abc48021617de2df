"""uvicorn, with time limits for those who do not finish asking, or reading."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from model.serve import web_guard

_GRACE_S = 10  # for answers that are under way when the server is stopped
_KEEP_ALIVE_S = 5
_LINGER_S = 5.0  # in which one who is still asking can read the answer
_MOST_HEADER_BYTES = 16 << 10
_CONNECTIONS_EACH = 8  # for each photo that may be under way


class _Impatient(H11Protocol):
    """Hangs up on who does not finish asking or reading; turns away what is too much.

    uvicorn waits for ever for the first line of a connection, for the rest of a
    request that was answered before its end, and until an answer is taken. Beyond its
    own limit of connections it answers in plain text, and does not say when to come
    back.
    """

    # From the connection, or from the first byte after an answer.
    header_timeout_s = 30.0
    most_connections = 64
    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._application = self.app
        self.app = self._answer

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if len(self.connections) <= self.most_connections:
            await self._application(scope, receive, send)
            return
        headers = {**web_guard.HEADERS, "Retry-After": "1", "Connection": "close"}
        reason = {"error": "too many connections at once; try again"}
        await JSONResponse(reason, 503, headers)(scope, receive, send)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # Any byte that is not taken counts: closing would wait for it for ever.
        self.transport.set_write_buffer_limits(high=0)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            wait_s = min(_LINGER_S, self.header_timeout_s)
            self.loop.call_later(wait_s, self._leave, self.cycle)
        super().on_response_complete()

    def _leave(self, answered: Any) -> None:
        """Hangs up if the request that was answered is still under way."""
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def pause_writing(self) -> None:
        """Called when some of an answer waits to be taken."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        self._stop_watching()
        super().resume_writing()

    def _watch(self, waiting: int = -1) -> None:
        """Hangs up if none of what waits, in bytes, was taken since the last look."""
        transport: Any = self.transport
        left = transport.get_write_buffer_size()
        if left == waiting:
            transport.abort()
        else:
            again = self.loop.call_later(self.header_timeout_s, self._watch, left)
            self._unread = again

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_watching()
        super().connection_lost(exc)

    def _wait(self) -> None:
        """Starts to wait for a head that is not complete, or ends it."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._patience is None:
            self._patience = self.loop.call_later(self.header_timeout_s, self._hang_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _hang_up(self) -> None:
        self._patience = None
        if self.conn.their_state is h11.IDLE and self.transport is not None:
            self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def serve(
    application: Any,
    listening: socket.socket,
    *,
    header_timeout_s: float,
    max_requests: int,
    on_ready: Callable[[], None],
) -> None:
    """Serves until SIGINT or SIGTERM, which is raised again when all is answered.

    Args:
        application: of ASGI.
        listening: where.
        header_timeout_s: how long the head of a request may take, at most the rest of
            one that was answered before its end, and how long an answer may lie without
            any of it being taken.
        max_requests: photos that may be under way at one time.
        on_ready: called when connections are taken.
    """
    limits = {
        "header_timeout_s": header_timeout_s,
        "most_connections": max(64, _CONNECTIONS_EACH * max_requests),
    }
    config = uvicorn.Config(
        application,
        http=type("Protocol", (_Impatient,), limits),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
    )
    _Server(config, on_ready).run(sockets=[listening])
