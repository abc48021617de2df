"""Open HTTP sessions that ask busy servers again and cut slow answers."""

import contextlib
import socket
import threading
from typing import Any

import requests
import urllib3
from requests import adapters
from urllib3 import connection

_MAX_PAUSE_S = 30
_NO_TIMEOUT_S = 3600


class _Connection(connection.HTTPConnection):
    """Cut a connection on which the headers of an answer are too slow.

    The timeout of a socket is for each read only, so a server that sends a byte now and
    then would keep the thread for hours.
    """

    def getresponse(self) -> Any:
        timer = threading.Timer(self.timeout or _NO_TIMEOUT_S, self._cut)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):  # it may be closed by now
            self.sock.shutdown(socket.SHUT_RDWR)


class _TLSConnection(_Connection, connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def open_session(
    *, retries: int, backoff_s: float, connections: int = 1
) -> requests.Session:
    """Open a session that repeats requests which a busy server turns down.

    The pauses between repetitions last 0, 2, 4, ... times `backoff_s`, or what the
    server's Retry-After says, but at most 30 s. `connections` to a server stay open.
    """
    policy = urllib3.Retry(
        total=retries,
        connect=0,
        read=False,
        other=0,
        status_forcelist=(408, 425, 429, 500, 502, 503, 504),
        backoff_factor=backoff_s,
        backoff_max=_MAX_PAUSE_S,
        retry_after_max=_MAX_PAUSE_S,
        raise_on_status=False,
    )
    adapter = adapters.HTTPAdapter(max_retries=policy, pool_maxsize=connections)
    adapter.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session
