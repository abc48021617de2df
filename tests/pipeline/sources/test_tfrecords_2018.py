import os
import struct

import pytest

from pipeline.images import decode_files
from pipeline.records import stored_photo, tfrecord
from pipeline.sources import find_source, tfrecords_2018
from pipeline.system.errors import DataError
from tests.support import conversions


def example(image, label, **more):
    """A record as scripts of 2018 wrote it; `more` are other features, of bytes."""
    record = stored_photo.Example()
    for name, value in {"image": image, "label": label, **more}.items():
        record.features.feature[name].bytes_list.value.append(value)
    return record.SerializeToString(deterministic=True)


def framed(image, label):
    return tfrecord.frame(example(image, struct.pack("<q", label)))


def write(path, images, label):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(framed(image, label) for image in images))


def test_every_record_is_converted(photos, tmp_path):
    old, out = tmp_path / "old", tmp_path / "out"
    expected = {}
    for label, name in enumerate(("blue", "green", "red")):
        images = [path.read_bytes() for path in sorted((photos / name).glob("*.jpg"))]
        write(old / f"{name}.tfrecord", images, label)
        for number, image in enumerate(images):
            expected[f"{name}.tfrecord/{number:06d}.jpg"] = image
    summary = conversions.convert(old, out)
    found = summary.manifest
    assert found.class_names == ("blue", "green", "red")
    assert found.info.settings["source"] == "two-key records"
    assert summary.notes == ("two-key records: 3 files, 30 photos in 3 classes",)
    assert {row.path for row in found.included()} == expected.keys()
    for row in found.included():
        record = stored_photo.StoredPhotos(out).record(row)
        assert record.encoded == expected[row.path]
        assert record.path == row.path
        assert row.class_name == row.path.split(".")[0]
        assert row.source_bytes == len(expected[row.path])
    assert not conversions.convert(old, out).changed


def test_shards_are_joined_and_other_files_have_no_class(tmp_path):
    write(tmp_path / "b-00000-of-00002.tfrecord", [b"1"], 7)
    write(tmp_path / "b-00001-of-00002.tfrecord", [b"2"], 7)
    write(tmp_path / "A.TFRecords-00000-of-00001", [b"3"], 9)
    (tmp_path / "README").write_text("mine")
    (tmp_path / ".hidden").write_text("mine")
    found = find_source.list_source(tmp_path)
    assert found.class_names == ("b", "A")  # by label
    assert [(photo.path, photo.class_name) for photo in found.photos] == [
        ("A.TFRecords-00000-of-00001/000000.jpg", "A"),
        ("README", ""),
        ("b-00000-of-00002.tfrecord/000000.jpg", "b"),
        ("b-00001-of-00002.tfrecord/000000.jpg", "b"),
    ]
    assert found.ignored == {"hidden": 1}
    assert "their labels 7, 9 become 0, 1" in found.notes[0]
    for photo in found.photos:
        if photo.path == "README":
            assert photo.span is None
        else:
            assert decode_files.read(tmp_path, photo) in (b"1", b"2", b"3")


def test_folders_and_pipes_are_no_records(tmp_path):
    (tmp_path / "a.tfrecord").mkdir()
    assert not tfrecords_2018.is_source(tmp_path)
    (tmp_path / "b.tfrecord").write_bytes(b"x")
    assert not tfrecords_2018.is_source(tmp_path)
    os.mkfifo(tmp_path / "c.tfrecord")
    (tmp_path / "a.tfrecord").rmdir()
    (tmp_path / "b.tfrecord").unlink()
    assert not tfrecords_2018.is_source(tmp_path)


def test_a_converted_data_set_is_refused(shared_records):
    with pytest.raises(DataError, match=r"converted data set already.*--data"):
        find_source.list_source(shared_records)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", r"a\.tfrecord: has no records"),
        (b"x", r"record 0 of .*a\.tfrecord at 0: the file ends inside"),
        (framed(b"i", 1)[:-1], "record 0 of .*a record of .* left"),
        (b"\0" * 40, r"record 0 of .*no record starts here \(length checksum\)"),
        (
            framed(b"image", 1).replace(b"image", b"imagE"),
            r"record 0 of .*damaged \(checksum\)",
        ),
        (tfrecord.frame(b"\xff\xff"), "record 0 of .* at 0: not a tf.train.Example"),
        (tfrecord.frame(b""), r"features \[\]. Expected image and label"),
        (
            tfrecord.frame(example(b"i", b"12345678", more=b"x")),
            r"features \['image', 'label', 'more'\]",
        ),
        (tfrecord.frame(example(b"i", b"1")), "in label the 8 bytes of one"),
        (
            framed(b"i", 1) * 2 + framed(b"i", -5),
            r"a\.tfrecord record 2: label -5, but class a has 1 in an earlier",
        ),
        (framed(b"i", 0), "both a and b have label"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_or_unusual_record_is_named(tmp_path, body, message):
    (tmp_path / "a.tfrecord").write_bytes(body)
    write(tmp_path / "b.tfrecord", [b"i"], 0)
    with pytest.raises(DataError, match=message):
        find_source.list_source(tmp_path)


def test_a_record_that_is_no_photo_is_not_read(tmp_path):
    with (tmp_path / "a.tfrecord").open("wb") as file:
        file.write(struct.pack("<Q", 600 << 20))
        file.truncate(700 << 20)
    with pytest.raises(DataError, match="629,145,600 bytes is not a photo"):
        find_source.list_source(tmp_path)


def test_the_label_is_not_taken_for_the_image(tmp_path):
    """The bytes are found in the record even if they stand there twice."""
    for number, name in enumerate("ab"):
        write(tmp_path / f"{name}.tfrecord", [struct.pack("<q", number), b""], number)
    found = find_source.list_source(tmp_path)
    for photo in found.photos:
        label = struct.pack("<q", "ab".index(photo.path[0]))
        expected = label if "000000" in photo.path else b""
        assert decode_files.read(tmp_path, photo) == expected
