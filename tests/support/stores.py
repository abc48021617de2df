"""Serve buckets on this machine: S3 by moto, and Google's store by its emulator."""

import contextlib
import logging
import socket
import uuid
from unittest import mock

import fsspec
from gcp_storage_emulator import server as google
from moto.server import ThreadedMotoServer

SCHEMES = ("s3", "gs")


@contextlib.contextmanager
def serve_s3(port=0):
    """Provide {name: value} of an environment in which s3:// is a server of ours."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


@contextlib.contextmanager
def serve_gs():
    """Provide {name: value} of an environment in which gs:// is a server of ours."""
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = google.create_server("127.0.0.1", port, in_memory=True)
    server.start()
    with mock.patch.object(
        google.server.HTTPServer, "handle_error", lambda *_: None
    ):  # clients close connections early
        address = f"http://127.0.0.1:{port}"
        yield {
            "STORAGE_EMULATOR_HOST": address,
            "NO_GCE_CHECK": "true",
            # Which asks for the kind of each bucket, over another protocol.
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
    server.stop()


SERVERS = {"s3": serve_s3, "gs": serve_gs}


def new_bucket(scheme):
    """Return the address of a new bucket, in the environment of the store."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    store(scheme).mkdir(name)
    return f"{scheme}://{name}"


def forget():
    """Let fsspec connect anew, with the environment as it is now."""
    for scheme in SCHEMES:
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


def store(scheme):
    return fsspec.filesystem(scheme, use_listings_cache=False)


def upload(folder, address):
    """Copy the files of a folder to an address in a bucket."""
    system = store(address.partition(":")[0])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            system.pipe_file(f"{address}/{name}", path.read_bytes())


def content(address):
    """Return {relative path: bytes} of all files below an address."""
    system, root = store(address.partition(":")[0]), address.partition("://")[2]
    return {
        path.removeprefix(f"{root}/"): system.cat_file(path)
        for path in sorted(system.find(root))
    }
