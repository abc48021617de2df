"""Requests of browsers and programs -> answers of a service, as pages and JSON.

Whatever comes in is a stranger's: it is bounded in bytes, pixels, time and number, its
names reach no file, and what is wrong with it is told in one line of JSON.
"""

import asyncio
import base64
import dataclasses
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from model.predict import output_formats
from model.serve import prediction_service, web_guard
from pipeline.images import opencv
from pipeline.images.errors import ImageError
from pipeline.records.reasons import Code
from pipeline.system import command_line, sandbox
from pipeline.system.errors import DataError

_PAGE = Path(__file__).parent / "page"
_ASSETS = {
    "serve.css": "text/css",
    "serve.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_MOST_FIELDS = 16
_PICTURE_QUALITY = 88
# What is not here is 422: the file is well-formed as an upload, but no usable photo.
_STATUS_OF_KIND = {
    Code.EMPTY: 400,
    Code.TOO_MANY_BYTES: 413,
    Code.TOO_MANY_PIXELS: 413,
    Code.OUT_OF_MEMORY: 413,
    Code.NOT_AN_IMAGE: 415,
    Code.UNSUPPORTED_FORMAT: 415,
}
_BUSY = "the server is too busy to decode photos; try again"
_RETRY = {"Retry-After": "1"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What strangers may ask for.

    Attributes:
        max_upload_bytes: of a request's body.
        max_requests: photos under way at one time, uploads among them.
        upload_timeout_s: how long an upload may take.
        unknown_below: the answer is "unknown" where the likeliest class is less
            probable, 0..1.
        top: classes that are told.
    """

    max_upload_bytes: int
    max_requests: int
    upload_timeout_s: float
    unknown_below: float
    top: int


def application(
    answering: prediction_service.Service, limits: Limits, allowed_hosts: frozenset[str]
) -> Starlette:
    """The application.

    Args:
        answering: answers.
        limits: for strangers.
        allowed_hosts: names that a browser may call this server by; empty for any.
    """
    site = _Site(answering, limits)
    return Starlette(
        routes=[
            Route("/", site.page),
            Route("/health", site.health),
            Route("/predict", site.predict, methods=["POST"]),
            Route("/thumbnails/{sha256}", site.thumbnail),
            Route("/page/{name}", site.asset),
        ],
        middleware=[Middleware(web_guard.Guard, allowed_hosts=allowed_hosts)],
        exception_handlers={HTTPException: _refused, Exception: _failed},
    )


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "a fault of the server; its log says more"}, 500)


class _Site:
    """The handlers."""

    def __init__(self, answering: prediction_service.Service, limits: Limits) -> None:
        self._service = answering
        self._limits = limits
        self._under_way = 0
        self._threads = anyio.CapacityLimiter(limits.max_requests)
        self._names = [
            output_formats.unicode_name(name) for name in answering.chosen.class_names
        ]
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_PAGE),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._assets = {name: (_PAGE / name).read_bytes() for name in _ASSETS}
        chosen = answering.chosen
        self._page = environment.get_template("serve.html").render(
            run=chosen.name,
            class_names=self._names,
            max_upload_mb=limits.max_upload_bytes >> 20,
            max_upload_bytes=limits.max_upload_bytes,
        )

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._page)

    async def asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._assets:
            raise HTTPException(404, "no such file")
        return Response(self._assets[name], media_type=_ASSETS[name])

    async def health(self, _: Request) -> Response:
        chosen = self._service.chosen
        return JSONResponse(
            {
                "status": "ready",
                "run": chosen.name,
                "classes": self._names,
                "under_way": self._under_way,
                "max_requests": self._limits.max_requests,
            }
        )

    async def thumbnail(self, request: Request) -> Response:
        sha256 = request.path_params["sha256"]
        try:
            found = await run_in_threadpool(self._service.thumbnail, sha256)
        except KeyError as error:
            raise HTTPException(404, "no such training photo") from error
        except (DataError, ImageError, OSError) as error:
            command_line.log(f"thumbnail {sha256}: {error}")
            raise HTTPException(404, "this training photo cannot be shown") from error
        kept = {"Cache-Control": "private, max-age=3600"}
        return Response(found, media_type="image/jpeg", headers=kept)

    async def predict(self, request: Request) -> Response:
        if unknown := request.query_params.keys() - {"top", "explain"}:
            raise HTTPException(
                400, f"{min(unknown)}: no such option; expected top or explain"
            )
        top = _number(request, "top", self._limits.top)
        explained = _number(request, "explain", 0) > 0
        if self._under_way >= self._limits.max_requests:
            raise HTTPException(503, "too many photos at once; try again", _RETRY)
        self._under_way += 1
        try:
            data = await self._upload(request)
            told = await anyio.to_thread.run_sync(
                functools.partial(self._told, data, top=top, explained=explained),
                limiter=self._threads,
            )
        except ImageError as error:
            status = _STATUS_OF_KIND.get(error.kind, 422)
            raise HTTPException(status, str(error)) from error
        except sandbox.NotStarted as error:
            command_line.log(f"error: {error}")
            raise HTTPException(503, _BUSY, _RETRY) from error
        finally:
            self._under_way -= 1
        return JSONResponse(told)

    def _told(self, data: bytes, *, top: int, explained: bool) -> dict[str, Any]:
        answer = self._service.answer(data, explained=explained)
        classes = self._service.chosen.likeliest(answer.shares, top)
        prediction = output_formats.Prediction(
            photo="",
            classes=classes,
            unknown=classes[0][1] < self._limits.unknown_below,
        )
        found: dict[str, Any] = {
            "answer": prediction.answer,
            "probability": prediction.probability,
            "unknown": prediction.unknown,
            "classes": output_formats.classes_json(classes),
            "run": self._service.chosen.name,
        }
        if explained:
            found["seen"] = _data_url(answer.pixels)
            overlay = answer.overlay
            found["looked_at"] = None if overlay is None else _data_url(overlay)
            found["nearest"] = [
                {
                    "class": output_formats.unicode_name(near.row.class_name),
                    "photo": output_formats.unicode_name(near.row.path),
                    "similarity": near.similarity,
                    "thumbnail": f"/thumbnails/{near.row.sha256}",
                }
                for near in answer.similar
            ]
        return found

    async def _upload(self, request: Request) -> bytes:
        """The photo's bytes, raw or from a form.

        Raises:
            HTTPException: too large, too slow, or no form.
        """
        limit = self._limits.max_upload_bytes
        too_large = HTTPException(
            413, f"larger than {limit >> 20} MB, the most that is taken"
        )
        try:
            async with asyncio.timeout(self._limits.upload_timeout_s):
                body = bytearray()
                size = 0
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= limit:
                        body += chunk
                    elif size > 2 * limit:
                        raise too_large
                # An answer before the end of an upload would not reach the sender.
                if size > limit:
                    raise too_large
        except TimeoutError as error:
            raise HTTPException(408, "the upload took too long") from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the upload was broken off") from error
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            return await _file_of_form(request, bytes(body))
        return bytes(body)


async def _file_of_form(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(
        request.headers,
        stream(),  # type: ignore[arg-type]
        max_files=1,
        max_fields=_MOST_FIELDS,
        max_part_size=len(body),
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        what = getattr(error, "message", "") or "no boundary"
        raise HTTPException(400, f"no form that can be read: {what}") from error
    try:
        for value in form.values():
            if isinstance(value, UploadFile):
                return await value.read()
    finally:
        await form.close()
    raise HTTPException(400, "a form without a file")


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise HTTPException(400, f"{name}: expected a number, at most 999999")
    found = int(text)
    if name == "top" and not found:
        raise HTTPException(400, "top: expected 1 or more")
    return found


def _data_url(pixels: Any) -> str:
    encoded = opencv.page_jpeg(pixels, quality=_PICTURE_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")
