"""Render the report of a check as one self-contained page with thumbnails."""

import functools
from collections.abc import Callable
from pathlib import Path

from pipeline.check.check_report import Report
from pipeline.images import opencv
from pipeline.records.row_codes import ImageError
from pipeline.system import html_templates
from pipeline.system.errors import DataError

# Function of a photo's path that returns a JPEG or PNG of it, upright.
Encoded = Callable[[str], bytes]
_TEMPLATE = Path(__file__).parent / "templates" / "check.html"
_SHOWN_GROUPS = 24  # for each finding; check.json has all
_SHOWN_PHOTOS = 4  # for each group
_SIDE_PX = 144


def render(report: Report, encoded: Encoded) -> str:
    """Return a page of HTML that needs no other file."""

    @functools.cache
    def thumbnail(path: str) -> str:
        try:
            small = opencv.thumbnail_jpeg(encoded(path), _SIDE_PX)
        except (ImageError, DataError, OSError):
            return ""  # the page says that there is no picture
        return html_templates.jpeg_url(small)

    return html_templates.load_template(_TEMPLATE).render(
        report=report,
        columns=list(next(iter(report.counts.values()))),
        thumbnail=thumbnail,
        shown_groups=_SHOWN_GROUPS,
        shown_photos=_SHOWN_PHOTOS,
    )
