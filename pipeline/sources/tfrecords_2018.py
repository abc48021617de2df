"""Old records of two keys, one file a class -> a source.

Scripts of 2018 wrote `daisy.tfrecord`, `roses.tfrecord` and so on. Each record is a
tf.train.Example of `image`, the bytes of a JPEG, and `label`, the 8 bytes of a
little-endian int64. Its photo is called `daisy.tfrecord/000012.jpg` here.
"""

import dataclasses
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.records import example_format, file_table, manifest, tfrecord
from pipeline.sources import class_folders, photo_source
from pipeline.system import command_line
from pipeline.system.errors import DataError

_MAX_RECORD_BYTES = 512 << 20
# TensorFlow's tools put the number of a shard before or behind the ending.
_SHARD = r"(-\d{5}-of-\d{5})?"
_NAME = re.compile(rf"(?P<name>.+?){_SHARD}\.tfrecords?{_SHARD}", re.IGNORECASE)
_LABEL = struct.Struct("<q")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Photo:
    """Where the photo of a record lies in its file, in bytes, and its old label."""

    offset: int
    length: int
    label: int


def is_source(root: Path) -> bool:
    """Whether a folder holds record files and no folders.

    Raises:
        DataError: they are Graft's own, which need no conversion.
    """
    kept = _kept(root, {})
    found = any(map(_class_name, kept)) and not any(path.is_dir() for path in kept)
    if found and (root / manifest.HEAD_NAME).exists():
        raise DataError(
            f"{root}: is a converted data set already; train on it with "
            f"python train.py --data={root}"
        )
    return found


def _kept(root: Path, ignored: dict[str, int]) -> list[Path]:
    ignored.update(hidden=0, system=0)
    return [
        path
        for path in sorted(root.iterdir())
        if class_folders.keep(path.name, ignored)
    ]


def _class_name(path: Path) -> str:
    """What a record file is named after; "" if it is none."""
    match = _NAME.fullmatch(path.name)
    return match["name"] if match and path.is_file() else ""


def list_photos(root: Path) -> photo_source.Source:
    """Lists the photos in a folder of record files, and verifies all checksums.

    Classes are in the order of their old labels. Other files are in no class.

    Raises:
        DataError: a file is damaged or empty, a record has other features, the
            records of a class do not have one label of their own, or as listing.check.
    """
    ignored: dict[str, int] = {}
    files = _kept(root, ignored)
    names = [_class_name(path) for path in files]
    found = _read_all(files, names)
    class_names = _in_label_order(root, files, names, found)
    columns = sorted(
        (
            f"{path.name}/{index:06d}.jpg" if name else path.name,
            class_names.index(name) if name else -1,
            number,
            photo.offset,
            photo.length,
        )
        for number, (path, name) in enumerate(zip(files, names, strict=True))
        for index, photo in enumerate(found[number])
    )
    paths, labels, file, offsets, lengths = zip(*columns, strict=True)
    old = [found[names.index(name)][0].label for name in class_names]
    note = (
        f"two-key records: {sum(map(bool, names)):,} files, "
        f"{sum(label >= 0 for label in labels):,} photos in {len(class_names)} classes"
    )
    if old != list(range(len(old))):
        note += f"; their labels {', '.join(map(str, old[:20]))} become 0, 1, ..."
    return photo_source.check(
        photo_source.Source(
            kind="two-key records",
            root=root,
            class_names=class_names,
            paths=paths,
            labels=np.array(labels, np.int32),
            splits=np.full(len(paths), file_table.NO_SPLIT, np.int8),
            ignored={kind: count for kind, count in ignored.items() if count},
            notes=(note,),
            spans=photo_source.Spans(
                files=[path.name for path in files],
                file=np.array(file, np.int32),
                offset=np.array(offsets, np.int64),
                length=np.array(lengths, np.int64),
            ),
        )
    )


def _read_all(files: Sequence[Path], names: Sequence[str]) -> list[list[_Photo]]:
    """The photos of each file; what is no record file is one photo of its own."""
    found = []
    total = sum(path.stat().st_size for path in files)
    with command_line.progress(total, "B", "read records", scale=True) as progress:
        for path, name in zip(files, names, strict=True):
            if name:
                found.append(list(_photos(path)))
            else:
                found.append([_Photo(offset=0, length=photo_source.WHOLE, label=-1)])
            progress.update(path.stat().st_size)
    return found


def _in_label_order(
    root: Path,
    files: Sequence[Path],
    names: Sequence[str],
    found: Sequence[Sequence[_Photo]],
) -> tuple[str, ...]:
    """Class names in the order of their labels, one for each."""
    label_of: dict[str, int] = {}
    class_of: dict[int, str] = {}
    for path, name, photos in zip(files, names, found, strict=True):
        if not name:
            continue
        for index, photo in enumerate(photos):
            if label_of.setdefault(name, photo.label) != photo.label:
                raise DataError(
                    f"{path} record {index}: label {photo.label}, but class {name} has "
                    f"{label_of[name]} before; expected one file per class"
                )
        other = class_of.setdefault(label_of[name], name)
        if other != name:
            raise DataError(
                f"{root}: both {other} and {name} have label {label_of[name]}; "
                "expected one label per class"
            )
    return tuple(class_of[label] for label in sorted(class_of))


def _photos(path: Path) -> Iterator[_Photo]:
    """Yields what a record file holds.

    Raises:
        DataError: names file and record.
    """
    index = 0
    try:
        for offset, payload in tfrecord.scan(path, max_bytes=_MAX_RECORD_BYTES):
            image, label = _parse(payload, f"{path} at {offset}")
            # Protobuf stores these bytes as they are, somewhere in the record.
            start = offset + tfrecord.HEADER_BYTES + payload.find(image)
            yield _Photo(offset=start, length=len(image), label=label)
            index += 1
    except DataError as error:
        raise DataError(f"record {index} of {error}") from error
    if not index:
        raise DataError(f"{path}: no records; remove the file")


def _parse(payload: bytes, where: str) -> tuple[bytes, int]:
    features = example_format.parse_features(payload, where)
    if {*features} != {"image", "label"}:
        raise DataError(
            f"{where}: features {sorted(features)[:10]}; expected image and label, as "
            "the scripts of 2018 wrote them"
        )
    values = [features[name].bytes_list.value for name in ("image", "label")]
    if [len(value) for value in values] != [1, 1] or len(values[1][0]) != _LABEL.size:
        raise DataError(
            f"{where}: expected in image the bytes of one JPEG, and in label the 8 "
            "bytes of one little-endian int64"
        )
    return values[0][0], _LABEL.unpack(values[1][0])[0]
