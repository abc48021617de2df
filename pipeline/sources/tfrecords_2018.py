"""Read old records of two keys, one file a class, as a source.

Scripts of 2018 wrote `daisy.tfrecord`, `roses.tfrecord` and so on. Each record is a
tf.train.Example of `image`, the bytes of a JPEG, and `label`, the 8 bytes of a
little-endian int64. Its photo is called `daisy.tfrecord/000012.jpg` here.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.records import example_format, manifest, tfrecord
from pipeline.sources import class_folders, photo_source
from pipeline.system import command_line
from pipeline.system.errors import DataError

_MAX_RECORD_BYTES = 512 << 20
# TensorFlow's tools put the number of a shard before or behind the ending.
_SHARD = r"(-\d{5}-of-\d{5})?"
_NAME = re.compile(rf"(?P<name>.+?){_SHARD}\.tfrecords?{_SHARD}", re.IGNORECASE)
_LABEL = struct.Struct("<q")


# Where a photo lies, and its old label.
_Photo = tuple[photo_source.Span, int]


def is_source(root: Path) -> bool:
    """Return whether a folder holds record files and no folders.

    Raises:
        DataError: the records are Graft's own and need no conversion.
    """
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
    return [
        path
        for path in sorted(root.iterdir())
        if class_folders.keep(path.name, ignored)
    ]


def _class_name(path: Path) -> str:
    """Return the class that a record file is named after; "" for another file."""
    match = _NAME.fullmatch(path.name)
    return match["name"] if match and path.is_file() else ""


def list_photos(root: Path) -> photo_source.Source:
    """List the photos in a folder of record files, and verify all checksums.

    Classes are in the order of their old labels. Other files are in no class.

    Raises:
        DataError: a file is damaged or empty, a record has other features, the records
            of a class do not share one label that no other class has, or
            photo_source.check refuses the source.
    """
    ignored: dict[str, int] = {}
    files = _visible_paths(root, ignored)
    records = _read_all([path for path in files if _class_name(path)])
    class_of_label = _class_of_label(root, records)
    photos = [
        photo_source.SourcePhoto(path=path.name, class_name="")
        for path in files
        if path not in records
    ]
    for path, old_photos in records.items():
        name = _class_name(path)
        photos += [
            photo_source.SourcePhoto(
                path=f"{path.name}/{index:06d}.jpg",
                class_name=name,
                span=span,
            )
            for index, (span, _) in enumerate(old_photos)
        ]
    photos.sort(key=lambda photo: photo.path)
    note = (
        f"two-key records: {len(records):,} files, "
        f"{sum(map(len, records.values())):,} photos in {len(class_of_label)} classes"
    )
    labels = list(class_of_label)
    if labels != list(range(len(labels))):
        note += f"; their labels {', '.join(map(str, labels[:20]))} become 0, 1, ..."
    return photo_source.check(
        photo_source.Source(
            kind="two-key records",
            root=root,
            class_names=tuple(class_of_label.values()),
            photos=photos,
            ignored={kind: count for kind, count in ignored.items() if count},
            notes=(note,),
        )
    )


def _read_all(files: Sequence[Path]) -> dict[Path, list[_Photo]]:
    """Return {record file: its photos}."""
    records = {}
    total = sum(path.stat().st_size for path in files)
    with command_line.progress(total, "B", "read records", unit_scale=True) as progress:
        for path in files:
            records[path] = list(_photos(path))
            progress.update(path.stat().st_size)
    return records


def _class_of_label(
    root: Path, records: Mapping[Path, Sequence[_Photo]]
) -> dict[int, str]:
    """Return {old label: class name}, by ascending label; refuse labels that clash."""
    label_of: dict[str, int] = {}
    class_of: dict[int, str] = {}
    for path, photos in records.items():
        name = _class_name(path)
        for index, (_, label) in enumerate(photos):
            if label_of.setdefault(name, label) != label:
                raise DataError(
                    f"{path} record {index}: label {label}, but class {name} has "
                    f"{label_of[name]} before. Expected one file per class"
                )
        other = class_of.setdefault(label_of[name], name)
        if other != name:
            raise DataError(
                f"{root}: both {other} and {name} have label {label_of[name]}. "
                "Expected one label per class"
            )
    return dict(sorted(class_of.items()))


def _photos(path: Path) -> Iterator[_Photo]:
    index = 0
    try:
        for offset, payload in tfrecord.scan(path, max_bytes=_MAX_RECORD_BYTES):
            image, label = _parse(payload, f"{path} at {offset}")
            # Protobuf stores these bytes unchanged, somewhere in the record.
            start = offset + tfrecord.HEADER_BYTES + payload.find(image)
            yield photo_source.Span(path.name, start, len(image)), label
            index += 1
    except DataError as error:
        raise DataError(f"record {index} of {error}") from error
    if not index:
        raise DataError(f"{path}: has no records. Remove the file")


def _parse(payload: bytes, where: str) -> tuple[bytes, int]:
    features = example_format.parse_features(payload, where)
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
