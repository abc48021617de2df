import os
import struct

import pytest

from pipeline.convert import conversion, convert_settings
from pipeline.images import decode_files
from pipeline.records import example_format, manifest, stored_photo, tfrecord
from pipeline.sources import find_source, tfrecords_2018
from pipeline.system.errors import DataError
from tests.support import processes


def example(image, label, **more):
    """A record as scripts of 2018 wrote it; `more` are other features, of bytes."""
    found = example_format.Example()
    for name, value in {"image": image, "label": label, **more}.items():
        found.features.feature[name].bytes_list.value.append(value)
    return found.SerializeToString()


def write(path, images, label):
    """A record file of these images; the label is raw bytes unless it is a number."""
    raw = struct.pack("<q", label) if isinstance(label, int) else label
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(tfrecord.frame(example(i, raw)) for i in images))


@pytest.fixture
def folder(photos, tmp_path):
    """Record files of the photos, and {path of a record: its bytes}."""
    target, expected = tmp_path / "old", {}
    for label, class_folder in enumerate(sorted(photos.iterdir())):
        images = [path.read_bytes() for path in sorted(class_folder.glob("*.jpg"))]
        name = f"{class_folder.name}.tfrecord"
        write(target / name, images, label)
        for number, image in enumerate(images):
            expected[f"{name}/{number:06d}.jpg"] = image
    return target, expected


def run(source, out):
    config = convert_settings.Config(source=str(source), out=str(out), workers=1)
    return conversion.convert(config)


def test_every_record_is_converted(folder, tmp_path):
    old, expected = folder
    summary = run(old, tmp_path / "out")
    found = summary.manifest
    assert found.class_names == ("blue", "green", "red")
    assert summary.notes == ("two-key records: 3 files, 30 photos in 3 classes",)
    assert {row.path for row in found.included()} == expected.keys()
    for row in found.included():
        record = stored_photo.StoredPhotos(tmp_path / "out").record(row)
        assert record.encoded == expected[row.path]
        assert record.path == row.path
        assert row.class_name == row.path.split(".")[0]
        assert row.source_bytes == len(expected[row.path])
    assert not run(old, tmp_path / "out").changed


def test_added_records_move_no_other(folder, tmp_path):
    old, _ = folder
    before = {r.path: r.split for r in run(old, tmp_path / "out").manifest.rows}
    path = old / "red.tfrecord"
    record = tfrecord.frame(example(b"no photo", struct.pack("<q", 2)))
    path.write_bytes(path.read_bytes() + record)
    after = run(old, tmp_path / "out").manifest
    assert {r.path: r.split for r in after.rows if r.path in before} == before
    (new,) = [row for row in after.rows if row.path not in before]
    assert (new.action, new.path) == ("skipped", "red.tfrecord/000010.jpg")


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


LABEL = struct.pack("<q", 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", r"a\.tfrecord: has no records"),
        (b"x", r"record 0 of .*a\.tfrecord at 0: the file ends inside"),
        (
            tfrecord.frame(example(b"i", LABEL))[:-1],
            "record 0 of .*a record of .* left",
        ),
        (
            struct.pack("<Q", 1 << 60) + b"x" * 40,
            f"a record of {1 << 60} bytes, 48 lef",
        ),
        (b"\0" * 40, r"record 0 of .*no record starts here \(length checksum\)"),
        (
            tfrecord.frame(example(b"image", LABEL)).replace(b"image", b"imagE"),
            r"record 0 of .*damaged \(checksum\)",
        ),
        (tfrecord.frame(b"\xff\xff"), "record 0 of .* at 0: not a tf.train.Example"),
        (tfrecord.frame(b""), r"features \[\]. Expected image and label"),
        (
            tfrecord.frame(example(b"i", LABEL, more=b"x")),
            r"features \['image', 'label', 'more'\]",
        ),
        (tfrecord.frame(example(b"i", b"1")), "in label the 8 bytes of one"),
        (
            tfrecord.frame(example(b"i", LABEL)) * 2
            + tfrecord.frame(example(b"i", struct.pack("<q", -5))),
            r"a\.tfrecord record 2: label -5, but class a has 1 before",
        ),
        (
            tfrecord.frame(example(b"i", struct.pack("<q", 0))),
            "both a and b have label",
        ),
    ],
    ids=[
        "empty",
        "no header",
        "cut",
        "length of exabytes",
        "zeros",
        "damaged",
        "no Example",
        "empty Example",
        "more features",
        "short label",
        "two labels",
        "label of another class",
    ],
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
    with pytest.raises(DataError, match="629,145,600 bytes is no photo"):
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


def test_the_command_converts_old_records(folder, tmp_path):
    old, _ = folder
    done = processes.run_command(
        "-m", "pipeline.convert", old, f"--out={tmp_path / 'out'}", "--workers=1"
    )
    assert done.returncode == 0, done.stderr
    assert "two-key records: 3 files, 30 photos in 3 classes" in done.stdout
    assert manifest.read(tmp_path / "out").info.settings["source"] == "two-key records"
