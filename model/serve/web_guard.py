"""What stands before every request: who may ask, and how answers are to be taken."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Names of this machine for itself.
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
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
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Refuses other sites' pages, which a browser here may have open.

    A name that leads to this machine (DNS rebinding) would make another site's page one
    of this server; so the names are known, where they can be. A page may post here
    without being one, so whose it is must be said by its browser to be us.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: frozenset[str]) -> None:
        """Stands before an application.

        Args:
            app: the application.
            allowed_hosts: names without port, in lower case; empty for any.
        """
        self._app = app
        self._allowed = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if refusal := self._refusal(Headers(scope=scope)):
            status, reason = refusal
            await JSONResponse({"error": reason}, status)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._allowed and _name(host) not in self._allowed:
            return 421, "this server does not go by that name; see --allowed_hosts"
        origin = headers.get("origin")
        if origin is None:
            return None
        own = _netloc(origin)
        if own == host.lower() or (self._allowed and _name(own) in self._allowed):
            return None
        return 403, "pages of other sites may not ask this server"


def _netloc(origin: str) -> str:
    """Host and port of an origin, in lower case; "" of what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """A host without its port, in lower case."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
