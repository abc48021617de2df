"""Keras 3 models (.keras), zip files -> {"layer/variable": array} and configuration.

Source: keras/src/saving/saving_lib.py. Nothing is unpacked but a few members by name.
"""

import dataclasses
import shutil
import tempfile
import zipfile
from pathlib import Path

from model.checkpoints import archive, errors
from model.checkpoints.hdf5 import h5, isolated_h5

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
OWN_NAME = f"{h5.OWN_MARK}.json"  # member in which files of ours describe themselves
_TEXT_LIMIT = 32 << 20


def read(path: Path) -> h5.H5Content:
    """Reads a model file of Keras 3.

    Raises:
        errors.UnknownFormat: a zip file of something else.
        errors.CheckpointError: missing, damaged or unsafe; as h5.read.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / _WEIGHTS
        config, metadata = unpack(path, weights)
        where = f"{path}:{_WEIGHTS}"
        found = isolated_h5.read(weights, where=where)
    content = h5.interpret(found, where, keras_config=config)
    return dataclasses.replace(content, format="Keras 3 model", metadata=metadata)


def unpack(path: Path, weights: Path) -> tuple[str, dict[str, str]]:
    """Writes the HDF5 file inside to `weights`.

    Returns:
        JSON text of the model's configuration; what the file says of itself.

    Raises:
        errors.CheckpointError: missing, not of Keras, damaged, or a zip bomb.
    """
    if not path.is_file():
        raise errors.MissingCheckpoint(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as opened:
            _check(opened, path)
            config = opened.read(_CONFIG).decode()
            metadata = h5.parse_config(opened.read(_METADATA).decode(), str(path))
            own = ""
            if OWN_NAME in opened.namelist():
                own = opened.read(OWN_NAME).decode()
            with opened.open(_WEIGHTS) as source, weights.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    except errors.CheckpointError:
        raise
    except archive.FAULTS as error:
        raise errors.CorruptCheckpoint(f"{path}: damaged zip file ({error})") from error
    about = {h5.OWN_MARK: own} if own else {}
    version = metadata.get("keras_version")
    if isinstance(version, str) and version.isprintable() and len(version) <= 50:
        about["keras_version"] = version
    return config, about


def _check(opened: zipfile.ZipFile, path: Path) -> None:
    """Checks the members before any is read.

    Raises:
        errors.CheckpointError: missing, too large, or stored in an unknown way.
    """
    members = {info.filename: info for info in opened.infolist()}
    size_bytes = path.stat().st_size
    for name in (_CONFIG, _METADATA, _WEIGHTS, OWN_NAME):
        if name == OWN_NAME and name not in members:
            continue
        if name not in members:
            raise errors.UnknownFormat(
                f"{path}: a zip file, but not of a Keras model (no {name})"
            )
        info = members[name]
        limit = isolated_h5.limit_for(size_bytes) if name == _WEIGHTS else _TEXT_LIMIT
        archive.check_methods([info], path)
        if info.file_size > limit:
            raise errors.CorruptCheckpoint(
                f"{path}: {name} has {info.file_size:,} bytes, expected at most "
                f"{limit:,}"
            )
        if not 0 <= info.header_offset < size_bytes:
            raise errors.CorruptCheckpoint(f"{path}: {name} begins outside the file")
