"""A report of a check -> one self-contained page with thumbnails.

Names of files come from strangers: the template engine escapes them.
"""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from pipeline.check.check_findings import Report
from pipeline.images import opencv
from pipeline.images.errors import ImageError
from pipeline.system.errors import DataError

# Path of a photo -> a JPEG or PNG of it, upright.
Encoded = Callable[[str], bytes]
_TEMPLATES = Path(__file__).parent / "templates"
_SHOWN_GROUPS = 24  # of each finding; check.json has all
_SHOWN_PHOTOS = 4  # of each group
_SIDE_PX = 144


def render(report: Report, encoded: Encoded) -> str:
    """Makes the page.

    Args:
        report: what to show.
        encoded: of the photos that are shown.

    Returns:
        HTML that needs no other file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
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
    return environment.get_template("check.html").render(
        source=report.source,
        notes=report.notes,
        columns=list(next(iter(report.counts.values()))),
        counts=report.counts,
        findings=findings,
    )


def _thumbnail(path: str, encoded: Encoded) -> str:
    """A data URL; "" of what does not decode."""
    try:
        small = opencv.thumbnail_jpeg(encoded(path), _SIDE_PX)
    except (ImageError, DataError, OSError):
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(small).decode("ascii")
