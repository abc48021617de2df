"""Serve a run on a page of this machine."""

import dataclasses
import ipaddress
import socket

from model.predict import classifier, output_formats
from model.serve import prediction_service
from pipeline.system import command_line
from pipeline.system.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a server.

    Attributes:
        run_dir: the run.
        data: folder of its records, if they were moved; "" otherwise.
        host: address to listen at.
        port: likewise; 0 for one that is free.
        allowed_hosts: names that browsers may call it by, with commas between; "" for
            those of this machine if `host` is one of them, or else any.
        top: number of classes to tell.
        unknown_below: the answer is "unknown" where the likeliest class is less
            probable, 0..1.
        max_upload_mb: a photo's file may have, in MiB.
        max_megapixels: a photo may have, in millions.
        max_requests: photos under way at one time; more are turned away.
        upload_timeout_s: how long an upload may take, in seconds.
        decode_timeout_s: how long decoding a photo may take, in seconds.
    """

    run_dir: str = "runs/latest"
    data: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: str = ""
    top: int = output_formats.TOP
    unknown_below: float = 0.0
    max_upload_mb: int = 20
    max_megapixels: int = 50
    max_requests: int = 32
    upload_timeout_s: float = 30.0
    decode_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.unknown_below <= 1:
            raise ValueError(f"--unknown_below={self.unknown_below}: expected 0 to 1")
        for name in ("upload_timeout_s", "decode_timeout_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise ValueError(
                    f"--{name}={getattr(self, name)}: expected above 0 and at most 3600"
                )

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def listen(config: Config) -> socket.socket:
    """Takes the port; connections are refused until the server is ready.

    Raises:
        DataError: it is taken, or the address is not this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
        return found
    except OSError as error:
        what = error.strerror or str(error)
        raise DataError(
            f"--host={config.host} --port={config.port}: cannot listen there ({what}); "
            "choose others, or --port=0 for a free port"
        ) from error


def url(config: Config, listening: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(config: Config) -> None:
    """Serves as configured, until a signal.

    Raises:
        DataError: the run is not as it should be, the port is taken, or the
            packages of the extra "serve" are not installed.
    """
    try:
        from model.serve import uvicorn_server, web_app, web_guard
    except ImportError as error:
        raise DataError(
            f"model.serve: {error.name or error} is missing; python -m pip install "
            "'.[serve]', or starlette, uvicorn and python-multipart"
        ) from error
    named = {one.strip().lower() for one in config.allowed_hosts.split(",")} - {""}
    allowed = frozenset(named)
    if config.is_loopback:
        allowed |= web_guard.LOOPBACK_HOSTS | {config.host.lower()}
    limits = web_app.Limits(
        max_upload_bytes=config.max_upload_mb << 20,
        max_requests=config.max_requests,
        upload_timeout_s=config.upload_timeout_s,
        unknown_below=config.unknown_below,
        top=config.top,
    )
    with listen(config) as listening:
        answering = prediction_service.Service(
            classifier.of_run(config.run_dir),
            data=config.data,
            max_pixels=config.max_megapixels * 1_000_000,
            decode_timeout_s=config.decode_timeout_s,
        )
        try:
            answering.warm_up()
            address = url(config, listening)

            def ready() -> None:
                command_line.log(f"ready: {address}  (Ctrl-C ends it)")
                if not config.is_loopback:
                    command_line.log(
                        f"note: whoever can reach {config.host} may ask; there is no "
                        "password"
                    )

            uvicorn_server.serve(
                web_app.application(answering, limits, allowed),
                listening,
                header_timeout_s=config.upload_timeout_s,
                max_requests=config.max_requests,
                on_ready=ready,
            )
        finally:
            answering.close()
