"""Let a person review the labels of photos on an HTML page, and save them as CSV.

The page is one file and needs no server. Its template gets `assets` and imports the
macro `page_end` of photo_page.html, whose script adds the buttons.
"""

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, TypeVar

import markupsafe

from pipeline.images import opencv
from pipeline.records import manifest
from pipeline.records.manifest_row import ImageError
from pipeline.sources.photo_source import SKIP
from pipeline.system import command_line, html_templates
from pipeline.system.errors import DataError

# Folder of photo_page.html, for html_templates.load_template.
TEMPLATES = Path(__file__).parent / "templates"
CORRECTIONS = "corrections.csv"  # path,label,note,sha256 of photos to correct
LABELS = "labels.csv"  # path,label of photos that had no label
_Photo = TypeVar("_Photo")


class PhotoReview:
    """Photos on one page whose labels a person reviews; each photo is listed once."""

    def __init__(
        self,
        *,
        key: object,
        class_names: Sequence[str],
        command: str,
        file_name: str = CORRECTIONS,
    ) -> None:
        """Start a review without photos; `mark` adds them.

        The browser stores the answers under a digest of `key`, which identifies the
        data set. `command` is what to run with the saved file, `file_name`, which is
        CORRECTIONS, or LABELS if the photos have no label yet.
        """
        self.data: dict[str, Any] = {
            "key": hashlib.sha256(repr((file_name, key)).encode()).hexdigest(),
            # In corrections.csv the name of one class would leave photos out.
            "classes": [
                n for n in class_names if (n, file_name) != (SKIP, CORRECTIONS)
            ],
            "file": file_name,
            "command": command,
            "photos": [],
        }
        self._numbers: dict[str, int] = {}

    def mark(
        self, path: str, *, label: str = "", sha256: str = "", suggested: str = ""
    ) -> markupsafe.Markup:
        """Add a photo; return the HTML attributes of the element that shows it.

        The script adds the buttons to that element. A page may show a photo repeatedly.
        """
        photos = self.data["photos"]
        number = self._numbers.setdefault(path, len(photos))
        if number == len(photos):
            photos.append([command_line.as_utf8(path), label, sha256, suggested])
        photos[number][3] = photos[number][3] or suggested
        return markupsafe.Markup('data-review="{}" tabindex="-1"').format(number)


def conversion_command(folder: str) -> str:
    """Return the command that applies corrections to a folder of photos or records."""
    source = shlex.quote(folder)
    if Path(folder, manifest.HEAD_NAME).exists():
        # The folder of a fold links to records that were converted elsewhere.
        is_fold = Path(folder, "..", "..", "repeats.json").exists()
        source = "SRC" if is_fold else f"SRC --out={source}"
    return f"python -m pipeline.convert {source} --corrections={CORRECTIONS}"


def thumbnail_urls(
    encoded: Callable[[_Photo], bytes], photos: Iterable[_Photo], side: int
) -> list[str]:
    """Return thumbnails as data URLs; "" for a photo that does not decode.

    `encoded` returns an upright JPEG or PNG of a photo. Thumbnails fit a square of
    `side` pixels.
    """

    def thumbnail_url(photo: _Photo) -> str:
        try:
            return html_templates.picture_url(
                opencv.thumbnail_jpeg(encoded(photo), side)
            )
        except (ImageError, DataError, OSError):
            return ""

    with futures.ThreadPoolExecutor(command_line.available_cpus()) as pool:
        return list(pool.map(thumbnail_url, photos))


def assets(*own_files: Path) -> dict[str, markupsafe.Markup]:
    """Return `style`, `script` and `script_hash` for the template of a photo page.

    The page's own .css and .js files follow the shared ones. By the hash, the browser
    runs this script only. Source: Content Security Policy Level 3, section 6.7.2.
    """
    files = [TEMPLATES / "photo_page.css", TEMPLATES / "photo_page.js", *own_files]
    texts = {".css": "", ".js": ""}
    for path in files:
        texts[path.suffix] += path.read_text(encoding="utf-8")
    digest = hashlib.sha256(texts[".js"].encode()).digest()
    script_hash = f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
    parts = {"style": texts[".css"], "script": texts[".js"], "script_hash": script_hash}
    return {name: markupsafe.Markup(text) for name, text in parts.items()}  # our files
