"""Read Keras 3 models (.keras), zip files, as {"layer/variable": array}.

Source: keras/src/saving/saving_lib.py. Only a few members are read, by their names.
"""

import dataclasses
import shutil
from pathlib import Path

from model.checkpoints import archive, checkpoint, errors
from model.checkpoints.checkpoint import Checkpoint
from model.checkpoints.hdf5 import h5, isolated_h5
from pipeline.system import file_system

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
OWN_NAME = f"{h5.OWN_MARK}.json"  # member with the metadata of a file that Graft wrote
_MAX_TEXT_BYTES = 32 << 20


def read(path: Path) -> Checkpoint:
    """Read a model file of Keras 3; errors.UnknownFormat for another zip file."""
    with file_system.scratch_folder() as folder:
        weights = folder / _WEIGHTS
        config, metadata = unpack(path, weights)
        where = f"{path}:{_WEIGHTS}"
        hdf5 = isolated_h5.read(weights, where=where)
    content = h5.interpret(hdf5, where, keras_config=config)
    return dataclasses.replace(content, format="Keras 3 model", metadata=metadata)


def unpack(path: Path, weights: Path) -> tuple[str, dict[str, str]]:
    """Write the HDF5 file inside a model file to `weights`.

    Return the JSON text of the model's configuration, and metadata: the version of
    Keras and what a file that Graft wrote says about itself.
    """
    with archive.opened(path) as file:
        members = {info.filename: info for info in file.infolist()}
        for name in (_CONFIG, _METADATA, _WEIGHTS):
            if name not in members:
                raise errors.UnknownFormat(
                    f"{path}: a zip file, but not of a Keras model (no {name})"
                )
        infos = [members[n] for n in (_CONFIG, _METADATA, OWN_NAME) if n in members]
        archive.check_members(infos, path, max_bytes=_MAX_TEXT_BYTES)
        limit = isolated_h5.limit_for(path.stat().st_size)
        archive.check_members([members[_WEIGHTS]], path, max_bytes=limit)
        config, of_keras, *own = (archive.read_member(file, info) for info in infos)
        text = config.decode()
        with file.open(_WEIGHTS) as source, weights.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    metadata = checkpoint.parse_metadata(b"".join(own), str(path))
    version = checkpoint.parse_dict(of_keras, str(path), _METADATA).get("keras_version")
    if isinstance(version, str) and version.isprintable() and len(version) <= 50:
        metadata.setdefault("keras_version", version)
    return text, metadata
