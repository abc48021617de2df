"""Render the report of a check as one self-contained page with thumbnails."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.check.check_report import Report
from pipeline.images import opencv
from pipeline.images.errors import ImageError
from pipeline.system import html_templates
from pipeline.system.errors import DataError

# Function of a photo's path that returns a JPEG or PNG of it, upright.
Encoded = Callable[[str], bytes]
_TEMPLATE = Path(__file__).parent / "templates" / "check.html"
_SHOWN_GROUPS = 24  # for each finding; check.json has all
_SHOWN_PHOTOS = 4  # for each group
_SIDE_PX = 144


def render(report: Report, encoded: Encoded) -> str:
    """Render the page.

    Args:
        report: the report.
        encoded: function of a photo's path that returns its image file.

    Returns:
        HTML that needs no other file.
    """
    cache: dict[str, str] = {}

    def thumbnail(path: str) -> str:
        if path not in cache:
            cache[path] = _thumbnail(path, encoded)
        return cache[path]

    findings: list[dict[str, Any]] = [
        {
            "kind": finding.kind,
            "severity": finding.severity,
            "meaning": finding.meaning,
            "count": len(finding.groups),
            "more": max(0, len(finding.groups) - _SHOWN_GROUPS),
            "groups": [
                [(path, thumbnail(path)) for path in group[:_SHOWN_PHOTOS]]
                for group in finding.groups[:_SHOWN_GROUPS]
            ],
        }
        for finding in report.findings
    ]
    return html_templates.load_template(_TEMPLATE).render(
        source=report.source,
        notes=report.notes,
        columns=list(next(iter(report.counts.values()))),
        counts=report.counts,
        findings=findings,
    )


def _thumbnail(path: str, encoded: Encoded) -> str:
    """Return the URL of a thumbnail; "" if the photo does not decode."""
    try:
        small = opencv.thumbnail_jpeg(encoded(path), _SIDE_PX)
    except (ImageError, DataError, OSError):
        return ""
    return html_templates.jpeg_url(small)
