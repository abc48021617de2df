"""Answer requests of browsers and programs with a page and JSON.

Requests may come from anybody. Their bytes, pixels, seconds and number are limited,
names in them do not reach the file system, and every error is one line of JSON.
"""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tornado import iostream, web

from model.predict import output_formats
from model.serve import collected_photos, guarded_requests, prediction_service
from model.serve.guarded_requests import Refusal
from model.serve.serve_settings import Config
from pipeline.images import opencv
from pipeline.records.manifest_row import Code, ImageError
from pipeline.system import command_line, html_templates, sandbox
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


def application(service: prediction_service.Service, config: Config) -> web.Application:
    """Return the web application."""
    names = [command_line.as_utf8(n) for n in service.classifier.class_names]
    return web.Application(
        [
            ("/", _Page),
            ("/health", _Health),
            ("/predict", _Predict),
            *([("/collect", _Collect)] if config.collect else []),
            ("/thumbnails/([^/]+)", _Thumbnail),
            ("/page/([^/]+)", _Asset),
        ],
        default_handler_class=_Missing,
        log_function=lambda _: None,
        service=service,
        config=config,
        collected=config.collect and collected_photos.CollectedPhotos(config.collect),
        class_names=names,
        photos=set(),  # the handlers of photos that are being uploaded or classified
        threads=concurrent.futures.ThreadPoolExecutor(config.max_requests),
        page=html_templates.load_template(_PAGE / "serve.html").render(
            run=service.classifier.name,
            class_names=names,
            collects=bool(config.collect),
            max_upload_mb=config.max_upload_mb,
            max_upload_bytes=config.max_upload_mb << 20,
        ),
    )


class _Missing(guarded_requests.Handler):
    def answer(self, name: str) -> None:
        raise Refusal(404, "There is no such page.")

    post = put = patch = delete = options = guarded_requests.Handler.get


class _Page(guarded_requests.Handler):
    def answer(self, name: str) -> None:
        self.finish(self.settings["page"])


class _Asset(guarded_requests.Handler):
    def answer(self, name: str) -> None:
        if name not in _ASSETS:
            raise Refusal(404, "There is no such file.")
        self.set_header("Content-Type", _ASSETS[name])
        self.finish((_PAGE / name).read_bytes())


class _Health(guarded_requests.Handler):
    def answer(self, name: str) -> None:
        self.finish(
            {
                "status": "ready",
                "run": self.settings["service"].classifier.name,
                "classes": self.settings["class_names"],
                "under_way": len(self.settings["photos"]),
                "max_requests": self.settings["config"].max_requests,
            }
        )


class _Thumbnail(guarded_requests.Handler):
    async def answer(self, name: str) -> None:
        service: prediction_service.Service = self.settings["service"]
        is_large = self.request.query == "large"
        side = (
            prediction_service.LARGE_PX if is_large else prediction_service.THUMBNAIL_PX
        )
        try:
            thumbnail = await asyncio.to_thread(service.thumbnail, name, side)
        except KeyError as error:
            raise Refusal(404, "There is no such training photo.") from error
        except (DataError, ImageError, OSError) as error:
            command_line.log(f"thumbnail {name}: {error}")
            raise Refusal(404, "This training photo cannot be read.") from error
        self.set_header("Cache-Control", "private, max-age=3600")
        self.set_header("Content-Type", "image/jpeg")
        self.finish(thumbnail)


class _Predict(guarded_requests.UploadHandler):
    async def post(self) -> None:
        try:
            response = await self._answer(self.uploaded_photo())
            with contextlib.suppress(iostream.StreamClosedError):
                await self.finish(response)
        finally:
            self.release()

    async def _answer(self, photo: bytes) -> dict[str, Any]:
        if unknown := self.request.query_arguments.keys() - {"top", "explain"}:
            raise Refusal(400, f"{min(unknown)}: expected the option top or explain.")
        top = self._number("top", self.settings["config"].top, at_least=1)
        explained = self._number("explain", 0) > 0
        return await self._in_thread(self._classify, photo, top, explained)

    async def _in_thread(self, work: Callable[..., dict[str, Any]], *of: Any) -> Any:
        """Let a thread work on a photo; refuse one that cannot be used."""
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.settings["threads"], work, *of
            )
        except ImageError as error:
            status = _STATUS_OF_KIND.get(error.kind, 422)
            raise Refusal(status, str(error)) from error
        except sandbox.NotStarted as error:
            command_line.log(f"error: {error}")
            message = "The server is too busy to decode photos. Try again."
            raise Refusal(503, message) from error

    def _number(self, name: str, default: int, at_least: int = 0) -> int:
        text = self.get_query_argument(name, "") or str(default)
        is_number = text.isascii() and text.isdigit() and len(text) <= 6
        if not (is_number and int(text) >= at_least):
            raise Refusal(400, f"{name}: expected a number from {at_least} to 999999.")
        return int(text)

    def _classify(self, photo: bytes, top: int, explained: bool) -> dict[str, Any]:
        """Classify a photo, in a thread; return the response."""
        service: prediction_service.Service = self.settings["service"]
        result = service.classify(photo, explained=explained)
        classes = service.classifier.most_probable(result.probabilities, top)
        prediction = output_formats.Prediction(
            photo="",
            classes=classes,
            unknown=classes[0][1] < self.settings["config"].unknown_below,
            stranger_score=result.stranger_score,
        )
        response = output_formats.answer_json(prediction)
        response["run"] = service.classifier.name
        if explained:
            overlay = result.explanation.overlay
            response["seen"] = _jpeg_url(result.view)
            response["looked_at"] = None if overlay is None else _jpeg_url(overlay)
            response["nearest"] = [
                output_formats.similar_json(similar)
                | {"thumbnail": f"/thumbnails/{similar.row.sha256}"}
                for similar in result.explanation.similar
            ]
        return response


class _Collect(_Predict):
    """Store a photo with the label that a visitor gives it."""

    async def _answer(self, photo: bytes) -> dict[str, Any]:
        # Not get_query_argument, which changes spaces and control characters.
        names = self.request.query_arguments.get("label", [b""])
        label = names[0].decode("utf-8", "replace")
        if label not in self.settings["class_names"]:
            raise Refusal(400, "label: expected one of the classes.")
        number = self.settings["class_names"].index(label)
        try:
            return await self._in_thread(self._collect, photo, number)
        except OSError as error:
            command_line.log(f"error: --collect: {error}")
            message = "The photo cannot be stored. See the server's log."
            raise Refusal(507, message) from error

    def _collect(self, photo: bytes, label: int) -> dict[str, Any]:
        service: prediction_service.Service = self.settings["service"]
        probabilities = service.classify(photo, explained=False).probabilities
        ((predicted, probability),) = service.classifier.most_probable(probabilities, 1)
        self.settings["collected"].add(
            photo, service.classifier.class_names[label], predicted, probability
        )
        return {"label": self.settings["class_names"][label]}


def _jpeg_url(pixels: np.ndarray) -> str:
    return html_templates.picture_url(
        opencv.page_jpeg(pixels, quality=_PICTURE_QUALITY)
    )
