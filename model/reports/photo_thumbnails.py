"""Make the thumbnails and heat maps of the HTML report, of limited total size."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from model.evaluation import grad_cam
from pipeline.batches import crop_and_resize, image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.images import opencv
from pipeline.records import manifest, stored_photo
from pipeline.records.manifest_row import Row
from pipeline.review import photo_review
from pipeline.system import html_templates

MAX_BYTES = 9 << 20  # 9 MiB: total size of the thumbnails, as data URLs
_LARGE_PX, _SMALL_PX = 320, 112
_HEAT_PX = 160
_PHOTOS_AT_ONCE = 64


class Thumbnails:
    """Thumbnails of photos, each made once, up to a total size."""

    def __init__(self, records: manifest.Manifest) -> None:
        """Starts without thumbnails."""
        # {SHA-256 of a photo: data URL}; "" for a photo that does not decode.
        self.sources: dict[str, str] = {}
        self._photos = stored_photo.StoredPhotos(records.directory)

    def add(self, rows: Iterable[Row], *, large: bool) -> None:
        """Make missing thumbnails, in the given order, until the total size is reached.

        They are `large` for photos that are shown one by one.
        """
        missing = {row.sha256: row for row in rows if row.sha256 not in self.sources}
        waiting = list(missing.values())
        side = _LARGE_PX if large else _SMALL_PX
        total_bytes = sum(map(len, self.sources.values()))
        for start in range(0, len(waiting), _PHOTOS_AT_ONCE):
            rows_now = waiting[start : start + _PHOTOS_AT_ONCE]
            sources = photo_review.pictures(self._photos.image, rows_now, side)
            for row, source in zip(rows_now, sources, strict=True):
                total_bytes += len(source)
                if total_bytes > MAX_BYTES:
                    return
                self.sources[row.sha256] = source


def heat_maps(
    model: Any,
    records: manifest.Manifest,
    rows: Sequence[Row],
    labels: Sequence[int],
    spec: InputSpec,
) -> dict[str, dict[str, str]]:
    """Return the heat map of each photo for one class (Grad-CAM), by its SHA-256.

    `labels` are those of the class in question, one for each row. A network without a
    spatial layer has no heat maps. `source` is a data URL of the network's input with
    the heat map over it, and `style` its place in the photo, in CSS.
    """
    if not rows:
        return {}
    try:
        explain = grad_cam.grad_cam(model)
    except grad_cam.NoSpatialLayer:
        return {}
    images = image_batches.Images(records, rows, spec, batch_size=16)
    views = crop_and_resize.central_views(images.sizes, spec)
    maps_by_photo = {}
    for batch in images.run(np.arange(len(rows)), views):
        numbers = batch["row"].numpy()
        pixels = batch["image"].numpy()
        heats = explain(pixels, np.array([labels[n] for n in numbers], np.int32))
        for number, image, heat in zip(numbers, pixels, heats, strict=True):
            jpeg = opencv.page_jpeg(grad_cam.overlay(image, heat), side=_HEAT_PX)
            top, left, height, width = views.windows[number].tolist()
            row = rows[number]
            maps_by_photo[row.sha256] = {
                "source": html_templates.jpeg_url(jpeg),
                "style": f"left:{left / row.width:.2%};top:{top / row.height:.2%};"
                f"width:{width / row.width:.2%};height:{height / row.height:.2%}",
            }
    return maps_by_photo
