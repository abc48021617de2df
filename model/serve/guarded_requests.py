"""Guard every request: other sites refused, uploads limited, errors as JSON."""

import asyncio
import email.message
import http
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

from tornado import httputil, web

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


@web.stream_request_body
class Handler(web.RequestHandler):
    """Add headers to every response; refuse other sites' requests and large bodies.

    A client that is refused still gets to send its body, which is dropped: otherwise
    the connection would be reset before the client reads the response.
    """

    def initialize(self) -> None:
        """Prepare to refuse the request; start the clock.

        Not in `prepare`, which is not called for an unknown method.
        """
        self._num_bytes = 0
        self._refusal = self.refusal()
        # Tornado's own limit, which sends no response, ends just after this one.
        self._timer = asyncio.get_running_loop().call_later(
            self.settings["config"].upload_timeout_s,
            self._end,
            Refusal(408, "The upload took too long."),
        )

    def set_default_headers(self) -> None:
        """Set the security headers."""
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def data_received(self, chunk: bytes) -> None:
        """Count and drop the next part of the body.

        A slightly larger body is received to its end, a much larger one is not.
        """
        self._num_bytes += len(chunk)
        max_mb = self.settings["config"].max_upload_mb
        if self._num_bytes > max_mb << 20:
            message = f"The upload is larger than {max_mb} MB (--max_upload_mb)."
            self._refusal = self._refusal or Refusal(413, message)
            if self._num_bytes > 2 * max_mb << 20:
                self._end(self._refusal)

    def get(self, name: str = "") -> Awaitable[None] | None:
        """Answer, unless the request is refused."""
        self.check()
        return self.answer(name)

    head = get  # Tornado leaves out the body

    def answer(self, name: str) -> Awaitable[None] | None:
        """Answer a GET or HEAD request; `name` is the last part of some paths."""
        raise web.HTTPError(405)

    def check(self) -> None:
        """Stop the clock, because the body is complete; raise the refusal, if any."""
        self._timer.cancel()
        if self._refusal:
            raise self._refusal

    def on_finish(self) -> None:
        """Stop the clock of a request that is refused or lost before its end."""
        self._timer.cancel()

    def on_connection_close(self) -> None:
        """Stop the clock when the client has hung up."""
        super().on_connection_close()
        self.on_finish()

    def refusal(self) -> Refusal | None:
        """Return a refusal of a request that comes from a page of another site.

        With a host name that leads to this machine (DNS rebinding), another site's page
        would count as one of this server, so host names are checked. Such a page can
        also post here, so the Origin header must be this server.
        """
        allowed: frozenset[str] = self.settings["config"].hosts
        host = self.request.headers.get("Host", "").lower()
        origin = self.request.headers.get("Origin", f"http://{host}")
        try:
            host_name, source = urlsplit(f"//{host}").hostname, urlsplit(origin)
            source_name = source.hostname
        except ValueError:
            return Refusal(403, "The Host or Origin header is not an address.")
        if not self.settings["config"].accepts(host_name):
            return Refusal(
                421, "This server does not have that host name. See --allowed_hosts."
            )
        if source.netloc.lower() != host and source_name not in allowed:
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
        elif status_code == http.HTTPStatus.BAD_REQUEST:  # of Tornado
            message = "The address is not text in UTF-8."
        else:
            message = http.HTTPStatus(status_code).phrase
        self.finish({"error": message})

    def _end(self, refusal: Refusal) -> None:
        """Refuse before the end of the body; Tornado then closes the connection."""
        self.send_error(refusal.status_code, exc_info=(Refusal, refusal, None))


class UploadHandler(Handler):
    """Receive an upload, raw bytes of a photo or a form, within the limits."""

    def initialize(self) -> None:
        """Count the photo, or prepare to refuse it."""
        super().initialize()
        self._body = bytearray()
        self._is_complete = False
        if not self._refusal:
            self.settings["photos"].add(self)

    def refusal(self) -> Refusal | None:
        """Return a refusal of another site's request, or of a photo too many."""
        refusal = super().refusal()
        is_full = len(self.settings["photos"]) >= self.settings["config"].max_requests
        if is_full and not refusal:
            return Refusal(503, "Too many photos at once. Try again.")
        return refusal

    def data_received(self, chunk: bytes) -> None:
        """Keep the next part of the body, within the limit."""
        super().data_received(chunk)
        if not self._refusal:
            self._body += chunk

    def uploaded_photo(self) -> bytes:
        """Return the photo of a complete upload, raw or in a form, or refuse."""
        self._is_complete = True
        self.check()
        content_type = email.message.Message()  # reads names in any case
        content_type["Content-Type"] = self.request.headers.get("Content-Type", "")
        if content_type.get_content_type() != "multipart/form-data":
            return bytes(self._body)
        form = f"multipart/form-data; boundary={content_type.get_boundary('')}"
        files: dict[str, list[Any]] = {}
        try:
            httputil.parse_body_arguments(form, bytes(self._body), {}, files)
        except (httputil.HTTPInputError, UnicodeError) as error:
            raise Refusal(400, f"The form cannot be parsed: {error}.") from error
        for parts in files.values():
            return bytes(parts[0].body)
        raise Refusal(400, "The form has no file.")

    def release(self) -> None:
        """Stop counting the photo, which is answered or lost."""
        self.settings["photos"].discard(self)

    def on_finish(self) -> None:
        """Stop counting a photo whose upload is refused or lost before its end."""
        super().on_finish()
        if not self._is_complete:
            self.release()
