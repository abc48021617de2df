"""Find the project's folder and compare folders."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
# PYTHONPATH of processes that lack what Windows or macOS lack.
OTHER_SYSTEMS = f"{ROOT}/tests/support/other_systems:{ROOT}"
# What Git LFS leaves in place of a large file.
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:" + b"a" * 64 + b"\nsize 47929383\n"
)


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
