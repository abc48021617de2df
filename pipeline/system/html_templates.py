"""Make HTML pages from templates; names of files are escaped."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from pipeline.system.program_name import as_called


def load_template(
    path: Path, *folders: Path, **filters: Callable[[Any], str]
) -> jinja2.Template:
    """Load a template that uses these filters; a name without a value is an error.

    It may import templates of its own folder and of `folders`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader((path.parent, *folders)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_as_called,
    )
    environment.filters.update(filters)
    return environment.get_template(path.name)


def _as_called(value: object) -> object:
    """Name commands in a text as they are called."""
    return type(value)(as_called(value)) if isinstance(value, str) else value


def picture_url(picture: bytes, kind: str = "jpeg") -> str:
    """Return the URL by which a page holds a JPEG or another picture file in itself."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
