"""Encode photos as `tf.train.Example`s, and read them from the record files."""

import dataclasses
import os
import threading
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from pipeline.records import tfrecord
from pipeline.records.manifest_row import Row
from pipeline.system import file_system
from pipeline.system.errors import DataError
from pipeline.system.remote.bucket import BucketPath


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One photo as a record file stores it; see manifest_row.Row."""

    encoded: bytes  # content of a JPEG or PNG file
    format: str
    height: int
    width: int
    label: int  # 0-based index into the class names of the manifest
    class_name: str
    path: str
    sha256: str


# Feature name -> attribute of Record. Writing and parsing both use this table, so they
# cannot drift apart. A record holds exactly one value of every feature.
FEATURES = {
    "image/encoded": "encoded",
    "image/format": "format",
    "image/height": "height",
    "image/width": "width",
    "image/class/label": "label",
    "image/class/text": "class_name",
    "image/filename": "path",
    "image/sha256": "sha256",
}
_KINDS = {field.name: field.type for field in dataclasses.fields(Record)}


def _example_class() -> Any:
    """Build tf.train.Example without TensorFlow, whose import takes 3 s and 400 MB.

    Source: tensorflow/core/example/{example,feature}.proto. The pool is private: in a
    process that imports TensorFlow as well, the names would collide in the default one.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="graft/example.proto", package="tensorflow", syntax="proto3"
    )

    def add(parent: Any, name: str, number: int, kind: int, **options: Any) -> None:
        options.setdefault("label", field.LABEL_OPTIONAL)
        parent.field.add(name=name, number=number, type=kind, **options)

    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes", "float", "int64"), start=1):
        values = file.message_type.add(name=f"{name.title()}List")
        add(values, "value", 1, getattr(field, f"TYPE_{name.upper()}"), label=3)
        type_name = f".tensorflow.{values.name}"
        add(feature, f"{name}_list", number, 11, type_name=type_name, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, 11, type_name=".tensorflow.Feature")
    entries = ".tensorflow.Features.FeatureEntry"
    add(features, "feature", 1, 11, type_name=entries, label=3)
    example = file.message_type.add(name="Example")
    add(example, "features", 1, 11, type_name=".tensorflow.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName("tensorflow.Example")
    return message_factory.GetMessageClass(descriptor)


Example = _example_class()


def serialize(record: Record) -> bytes:
    """Return a record as a serialized Example; equal records give equal bytes."""
    example = Example()
    for name, attribute in FEATURES.items():
        value = getattr(record, attribute)
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(os.fsencode(value))
    return bytes(example.SerializeToString(deterministic=True))


def parse_features(serialized: bytes, where: str) -> Any:
    """Decode a tf.train.Example to {feature name: tensorflow.Feature}, or DataError."""
    try:
        return Example.FromString(serialized).features.feature
    except message.DecodeError as error:
        raise DataError(f"{where}: not a tf.train.Example: {error}") from error


def parse(serialized: bytes, where: str) -> Record:
    """Decode a record, which has one value of each feature, or raise DataError."""
    features = parse_features(serialized, where)
    values: dict[str, Any] = {}
    for name, attribute in FEATURES.items():
        if name not in features:
            raise DataError(f"{where}: lacks feature {name}. Found {sorted(features)}")
        kind, feature = _KINDS[attribute], features[name]
        content = (feature.int64_list if kind is int else feature.bytes_list).value
        if len(content) != 1:
            what = "integer" if kind is int else "byte string"
            raise DataError(
                f"{where}: feature {name}: expected one {what}, found {len(content)}"
            )
        value = content[0]
        values[attribute] = os.fsdecode(value) if kind is str else value
    return Record(**values)


class StoredPhotos:
    """Read the record of any row; threads may share a reader.

    Record files stay open as long as the reader exists, but not on Windows.
    """

    def __init__(self, directory: Path) -> None:
        """Remember the folder that the rows' record files are relative to."""
        self.directory = directory
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def record(self, row: Row) -> Record:
        """Return the record of a row; raise DataError or OSError if that fails."""
        path = self.directory / row.file
        if file_system.is_remote(str(path)):
            data = BucketPath(str(path)).read(row.offset, row.length)
        elif not hasattr(os, "pread"):
            with path.open("rb") as file:
                file.seek(row.offset)
                data = file.read(row.length)
        else:
            data = os.pread(self._open(row.file), row.length, row.offset)
        where = self._place(row)
        return parse(tfrecord.unframe(data, where), where)

    def image(self, row: Row, label: int | None = None) -> bytes:
        """Return the JPEG or PNG file in the record of a row; raise as `record`.

        The record has the SHA-256 of the row, and the label if one is given.
        """
        record = self.record(row)
        if record.sha256 != row.sha256 or label not in (None, record.label):
            raise DataError(
                f"{self._place(row)}: label or SHA-256 differs from the manifest. "
                "Convert the photos again"
            )
        return record.encoded

    def _place(self, row: Row) -> str:
        return f"{self.directory / row.file} ({row.path}) at {row.offset}"

    def _open(self, name: str) -> int:
        with self._lock:
            if name not in self._descriptors:
                path = file_system.regular(self.directory / name)
                self._descriptors[name] = os.open(path, os.O_RDONLY)
            return self._descriptors[name]
