"""Guard every response: security headers, other sites refused, errors as JSON."""

import http
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

from tornado import web

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
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
    """A request that gets a status and one line of JSON instead of an answer.

    Attributes:
        message: sentence for the client.
    """

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
            host_name = urlsplit(f"//{host}").hostname
            source = urlsplit(origin)
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
