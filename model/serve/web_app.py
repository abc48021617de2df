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
from model.predict.classifier import UNKNOWN
from model.serve import guarded_requests, prediction_service
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
            ("/thumbnails/([^/]+)", _Thumbnail),
            ("/page/([^/]+)", _Asset),
        ],
        default_handler_class=_Missing,
        log_function=lambda _: None,
        service=service,
        config=config,
        class_names=names,
        photos=set(),  # the handlers of photos that are being uploaded or classified
        threads=concurrent.futures.ThreadPoolExecutor(config.max_requests),
        page=html_templates.load_template(_PAGE / "serve.html").render(
            run=service.classifier.name,
            class_names=names,
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
        try:
            thumbnail = await asyncio.to_thread(service.thumbnail, name)
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
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self.settings["threads"], self._classify, photo, top, explained
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
        (name, probability), *_ = classes
        unknown = probability < self.settings["config"].unknown_below
        response: dict[str, Any] = {
            "answer": UNKNOWN if unknown else command_line.as_utf8(name),
            "probability": probability,
            "unknown": unknown,
            "classes": output_formats.classes_json(classes),
            "stranger": output_formats.stranger_json(result.stranger_score),
            "run": service.classifier.name,
        }
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


def _jpeg_url(pixels: np.ndarray) -> str:
    return html_templates.jpeg_url(opencv.page_jpeg(pixels, quality=_PICTURE_QUALITY))
