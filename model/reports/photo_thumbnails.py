"""Photos of an evaluation -> thumbnails for its page, and where the network looked.

However many photos were judged, the page gets no more than `MAX_BYTES` of them.
"""

import base64
import concurrent.futures
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from model.evaluation import grad_cam
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.images import opencv
from pipeline.images.errors import ImageError
from pipeline.records import manifest, stored_photo
from pipeline.system import command_line
from pipeline.system.errors import DataError

MAX_BYTES = 9 << 20  # of all thumbnails, as data URLs
_LARGE_PX, _SMALL_PX = 208, 112
_HEAT_PX = 160
_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heat:
    """Where a network looked.

    Attributes:
        source: data URL of what it saw, with the heat laid over it.
        left: of that window in the photo, in % of the photo's width.
        top: likewise, of its height.
        width: likewise, of its width.
        height: likewise, of its height.
    """

    source: str
    left: float
    top: float
    width: float
    height: float


class Thumbnails:
    """Small pictures of photos, each made once.

    Attributes:
        sources: {SHA-256: data URL}; "" of a photo that does not decode.
        full: whether there is no room for more.
    """

    def __init__(self, found: manifest.Manifest) -> None:
        """Begins with none.

        Args:
            found: records of the photos.
        """
        self.sources: dict[str, str] = {}
        self.full = False
        self._photos = stored_photo.StoredPhotos(found.directory)
        self._bytes = 0

    def add(self, rows: Iterable[manifest.Row], *, large: bool) -> None:
        """Makes those that are not there yet, in this order, while there is room.

        Args:
            rows: the photos.
            large: they are looked at one by one.
        """
        wanted = {row.sha256: row for row in rows if row.sha256 not in self.sources}
        waiting = list(wanted.values())
        side = _LARGE_PX if large else _SMALL_PX

        def made(row: manifest.Row) -> str:
            return self._small(row, side)

        workers = command_line.available_cpus()
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(waiting), _AT_ONCE):
                some = waiting[start : start + _AT_ONCE]
                for row, source in zip(some, pool.map(made, some), strict=True):
                    if self._bytes + len(source) > MAX_BYTES:
                        self.full = True
                        return
                    self._bytes += len(source)
                    self.sources[row.sha256] = source

    def _small(self, row: manifest.Row, side: int) -> str:
        try:
            encoded = self._photos.image(row)
            return data_url(opencv.thumbnail_jpeg(encoded, side))
        except (ImageError, DataError, OSError):
            return ""


def data_url(jpeg: bytes) -> str:
    """A JPEG file as a page holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def heats(
    model: Any,
    found: manifest.Manifest,
    rows: Sequence[manifest.Row],
    labels: Sequence[int],
    spec: InputSpec,
) -> dict[str, Heat]:
    """Grad-CAM of some photos, for a class of each.

    Args:
        model: keras.Model, image -> logits.
        found: records of the photos.
        rows: the photos, each once.
        labels: of the class in question, for each.
        spec: of the model's input.

    Returns:
        {SHA-256: where the network looked}; {} of a network without a map of places.
    """
    if not rows:
        return {}
    try:
        explained = grad_cam.grad_cam(model)
    except grad_cam.NoMap:
        return {}
    images = image_batches.Images(found, rows, spec, batch_size=16)
    views = crop_and_resize.central_views(images.sizes, spec)
    found_heats = {}
    for batch in images.run(np.arange(len(rows)), views):
        numbers = batch["row"].numpy()
        pixels = batch["image"].numpy()
        maps = explained(pixels, np.array([labels[n] for n in numbers], np.int32))
        for number, seen, heat in zip(numbers, pixels, maps, strict=True):
            laid = grad_cam.overlay(seen, heat)
            top, left, height, width = views.windows[number].tolist()
            row = rows[number]
            found_heats[row.sha256] = Heat(
                source=data_url(opencv.page_jpeg(laid, side=_HEAT_PX)),
                left=100 * left / row.width,
                top=100 * top / row.height,
                width=100 * width / row.width,
                height=100 * height / row.height,
            )
    return found_heats
