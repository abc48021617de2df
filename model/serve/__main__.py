"""Serve a run as a web page and as an endpoint that classifies posted photos.

    python -m model.serve --run_dir=runs/latest --port=8080
    curl --data-binary @photo.jpg http://127.0.0.1:8080/predict

There is no password: whoever can reach --host may send photos.
"""

import pipeline.start  # noqa: F401 # isort: skip
from typing import Any

from model.serve.serve_settings import Config
from pipeline.system import command_line, config_flags


def main(typed: dict[str, Any]) -> None:
    """Serve until a signal."""
    config = config_flags.build(Config, typed)
    # Only now, so that wrong flags are refused at once.
    import pipeline.system.tensorflow_import  # noqa: F401

    # isort: split
    from model.serve import web_server

    web_server.serve(config)


if __name__ == "__main__":
    command_line.run(main, Config)
