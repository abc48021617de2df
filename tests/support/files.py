"""Find the project's folder and compare folders."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def folder_content(folder):
    """Return {relative path: bytes} of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def folder_digest(folder):
    """Return {relative path: SHA-256} of all files below a folder."""
    return {
        name: hashlib.sha256(content).hexdigest()
        for name, content in folder_content(folder).items()
    }
