"""Read old records of two keys, one file a class, as a source.

Scripts of 2018 wrote `daisy.tfrecord`, `roses.tfrecord` and so on. Each record is a
tf.train.Example of `image`, the bytes of a JPEG, and `label`, the 8 bytes of a
little-endian int64. Its photo is called `daisy.tfrecord/000012.jpg` here.
"""

import itertools
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from pipeline.records import manifest, stored_photo, tfrecord
from pipeline.sources import class_folders, photo_source
from pipeline.sources.photo_source import SourcePhoto, Span
from pipeline.system import command_line
from pipeline.system.errors import DataError

_MAX_RECORD_BYTES = 512 << 20
# TensorFlow's tools put the number of a shard before or behind the ending.
_SHARD = r"(-\d{5}-of-\d{5})?"
_NAME = re.compile(rf"(?P<name>.+?){_SHARD}\.tfrecords?{_SHARD}", re.IGNORECASE)
_LABEL = struct.Struct("<q")


def is_source(root: Path) -> bool:
    """Return whether a folder holds record files and no folders; refuse Graft's own."""
    paths = _visible_paths(root, {})
    if not any(map(_class_name, paths)) or any(path.is_dir() for path in paths):
        return False
    if (root / manifest.HEAD_NAME).exists():
        raise DataError(
            f"{root}: is a converted data set already. Train on it with "
            f"python train.py --data={root}"
        )
    return True


def _visible_paths(root: Path, ignored: dict[str, int]) -> list[Path]:
    ignored.update(hidden=0, system=0)
    paths = sorted(root.iterdir())
    return [path for path in paths if class_folders.keep(path.name, ignored)]


def _class_name(path: Path) -> str:
    """Return the class that a record file is named after; "" for another file."""
    match = _NAME.fullmatch(path.name)
    return match["name"] if match and path.is_file() else ""


def list_photos(root: Path) -> photo_source.Source:
    """List the photos in a folder of record files, and verify all checksums.

    Classes are in the order of their old labels. Other files are in no class. The
    records of a class must share one label that no other class has.
    """
    ignored: dict[str, int] = {}
    photos: list[SourcePhoto] = []
    label_of: dict[str, int] = {}
    paths = _visible_paths(root, ignored)
    total = sum(path.stat().st_size for path in paths)
    with command_line.progress(total, "B", "read records", unit_scale=True) as progress:
        for path in paths:
            name = _class_name(path)
            if not name:
                photos.append(SourcePhoto(path=path.name, class_name=""))
            for index, (span, label) in enumerate(_photos(path) if name else ()):
                if label_of.setdefault(name, label) != label:
                    raise DataError(
                        f"{path} record {index}: label {label}, but class {name} has "
                        f"{label_of[name]} in an earlier record. Expected one file per "
                        "class"
                    )
                place = f"{path.name}/{index:06d}.jpg"
                photos.append(SourcePhoto(path=place, class_name=name, span=span))
            progress.update(path.stat().st_size)
    names = sorted(label_of, key=lambda name: label_of[name])
    labels = [label_of[name] for name in names]
    for one, other in itertools.pairwise(names):
        if label_of[one] == label_of[other]:
            raise DataError(
                f"{root}: both {one} and {other} have label {label_of[one]}. Expected "
                "one label per class"
            )
    note = (
        f"two-key records: {sum(map(bool, map(_class_name, paths))):,} files, "
        f"{sum(bool(p.class_name) for p in photos):,} photos in {len(names)} classes"
    )
    if labels != list(range(len(labels))):
        note += f"; their labels {', '.join(map(str, labels[:20]))} become 0, 1, ..."
    return photo_source.Source(
        kind="two-key records",
        root=root,
        class_names=tuple(names),
        photos=sorted(photos, key=lambda photo: photo.path),
        ignored={kind: count for kind, count in ignored.items() if count},
        notes=(note,),
    )


def _photos(path: Path) -> Iterator[tuple[Span, int]]:
    """Yield where each photo lies, and its old label."""
    index = 0
    try:
        for offset, payload in tfrecord.scan(path, max_bytes=_MAX_RECORD_BYTES):
            image, label = _parse(payload, f"{path} at {offset}")
            # Protobuf stores these bytes unchanged, somewhere in the record.
            start = offset + tfrecord.HEADER_BYTES + payload.find(image)
            yield Span(path.name, start, len(image)), label
            index += 1
    except DataError as error:
        raise DataError(f"record {index} of {error}") from error
    if not index:
        raise DataError(f"{path}: has no records. Remove the file")


def _parse(payload: bytes, where: str) -> tuple[bytes, int]:
    features = stored_photo.parse_features(payload, where)
    if {*features} != {"image", "label"}:
        raise DataError(
            f"{where}: has features {sorted(features)[:10]}. Expected image and label, "
            "as the scripts of 2018 wrote them"
        )
    values = [features[name].bytes_list.value for name in ("image", "label")]
    if [len(value) for value in values] != [1, 1] or len(values[1][0]) != _LABEL.size:
        raise DataError(
            f"{where}: expected in image the bytes of one JPEG, and in label the 8 "
            "bytes of one little-endian int64"
        )
    return values[0][0], _LABEL.unpack(values[1][0])[0]
