"""Serve HTTP on this machine, and misbehave on demand."""

import contextlib
import dataclasses
import http.server
import threading
import time


@dataclasses.dataclass
class Answer:
    """What the test server answers to a path."""

    body: bytes = b""
    status: int = 200
    cut_after: int | None = None  # bytes, the first time only
    etag: str = '"one"'
    ranges: bool = True  # whether it heeds Range
    headers: dict = dataclasses.field(default_factory=dict)
    trickle_s: float = 0  # pause before each byte


class Server:
    """A local HTTP server that can misbehave.

    `answers` has an Answer for each path, or a list of them: one after the other, the
    last one from then on.
    """

    def __init__(self):
        self.answers = {}
        self.requests = []  # (path, Range header)
        self.headers = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                range_header = self.headers.get("Range")
                outer.requests.append((self.path, range_header))
                outer.headers.append(self.headers)
                answer = outer.answers.get(self.path, Answer(status=404))
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                start = 0
                status = answer.status
                same = self.headers.get("If-Range") == answer.etag
                if range_header and same and answer.ranges:
                    start = int(range_header.removeprefix("bytes=").rstrip("-"))
                    status = 206 if start < len(answer.body) else 416
                body = answer.body[start:]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", answer.etag)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    for byte in body if answer.trickle_s else b"":
                        time.sleep(answer.trickle_s)
                        self.wfile.write(bytes([byte]))
                if answer.trickle_s:
                    return
                if answer.cut_after is not None:
                    body, answer.cut_after = body[: answer.cut_after], None
                    self.wfile.write(body)
                    self.close_connection = True
                    return
                self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
