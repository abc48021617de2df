"""Serve a run: a page for browsers and an endpoint for programs."""

import ipaddress
import socket

from model.predict import classifier
from model.serve import prediction_service
from model.serve.serve_settings import Config
from pipeline.system import command_line
from pipeline.system.errors import DataError


def listen(config: Config) -> socket.socket:
    """Bind the address; connections are refused until the server is ready.

    Raises:
        DataError: the port is in use, or the address is not one of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
        return listening
    except OSError as error:
        raise DataError(
            f"--host={config.host} --port={config.port}: cannot listen there "
            f"({error.strerror or error}). Choose another address, or --port=0 for a "
            "free port."
        ) from error


def url(config: Config, listening: socket.socket) -> str:
    """Return the address of the page for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(config: Config) -> None:
    """Serve a run until SIGINT or SIGTERM.

    Raises:
        DataError: the run is not as expected, the port is in use, or the package of the
            extra "serve" is not installed.
        command_line.Stopped: a signal came, and the photos under way are answered.
    """
    try:
        from model.serve import web_app, web_server
    except ImportError as error:
        raise DataError(
            f"model.serve: the Python package {error.name} is not installed. Install "
            "it with: python -m pip install '.[serve]'"
        ) from error
    with listen(config) as listening:
        run_classifier = classifier.load_run(config.run_dir)
        command_line.log(run_classifier.describe())
        service = prediction_service.Service(
            run_classifier,
            data=config.data,
            max_pixels=config.max_megapixels * 1_000_000,
            decode_timeout_s=config.decode_timeout_s,
        )
        try:
            service.warm_up()
            signal = web_server.serve(
                web_app.application(service, config),
                listening,
                timeout_s=config.upload_timeout_s,
                max_photos=config.max_requests,
                on_ready=lambda: _announce(config, listening),
            )
        finally:
            service.close()
    raise command_line.Stopped(signal, in_order=True)


def _announce(config: Config, listening: socket.socket) -> None:
    command_line.log(f"ready: {url(config, listening)}  (Ctrl-C stops it)")
    if not config.is_loopback:
        command_line.log(
            f"note: every machine that can reach {config.host} can use this server; "
            "there is no password"
        )
