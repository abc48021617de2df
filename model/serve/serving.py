"""Serve a run: a page for browsers and an endpoint for programs."""

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
        """Whether no other machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> frozenset[str]:
        """Host names, in lower case, by which browsers may call; empty for any."""
        names = {name.strip().lower() for name in self.allowed_hosts.split(",")}
        if self.is_loopback:
            names |= {"localhost", "127.0.0.1", "::1", self.host.lower()}
        return frozenset(names - {""})


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
