"""Answer requests of browsers and programs with a page and JSON.

Requests come from strangers. Their bytes, pixels, seconds and number are limited, names
in them do not reach the file system, and every error is one line of JSON.
"""

import asyncio
import concurrent.futures
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from tornado import iostream, web

from model.predict import output_formats
from model.serve import guarded_handler, prediction_service
from model.serve.upload_limits import Limits, Refusal, Upload
from pipeline.images import opencv
from pipeline.images.errors import ImageError
from pipeline.records.reasons import Code
from pipeline.system import command_line, html_pages, sandbox
from pipeline.system.errors import DataError

_PAGE = Path(__file__).parent / "page"
_ASSETS = {
    "serve.css": "text/css",
    "serve.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_PICTURE_QUALITY = 88
# Every other kind is 422: the upload is complete, but the photo cannot be used.
_STATUS_OF_KIND = {
    Code.EMPTY: 400,
    Code.TOO_MANY_BYTES: 413,
    Code.TOO_MANY_PIXELS: 413,
    Code.OUT_OF_MEMORY: 413,
    Code.NOT_AN_IMAGE: 415,
    Code.UNSUPPORTED_FORMAT: 415,
}


class Application(web.Application):
    """The web application.

    Attributes:
        service: service that classifies photos.
        limits: limits for clients.
        top: number of classes in a response, unless the request says otherwise.
        unknown_below: probability below which the answer is "unknown", 0..1.
        num_photos: photos that are being uploaded or classified.
        class_names: class names in Unicode, in label order.
        page: the HTML page.
        threads: threads that wait for the service.
    """

    def __init__(
        self,
        service: prediction_service.Service,
        limits: Limits,
        *,
        allowed_hosts: frozenset[str],
        top: int,
        unknown_below: float,
    ) -> None:
        """Prepare the page.

        Args:
            service: service that classifies photos.
            limits: limits for clients.
            allowed_hosts: host names, in lower case, by which browsers may call this
                server; empty for any.
            top: number of classes in a response, unless the request says otherwise.
            unknown_below: probability below which the answer is "unknown", 0..1.
        """
        self.service = service
        self.limits = limits
        self.top = top
        self.unknown_below = unknown_below
        self.num_photos = 0
        names = service.classifier.class_names
        self.class_names = [output_formats.unicode_name(name) for name in names]
        self.threads = concurrent.futures.ThreadPoolExecutor(limits.max_photos)
        self.page = html_pages.load_template(_PAGE / "serve.html").render(
            run=service.classifier.name,
            class_names=self.class_names,
            max_upload_mb=limits.max_upload_bytes >> 20,
            max_upload_bytes=limits.max_upload_bytes,
        )
        super().__init__(
            [
                ("/", _Page),
                ("/health", _Health),
                ("/predict", _Predict),
                ("/thumbnails/([^/]+)", _Thumbnail),
                ("/page/([^/]+)", _Asset),
            ],
            default_handler_class=_Missing,
            log_function=lambda _: None,
            allowed_hosts=allowed_hosts,
        )


class _Handler(guarded_handler.Handler):
    application: Application


class _Missing(_Handler):
    def prepare(self) -> None:
        super().prepare()
        raise Refusal(404, "There is no such page.")


class _Page(_Handler):
    def get(self) -> None:
        self.finish(self.application.page)


class _Asset(_Handler):
    def get(self, name: str) -> None:
        if name not in _ASSETS:
            raise Refusal(404, "There is no such file.")
        self.set_header("Content-Type", _ASSETS[name])
        self.finish((_PAGE / name).read_bytes())


class _Health(_Handler):
    def get(self) -> None:
        app = self.application
        self.finish(
            {
                "status": "ready",
                "run": app.service.classifier.name,
                "classes": app.class_names,
                "under_way": app.num_photos,
                "max_requests": app.limits.max_photos,
            }
        )


class _Thumbnail(_Handler):
    async def get(self, sha256: str) -> None:
        try:
            thumbnail = await asyncio.to_thread(
                self.application.service.thumbnail, sha256
            )
        except KeyError as error:
            raise Refusal(404, "There is no such training photo.") from error
        except (DataError, ImageError, OSError) as error:
            command_line.log(f"thumbnail {sha256}: {error}")
            message = "This training photo cannot be read. See the server's log."
            raise Refusal(404, message) from error
        self.set_header("Cache-Control", "private, max-age=3600")
        self.set_header("Content-Type", "image/jpeg")
        self.finish(thumbnail)


@web.stream_request_body
class _Predict(_Handler):
    """Classify the photo that is posted.

    A client that is refused still gets to send its whole upload, which is dropped:
    otherwise the connection would be reset before the client reads the response.
    """

    def prepare(self) -> None:
        app, limits = self.application, self.application.limits
        self._is_counted = False
        self._is_uploaded = False
        self._refusal = self.refusal()
        if self._refusal is None and app.num_photos >= limits.max_photos:
            message = "Too many photos at the same time. Try again."
            self._refusal = Refusal(503, message)
        if self._refusal is None:
            self._is_counted = True
            app.num_photos += 1
        self._upload = Upload(0 if self._refusal else limits.max_upload_bytes)
        connection: Any = self.request.connection
        connection.set_max_body_size(1 << 62)  # Upload limits the size
        connection.set_body_timeout(2 * limits.timeout_s)  # never before the timer:
        self._timer = asyncio.get_running_loop().call_later(
            limits.timeout_s, self._end, Refusal(408, "The upload took too long.")
        )

    def data_received(self, chunk: bytes) -> None:
        self._upload.add(chunk)
        if self._upload.is_hopeless and not self._refusal:
            self._end(self._upload.too_large())

    async def post(self) -> None:
        self._timer.cancel()
        self._is_uploaded = True
        try:
            response = await self._answer()
            with contextlib.suppress(iostream.StreamClosedError):
                await self.finish(response)
        finally:
            self._release()

    async def _answer(self) -> dict[str, Any]:
        if self._refusal:
            raise self._refusal
        if unknown := self.request.query_arguments.keys() - {"top", "explain"}:
            raise Refusal(
                400, f"{min(unknown)}: no such option. Expected top or explain."
            )
        app = self.application
        top = self._number("top", app.top, at_least=1)
        explained = self._number("explain", 0) > 0
        photo = self._upload.photo(self.request.headers.get("Content-Type", ""))
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                app.threads, _classify, app, photo, top, explained
            )
        except ImageError as error:
            status = _STATUS_OF_KIND.get(error.kind, 422)
            raise Refusal(status, str(error)) from error
        except sandbox.NotStarted as error:
            command_line.log(f"error: {error}")
            message = "The server is too busy to decode photos. Try again."
            raise Refusal(503, message) from error

    def _number(self, name: str, default: int, at_least: int = 0) -> int:
        text = self.get_query_argument(name, "")
        if not text:
            return default
        is_number = text.isascii() and text.isdigit() and len(text) <= 6
        if is_number and int(text) >= at_least:
            return int(text)
        raise Refusal(400, f"{name}: expected a number from {at_least} to 999999.")

    def _end(self, refusal: Refusal) -> None:
        """Refuse before the end of the upload; Tornado then closes the connection."""
        self.send_error(refusal.status_code, exc_info=(Refusal, refusal, None))

    def _release(self) -> None:
        self._timer.cancel()
        self.application.num_photos -= self._is_counted
        self._is_counted = False

    def on_finish(self) -> None:
        if not self._is_uploaded:
            self._release()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.on_finish()


def _classify(
    app: Application, photo: bytes, top: int, explained: bool
) -> dict[str, Any]:
    """Classify a photo, in a thread; return the response."""
    answer = app.service.classify(photo, explained=explained)
    classes = app.service.classifier.most_probable(answer.probabilities, top)
    prediction = output_formats.Prediction(
        photo="", classes=classes, unknown=classes[0][1] < app.unknown_below
    )
    response: dict[str, Any] = {
        "answer": prediction.answer,
        "probability": prediction.probability,
        "unknown": prediction.unknown,
        "classes": output_formats.classes_json(classes),
        "run": app.service.classifier.name,
    }
    if explained:
        response["seen"] = _data_url(answer.view)
        overlay = answer.overlay
        response["looked_at"] = None if overlay is None else _data_url(overlay)
        response["nearest"] = [
            {
                "class": output_formats.unicode_name(similar.row.class_name),
                "photo": output_formats.unicode_name(similar.row.path),
                "similarity": similar.similarity,
                "thumbnail": f"/thumbnails/{similar.row.sha256}",
            }
            for similar in answer.similar
        ]
    return response


def _data_url(pixels: np.ndarray) -> str:
    encoded = opencv.page_jpeg(pixels, quality=_PICTURE_QUALITY)
    return html_pages.jpeg_url(encoded)
