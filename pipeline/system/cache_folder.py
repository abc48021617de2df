"""Where files are kept from one run to the next, outside the project's folder."""

import os
from pathlib import Path


def directory() -> Path:
    """$XDG_CACHE_HOME/graft, by default ~/.cache/graft."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "graft"
