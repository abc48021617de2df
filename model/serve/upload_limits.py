"""Limit what a client may upload: bytes, seconds, and photos at the same time."""

import dataclasses
from typing import Any

from tornado import httputil, web

_CONNECTIONS_PER_PHOTO = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits that protect the server from its clients.

    Attributes:
        max_upload_bytes: largest body of a request, in bytes.
        max_photos: photos that may be uploaded or classified at the same time.
        timeout_s: seconds that a client may take to send the head of a request, its
            body, or to receive any part of a waiting response.
    """

    max_upload_bytes: int
    max_photos: int
    timeout_s: float

    @property
    def max_connections(self) -> int:
        """Return the number of connections that may be open at the same time."""
        return max(64, _CONNECTIONS_PER_PHOTO * self.max_photos)


class Refusal(web.HTTPError):
    """A request that gets a status and one line of JSON instead of an answer.

    Attributes:
        message: sentence for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status)
        self.message = message


class Upload:
    """The body of a request while it arrives, raw bytes of a photo or a form."""

    def __init__(self, max_bytes: int) -> None:
        """Prepare for a body.

        Args:
            max_bytes: largest body that is kept; the rest is counted and dropped.
        """
        self._max_bytes = max_bytes
        self._body = bytearray()
        self._num_bytes = 0

    def add(self, chunk: bytes) -> None:
        """Add the next part of the body."""
        self._num_bytes += len(chunk)
        if self._num_bytes <= self._max_bytes:
            self._body += chunk

    @property
    def is_hopeless(self) -> bool:
        """Return whether the body is so large that its end is not worth waiting for.

        A client reads the response only after it has sent its whole body, so a slightly
        larger body is received to its end.
        """
        return self._num_bytes > 2 * self._max_bytes

    def photo(self, content_type: str) -> bytes:
        """Return the photo, from a form if the content type says so.

        Raises:
            Refusal: the body is too large, or a form without a file.
        """
        if self._num_bytes > self._max_bytes:
            raise self.too_large()
        if not content_type.startswith("multipart/form-data"):
            return bytes(self._body)
        files: dict[str, list[Any]] = {}
        try:
            httputil.parse_body_arguments(content_type, bytes(self._body), {}, files)
        except (httputil.HTTPInputError, UnicodeError) as error:
            message = f"The form data cannot be parsed: {error}."
            raise Refusal(400, message) from error
        for parts in files.values():
            return bytes(parts[0].body)
        raise Refusal(400, "The form has no file.")

    def too_large(self) -> Refusal:
        """Return the refusal of a body that is too large."""
        limit = f"{self._max_bytes >> 20} MB (--max_upload_mb)"
        return Refusal(413, f"The upload is larger than {limit}.")
