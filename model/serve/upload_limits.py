"""Limit uploads: bytes, seconds, and photos at the same time."""

import asyncio
from typing import Any

from tornado import httputil

from model.serve import guarded_handler
from model.serve.guarded_handler import Refusal
from model.serve.serve_settings import Config


class UploadHandler(guarded_handler.Handler):
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
        self._is_complete = False
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
            Refusal: the upload is too large, or a form without a file; or the server
                is too busy, or the request comes from a page of another site.
        """
        self._is_complete = True
        self._timer.cancel()
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
        if not self._is_complete:
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
