"""Let a person say on a page whether photos are labelled rightly, and save that as CSV.

The page needs no server and no other file. Its templates get `assets` and import
`page_end` from photo_page.html, whose script does the rest.
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
from pipeline.system import command_line, html_templates
from pipeline.system.errors import DataError

# Folder of photo_page.html, for html_templates.load_template.
TEMPLATES = Path(__file__).parent / "templates"
CORRECTIONS = "corrections.csv"  # path,label,note,sha256 of photos to correct
LABELS = "labels.csv"  # path,label of photos that had no label
_Photo = TypeVar("_Photo")


class PhotoReview:
    """The photos of one page that a person answers for, each once."""

    def __init__(
        self,
        *,
        key: object,
        class_names: Sequence[str],
        command: str,
        file_name: str = CORRECTIONS,
    ) -> None:
        """Start without photos.

        The browser keeps the answers under a digest of `key`, which stands for the data
        set. `command` is the command line to run with the saved file, `file_name`,
        which is CORRECTIONS, or LABELS for photos without a label.
        """
        self.data: dict[str, Any] = {
            "key": hashlib.sha256(repr((file_name, key)).encode()).hexdigest(),
            "classes": list(class_names),
            "file": file_name,
            "command": command,
            "photos": [],
        }
        self._numbers: dict[str, int] = {}

    def mark(
        self, path: str, *, label: str = "", sha256: str = "", suggested: str = ""
    ) -> markupsafe.Markup:
        """Return the attributes of an element that shows a photo of the source.

        The script adds the buttons to it. A page may show a photo several times.
        """
        photos = self.data["photos"]
        number = self._numbers.setdefault(path, len(photos))
        if number == len(photos):
            photos.append([command_line.as_utf8(path), label, sha256, suggested])
        photos[number][3] = photos[number][3] or suggested
        return markupsafe.Markup('data-review="{}" tabindex="-1"').format(number)


def conversion_command(folder: str) -> str:
    """Return the command that corrects labels of the photos or records of a folder."""
    source = shlex.quote(folder)
    if Path(folder, manifest.HEAD_NAME).exists():
        # Links are those of one fold, whose photos are converted elsewhere.
        is_fold = any(path.is_symlink() for path in Path(folder).glob("*.tfrecord"))
        source = "SRC" if is_fold else f"SRC --out={source}"
    return f"python -m pipeline.convert {source} --corrections={CORRECTIONS}"


def pictures(
    encoded: Callable[[_Photo], bytes], photos: Iterable[_Photo], side: int
) -> list[str]:
    """Return photos as data URLs that fit a square; "" for one that does not decode.

    The function `encoded` returns a JPEG or PNG of a photo, upright.
    """

    def picture(photo: _Photo) -> str:
        try:
            return html_templates.jpeg_url(opencv.thumbnail_jpeg(encoded(photo), side))
        except (ImageError, DataError, OSError):
            return ""

    with futures.ThreadPoolExecutor(command_line.available_cpus()) as pool:
        return list(pool.map(picture, photos))


def assets(*own_files: Path) -> dict[str, markupsafe.Markup]:
    """Return `style`, `script` and `script_hash` of a page with photos.

    Those of `own_files`, .css and .js, follow. The browser runs that script and no
    other. Source: Content Security Policy Level 3, section 6.7.2 (inline scripts).
    """
    files = [TEMPLATES / "photo_page.css", TEMPLATES / "photo_page.js", *own_files]
    texts = {".css": "", ".js": ""}
    for path in files:
        texts[path.suffix] += path.read_text(encoding="utf-8")
    digest = hashlib.sha256(texts[".js"].encode()).digest()
    script_hash = f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
    parts = {"style": texts[".css"], "script": texts[".js"], "script_hash": script_hash}
    return {name: markupsafe.Markup(text) for name, text in parts.items()}  # our files
