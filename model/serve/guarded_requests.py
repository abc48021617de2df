"""Guard every request: other sites refused, uploads limited, errors as JSON."""

import asyncio
import http
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

from tornado import httputil, web

from model.serve.serve_settings import Config

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Refusal(web.HTTPError):
    """A request that gets a status and a message as JSON instead of an answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status)
        self.message = message


class Handler(web.RequestHandler):
    """Add headers to every response, and refuse requests of other sites' pages."""

    def set_default_headers(self) -> None:
        """Set the security headers."""
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse the request if it comes from a page of another site."""
        if refusal := self.refusal():
            raise refusal

    def refusal(self) -> Refusal | None:
        """Return a refusal of a request that comes from a page of another site.

        A host name that leads to this machine (DNS rebinding) would make another site's
        page one of this server, so host names are checked where they are known. A page
        of another site can also post here, so the Origin header must be this server.
        """
        allowed: frozenset[str] = self.settings["config"].hosts
        host = self.request.headers.get("Host", "").lower()
        origin = self.request.headers.get("Origin", f"http://{host}")
        try:
            host_name, source = urlsplit(f"//{host}").hostname, urlsplit(origin)
            source_name = source.hostname
        except ValueError:
            return Refusal(403, "The Host or Origin header is not an address.")
        if allowed and host_name not in allowed:
            return Refusal(
                421, "This server does not have that host name. See --allowed_hosts."
            )
        if source.netloc.lower() != host and not (allowed and source_name in allowed):
            return Refusal(403, "Pages of other sites may not use this server.")
        return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send an error as one line of JSON."""
        error = kwargs.get("exc_info", (None, None))[1]
        if status_code == http.HTTPStatus.SERVICE_UNAVAILABLE:
            self.set_header("Retry-After", "1")
        if isinstance(error, Refusal):
            message = error.message
        elif status_code == http.HTTPStatus.INTERNAL_SERVER_ERROR:
            message = "Internal server error. See the server's log."
        else:
            message = http.HTTPStatus(status_code).phrase
        self.finish({"error": message})

    def head(self, *names: str) -> Awaitable[None] | None:
        """Answer like `get`; Tornado leaves out the body."""
        return self.get(*names)


class UploadHandler(Handler):
    """Receive an upload, raw bytes of a photo or a form, within the limits.

    A client that is refused still gets to send its upload, which is dropped: otherwise
    the connection would be reset before the client reads the response.
    """

    def prepare(self) -> None:
        """Count the photo, or prepare to refuse it; start the clock."""
        config: Config = self.settings["config"]
        photos: set[UploadHandler] = self.settings["photos"]
        self._max_bytes = config.max_upload_mb << 20
        self._body = bytearray()
        self._num_bytes = 0
        self._refusal = self.refusal()
        if not self._refusal and len(photos) >= config.max_requests:
            self._refusal = Refusal(503, "Too many photos at once. Try again.")
        if not self._refusal:
            photos.add(self)
        connection: Any = self.request.connection
        connection.set_max_body_size(1 << 62)  # the size is limited below
        connection.set_body_timeout(2 * config.upload_timeout_s)  # after the timer
        self._timer = asyncio.get_running_loop().call_later(
            config.upload_timeout_s, self._end, 408, "The upload took too long."
        )

    def data_received(self, chunk: bytes) -> None:
        """Keep the next part of the body, within the limit.

        A slightly larger body is received to its end, a much larger one is not.
        """
        self._num_bytes += len(chunk)
        if self._num_bytes > 2 * self._max_bytes:
            self._end(413, self._too_large)
        elif self._num_bytes <= self._max_bytes and not self._refusal:
            self._body += chunk

    def uploaded_photo(self) -> bytes:
        """Return the photo of a complete upload, from a form if it is one.

        Raises:
            Refusal: the request or its form is refused.
        """
        self._timer.cancel()  # the upload is complete
        if self._refusal:
            raise self._refusal
        if self._num_bytes > self._max_bytes:
            raise Refusal(413, self._too_large)
        content_type = self.request.headers.get("Content-Type", "")
        if not content_type.startswith("multipart/form-data"):
            return bytes(self._body)
        files: dict[str, list[Any]] = {}
        try:
            httputil.parse_body_arguments(content_type, bytes(self._body), {}, files)
        except (httputil.HTTPInputError, UnicodeError) as error:
            raise Refusal(400, f"The form cannot be parsed: {error}.") from error
        for parts in files.values():
            return bytes(parts[0].body)
        raise Refusal(400, "The form has no file.")

    def release(self) -> None:
        """Stop counting the photo, which is answered or lost."""
        self._timer.cancel()
        self.settings["photos"].discard(self)

    def on_finish(self) -> None:
        """Stop counting a photo whose upload was refused before its end."""
        if not self._timer.cancelled():
            self.release()

    def on_connection_close(self) -> None:
        """Stop counting a photo whose client has hung up before its end."""
        super().on_connection_close()
        self.on_finish()

    @property
    def _too_large(self) -> str:
        limit = f"{self._max_bytes >> 20} MB (--max_upload_mb)"
        return f"The upload is larger than {limit}."

    def _end(self, status: int, message: str) -> None:
        """Refuse before the end of the upload; Tornado then closes the connection."""
        self.send_error(status, exc_info=(Refusal, Refusal(status, message), None))
