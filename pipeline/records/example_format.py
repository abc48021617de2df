"""One image and its label <-> the bytes of one `tf.train.Example`."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from pipeline.system.errors import DataError

# Feature name -> kind. Writing and parsing both come from this table, so they cannot
# drift. A record holds exactly one value of every feature.
FEATURES: dict[str, type] = {
    "image/encoded": bytes,  # a whole JPEG or PNG file
    "image/format": bytes,  # b"jpeg" or b"png"
    "image/height": int,  # pixels, of image/encoded
    "image/width": int,
    "image/class/label": int,  # 0-based index into the manifest's class names
    "image/class/text": bytes,  # the class name, UTF-8
    "image/filename": bytes,  # path relative to the source folder
    "image/sha256": bytes,  # 64 hex digits, of the source file
}


def _example_class() -> Any:
    """Builds tf.train.Example without importing TensorFlow (3 s and 400 MB here).

    Source: tensorflow/core/example/{example,feature}.proto. The pool is private: in a
    process that imports TensorFlow as well, the names would collide in the default one.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="graft/example.proto", package="tensorflow", syntax="proto3"
    )

    def add(parent: Any, name: str, number: int, kind: int, **how: Any) -> None:
        how.setdefault("label", field.LABEL_OPTIONAL)
        parent.field.add(name=name, number=number, type=kind, **how)

    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        add(file.message_type.add(name=name), "value", 1, kind, label=3)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        type_name = ".tensorflow." + name.title().replace("_", "")
        add(feature, name, number, 11, type_name=type_name, oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, 11, type_name=".tensorflow.Feature")
    entries = ".tensorflow.Features.FeatureEntry"
    add(features, "feature", 1, 11, type_name=entries, label=3)
    add(
        file.message_type.add(name="Example"),
        "features",
        1,
        11,
        type_name=".tensorflow.Features",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("tensorflow.Example")
    )


Example = _example_class()


def serialize(values: dict[str, bytes | int]) -> bytes:
    """Encodes one record.

    Args:
        values: exactly the features of `FEATURES`, each of its kind.

    Returns:
        The serialized Example; the same values always give the same bytes.

    Raises:
        DataError: a feature is missing, unknown or of the wrong kind.
    """
    if values.keys() != FEATURES.keys():
        odd = sorted(values.keys() ^ FEATURES.keys())
        raise DataError(f"record features missing or unknown: {odd}")
    example = Example()
    for name, kind in FEATURES.items():
        value = values[name]
        if not isinstance(value, kind):
            raise DataError(
                f"{name}: expected {kind.__name__}, found {type(value).__name__}"
            )
        feature = example.features.feature[name]
        if kind is bytes:
            feature.bytes_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return bytes(example.SerializeToString(deterministic=True))


def features_of(serialized: bytes, where: str = "") -> Any:
    """Decodes a tf.train.Example to {feature name: tensorflow.Feature}.

    Args:
        serialized: the Example.
        where: what to call it in an error.

    Raises:
        DataError: not an Example.
    """
    try:
        return Example.FromString(serialized).features.feature
    except Exception as error:  # protobuf's DecodeError differs between its backends
        what = f"not a tf.train.Example: {error}"
        raise DataError(f"{where}: {what}" if where else what) from error


def parse(serialized: bytes) -> dict[str, bytes | int]:
    """Decodes one record; a missing feature is an error, never a default value.

    Raises:
        DataError: not an Example, or a feature missing, of another kind, or repeated.
    """
    features = features_of(serialized)
    values: dict[str, bytes | int] = {}
    for name, kind in FEATURES.items():
        if name not in features:
            raise DataError(f"feature {name} is missing; found {sorted(features)}")
        feature = features[name]
        found = feature.bytes_list if kind is bytes else feature.int64_list
        if len(found.value) != 1:
            raise DataError(f"feature {name}: expected one {kind.__name__}")
        values[name] = found.value[0]
    return values
