"""Collect photos with the labels that visitors give them, in class folders.

FOLDER/tulips/SHA-256.jpg is a photo that pipeline.convert can convert. A line of
FOLDER/.collected.jsonl has the time, the prediction and the label.
"""

import hashlib
import json
import re
import threading
import time
from pathlib import Path

from model.predict.unlabelled import sorted_photos
from pipeline.images import file_headers
from pipeline.system import command_line, file_system

MAX_PHOTOS, MAX_BYTES = 1000, 1 << 30  # in the folder
_ENDINGS = {"JPEG": "jpg", "JPEG 2000": "jp2"}  # others are their formats' names
_NAME = re.compile(r"[0-9a-f]{64}\.\w+\Z")


class CollectedPhotos:
    """The folder of --collect, to which several threads add photos."""

    def __init__(self, folder: str) -> None:
        """Make the folder."""
        self._root, self._lock = Path(folder), threading.Lock()
        self._root.mkdir(parents=True, exist_ok=True)

    def add(self, photo: bytes, label: str, predicted: str, probability: float) -> Path:
        """Add an image file, or give it another label if it is there; return its path.

        Raise OSError if there is no room for it.
        """
        sha256, kind = hashlib.sha256(photo).hexdigest(), file_headers.sniff(photo)
        name = f"{sha256}.{_ENDINGS.get(kind, kind.lower())}"
        with self._lock:
            paths = [path for path in self._root.glob("*/*") if _NAME.match(path.name)]
            before = next((path for path in paths if path.stem == sha256), None)
            num_bytes = sum(path.stat().st_size for path in paths) + len(photo)
            if not before and (len(paths) >= MAX_PHOTOS or num_bytes > MAX_BYTES):
                size = f"{MAX_PHOTOS:,} photos or {MAX_BYTES >> 20:,} MB"
                raise OSError(f"{self._root} is full: at most {size}")
            folder = sorted_photos.class_folder(label)
            path = file_system.make_inside(self._root, folder) / name
            if path != before:
                with file_system.replacing(path) as partial:
                    partial.write_bytes(photo)
                if before:
                    before.unlink()
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "photo": command_line.as_utf8(str(path.relative_to(self._root))),
                "label": command_line.as_utf8(label),
                "predicted": command_line.as_utf8(predicted),
                "probability": probability,
            }
            with (self._root / ".collected.jsonl").open("a", encoding="ascii") as file:
                file.write(json.dumps(line) + "\n")
        return path
