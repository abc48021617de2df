"""Find the project's folder and compare folders."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def folder_digest(folder):
    """Return {relative path: SHA-256} of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
