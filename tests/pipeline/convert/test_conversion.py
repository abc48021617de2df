import collections
import dataclasses
import os
import re
import resource
import shutil
import signal
import time

import cv2
import numpy as np
import PIL.Image
import pytest

from pipeline.check import check_settings, checking
from pipeline.records import manifest, previous_dataset, staging, stored_photo, tfrecord
from pipeline.sources import source_settings
from pipeline.system.errors import DataError
from tests.support import conversions, drawn_photos, files, processes


def start(source, out):
    return processes.start_command(*conversions.words(source, out))


def record_in(directory, row):
    return stored_photo.StoredPhotos(directory).record(row)


def skipped(summary):
    rows = summary.manifest.rows
    return {row.path: row.reason for row in rows if not row.is_included}


def splits(summary):
    return {row.path: row.split for row in summary.manifest.included()}


def final_names(directory):
    return {p.name for p in directory.iterdir() if not p.name.startswith(".")}


def test_class_names_that_are_nearly_the_same_are_pointed_out(photos, tmp_path):
    (photos / "blue").rename(photos / "Reds")
    notes = conversions.convert(photos, tmp_path / "out").notes
    assert any(
        re.search("^warning: class names alike.* Reds and red$", n) for n in notes
    )


def test_every_file_is_accounted_for(photos, tmp_path):
    red = photos / "red"
    (red / "notes.txt").write_text("not an image")
    (red / "cut.jpg").write_bytes((red / "red000.jpg").read_bytes()[:1500])
    (red / "empty.jpg").write_bytes(b"")
    (red / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(red / "pipe.jpg")
    with (red / "video.mp4").open("wb") as file:
        file.truncate(600 << 20)
    (photos / "stray.jpg").write_bytes((red / "red001.jpg").read_bytes())
    (red / ".hidden").write_text("")
    summary = conversions.convert(photos, tmp_path / "out")
    reasons = skipped(summary)
    assert "not an image" in reasons.pop("red/notes.txt")
    assert "cut off" in reasons.pop("red/cut.jpg")
    assert "No such file" in reasons.pop("red/dangling.jpg")
    assert reasons == {
        "red/empty.jpg": "empty file",
        "red/pipe.jpg": "not a regular file",
        "red/video.mp4": "larger than 512 MB, so not a photo",
        "stray.jpg": "not in a class folder",
    }
    assert summary.manifest.tally.files()["total"] == 36 + 7
    assert summary.manifest.info.ignored == {"hidden": 1}


def test_records_hold_what_the_manifest_says(photos, tmp_path):
    found = conversions.convert(photos, tmp_path / "out").manifest
    kinds, ends = set(), collections.Counter()
    for row in found.included():
        assert row.offset == ends[row.file]
        ends[row.file] += row.length
        record = record_in(tmp_path / "out", row)
        source = (photos / row.path).read_bytes()
        assert record.path == row.path
        assert record.class_name == row.class_name
        assert found.class_names[record.label] == row.class_name
        pixels = cv2.imdecode(np.frombuffer(record.encoded, np.uint8), cv2.IMREAD_COLOR)
        size = (record.height, record.width)
        assert size == (row.height, row.width) == pixels.shape[:2]
        kinds.add((row.format, row.action))
        assert row.action == "reencoded" or record.encoded == source
        assert (pixels == cv2.imread(str(photos / row.path))).all()
    assert kinds == {("jpeg", "copied"), ("png", "reencoded")}
    for name, end in ends.items():
        assert (tmp_path / "out" / name).stat().st_size == end


def test_sixteen_bit_pictures_need_a_white_level(photos, tmp_path):
    path, out = photos / "red" / "xray.png", tmp_path / "out"
    cv2.imwrite(str(path), np.full((40, 50), 2048, np.uint16))
    summary = conversions.convert(photos, out)
    assert "uses 12 of its 16 bits" in skipped(summary)["red/xray.png"]
    assert "white_level" not in summary.manifest.info.settings
    for white, level in ((4095, 128), (2048, 255)):
        summary = conversions.convert(photos, out, white_level=white)
        assert summary.manifest.info.settings["white_level"] == white
        (row,) = (r for r in summary.manifest.included() if r.path == "red/xray.png")
        encoded = np.frombuffer(record_in(out, row).encoded, np.uint8)
        assert cv2.imdecode(encoded, cv2.IMREAD_COLOR).mean() == level
    summary = conversions.convert(photos, out, white_level=2047)
    assert "mostly above 2047" in skipped(summary)["red/xray.png"]
    with pytest.raises(DataError, match=r"was converted with --white_level=2047\."):
        conversions.convert(photos, out)


def test_pixels_of_an_earlier_decoder_are_made_again(photos, tmp_path):
    out = tmp_path / "out"
    for name in ("a.tif", "b.webp"):
        cv2.imwrite(str(photos / "red" / name), drawn_photos.draw_photo("red", 99))
    converted = conversions.convert(photos, out).manifest
    assert previous_dataset.outdated_rows(converted) == []
    versions = {**converted.info.versions, "decoder": "1"}
    info = dataclasses.replace(converted.info, versions=versions)
    with staging.staged(out) as partial:
        dataclasses.replace(converted, info=info).stage(partial)
        staging.commit(out)
    outdated = previous_dataset.outdated_rows(manifest.read(out))
    paths = [row.path for row in outdated]
    pngs = [row.path for row in converted.included() if row.path.endswith(".png")]
    assert paths == sorted(["red/a.tif", *pngs])
    (finding,) = (
        finding
        for finding in checking.check(
            check_settings.Config(source=str(out), out=str(tmp_path / "check"))
        ).findings
        if finding.kind == "outdated pixels"
    )
    assert finding.groups == tuple((path,) for path in paths)
    again = conversions.convert(photos, out)
    assert again.written == ("blue.tfrecord", "green.tfrecord", "red.tfrecord")
    assert previous_dataset.outdated_rows(again.manifest) == []


def test_a_copy_that_decoders_show_differently_is_made_again(photos, tmp_path):
    """Earlier versions copied progressive JPEG that end after the first scan."""
    out, path = tmp_path / "out", photos / "scan" / "a.jpg"
    path.parent.mkdir()
    image = PIL.Image.fromarray(drawn_photos.draw_scene(1, 90, 120))
    image.save(path, progressive=True)
    scans = path.read_bytes().split(b"\xff\xda")
    path.write_bytes(b"\xff\xda".join(scans[:2]) + b"\xff\xd9")
    converted = conversions.convert(photos, out).manifest
    (row,) = (row for row in converted.included() if row.file == "scan.tfrecord")
    record = dataclasses.replace(record_in(out, row), encoded=path.read_bytes())
    framed = tfrecord.frame(stored_photo.serialize(record))
    copied = dataclasses.replace(row, action="copied", reason="", length=len(framed))
    rows = tuple(copied if each is row else each for each in converted.rows)
    with staging.staged(out) as partial:
        (partial / row.file).write_bytes(framed)
        dataclasses.replace(converted, rows=rows).stage(partial)
        staging.commit(out)
    with conversions.in_this_process():
        (fault,) = checking.verify(manifest.read(out))
    assert "ends after its first scan" in fault
    again = conversions.convert(photos, out)
    assert again.written == ("scan.tfrecord",)
    with conversions.in_this_process():
        assert checking.verify(again.manifest) == []


def test_the_source_is_never_touched(photos, tmp_path):
    before = files.folder_digest(photos)
    stamps = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    conversions.convert(photos, tmp_path / "out")
    assert files.folder_digest(photos) == before
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == stamps


def test_a_second_conversion_changes_nothing_and_says_so(photos, tmp_path):
    out = tmp_path / "out"
    conversions.convert(photos, out)
    stamps = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    done = conversions.command(photos, out)
    assert done.returncode == 0, done.stderr
    assert "nothing changed" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == stamps


def test_photos_added_later_keep_the_split_of_all_others(photos, tmp_path):
    """Also of photos of which a copy lies outside the classes."""
    out = tmp_path / "out"
    for path in sorted((photos / "red").glob("*.jpg")):
        shutil.copy(path, photos / f"zz-{path.name}")
    before = splits(conversions.convert(photos, out))
    for number in range(100, 130):
        new = drawn_photos.encode_photo("red", number, ".png")
        (photos / "red" / f"new{number}.png").write_bytes(new)
    summary = conversions.convert(photos, out)
    assert before.items() <= splits(summary).items()
    assert summary.written == ("red.tfrecord",)
    counts = summary.manifest.counts()["red"]
    assert counts == {"train": 34, "validation": 4, "test": 4}
    for row in summary.manifest.included():
        assert record_in(out, row).sha256 == row.sha256


def test_a_photo_under_a_new_name_keeps_its_split(photos, tmp_path):
    out = tmp_path / "out"
    before = {r.sha256: r.split for r in conversions.convert(photos, out).manifest.rows}
    for path in sorted(photos.rglob("*.jpg")):
        path.rename(path.with_name(f"renamed-{path.name}"))
    after = conversions.convert(photos, out).manifest
    assert {row.sha256: row.split for row in after.included()} == before


def test_a_photo_with_another_class_in_the_csv_gets_a_new_record(tmp_path):
    folder = drawn_photos.write_photos(tmp_path, classes=("red", "blue")) / "red"
    labels = {path.name: "red" for path in folder.iterdir()}
    table = tmp_path / "labels.csv"
    for changed in ("red000.jpg", "red001.jpg"):
        labels[changed] = "blue"
        lines = ["path,label", *map(",".join, labels.items())]
        table.write_text("\n".join(lines))
        summary = conversions.convert(folder, tmp_path / "out", csv=str(table))
    rows = {row.path: row for row in summary.manifest.rows}
    assert {name: row.class_name for name, row in rows.items()} == labels
    assert record_in(tmp_path / "out", rows["red001.jpg"]).class_name == "blue"


def test_removed_photos_stay_in_the_manifest_and_come_back(photos, tmp_path):
    out = tmp_path / "out"
    before = conversions.convert(photos, out).manifest
    lost = photos / "green" / "green001.jpg"
    data = lost.read_bytes()
    lost.unlink()
    summary = conversions.convert(photos, out)
    assert skipped(summary) == {"green/green001.jpg": "gone from the source"}
    lost.write_bytes(data)
    assert conversions.convert(photos, out).manifest.digest == before.digest


def test_new_changed_and_gone_photos_are_counted_and_gone_ones_in_no_total(
    photos, tmp_path
):
    out = tmp_path / "out"
    conversions.convert(photos, out)
    red = photos / "red"
    (red / "red000.jpg").unlink()
    (red / "red001.jpg").rename(red / "moved.jpg")
    for name, number in (("red002.jpg", 90), ("new1.jpg", 91), ("new2.jpg", 92)):
        (red / name).write_bytes(drawn_photos.encode_photo("red", number))
    summary = conversions.convert(photos, out)
    assert summary.notes[-1] == (
        "photos since the last conversion: 2 new, 34 known, 1 changed "
        "(red/red002.jpg), 1 gone (red/red000.jpg)"
    )
    tally = summary.manifest.tally
    assert (tally.classes["red"]["photos"], tally.classes["red"]["skipped"]) == (13, 0)
    assert tally.files() == {"total": 37, "copied": 31, "reencoded": 6}
    assert not checking.verify(summary.manifest, num_workers=1)
    again = conversions.convert(photos, out)
    assert again.notes[-1] == "photos since the last conversion: 37 known"


def test_a_source_that_is_no_data_set_is_refused(tmp_path):
    done = conversions.command(tmp_path / "nothing", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'nothing'}: no such folder")
    assert not (tmp_path / "out").exists()


def test_a_class_without_a_usable_photo_is_an_error(photos, tmp_path):
    (photos / "void").mkdir()
    (photos / "void" / "a.jpg").write_text("nothing")
    with pytest.raises(DataError, match=r"void: none of its files.*not an image"):
        conversions.convert(photos, tmp_path / "out")


def test_names_of_any_bytes_and_length_are_converted(tmp_path):
    photos = drawn_photos.write_photos(tmp_path / "photos", 4)
    odd = os.fsdecode(b"caf\xe9 \xf0\x9f\x8c\xbc\n50%")
    folder = photos / "a:b*c"
    folder.mkdir()
    names = (odd, "x" * 240, "plain")
    for number, name in enumerate(names):
        photo = drawn_photos.encode_photo("red", 50 + number, ".png")
        (folder / f"{name}.png").write_bytes(photo)
    found = conversions.convert(photos, tmp_path / "out").manifest
    rows = [row for row in found.rows if row.class_name == "a:b*c"]
    assert {row.path for row in rows} == {f"a:b*c/{name}.png" for name in names}
    for row in rows:
        assert row.file == "a%3Ab%2Ac.tfrecord"
        assert record_in(tmp_path / "out", row).path == row.path


@pytest.mark.parametrize("name", ["other.tfrecord", "folder/notes.txt"])
def test_a_foreign_folder_is_refused_untouched(photos, tmp_path, name):
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(DataError, match=r"not made by a conversion .*(other|folder)"):
        conversions.convert(photos, tmp_path / "out")
    assert files.folder_content(tmp_path / "out") == {name: b"mine"}


def test_another_data_set_is_not_overwritten(photos, tmp_path):
    conversions.convert(photos, tmp_path / "out")
    before = files.folder_digest(tmp_path / "out")
    other = drawn_photos.write_photos(tmp_path / "other", 3, ("red", "green"))
    (other / "green").rename(other / "pink")
    (other / "red").rename(other / "scarlet")
    with pytest.raises(DataError, match="another data set"):
        conversions.convert(other, tmp_path / "out")
    assert files.folder_digest(tmp_path / "out") == before


def test_out_may_not_lie_in_the_source(photos):
    with pytest.raises(DataError, match="inside the source"):
        conversions.convert(photos, photos / "out")


def test_a_known_data_set_keeps_its_seed_and_says_so(photos, tmp_path):
    before = conversions.convert(photos, tmp_path / "out", seed=1).manifest
    done = conversions.command(photos, tmp_path / "out", "--seed=2")
    assert done.returncode == 0
    assert "seed" in done.stdout
    assert "pipeline.split" in done.stdout
    assert manifest.read(tmp_path / "out").digest == before.digest


def check_completed(photos, out):
    """Convert again, to the bytes of a conversion that nothing has disturbed."""
    for directory in (out, out.with_name("undisturbed")):
        conversions.convert(photos, directory)
    assert files.folder_digest(out) == files.folder_digest(directory)


@pytest.mark.parametrize("delay_s", [0.5, 1.2])
def test_a_killed_conversion_leaves_nothing_half_done_and_is_completed(
    photos, tmp_path, delay_s
):
    for number in range(200):
        photo = drawn_photos.encode_photo("red", 100 + number)
        (photos / "red" / f"more{number}.jpg").write_bytes(photo)
    out = tmp_path / "out"
    process = start(photos, out)
    time.sleep(delay_s)
    process.kill()
    process.communicate()
    if out.exists() and final_names(out):
        # Renaming had begun: the rest is marked as on its way, or all is there.
        marker = out / staging.PARTIAL_NAME / staging.COMMIT_NAME
        assert marker.exists() or manifest.read(out).included()
    check_completed(photos, out)
    assert not (out / staging.PARTIAL_NAME).exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_conversion_cleans_up(photos, tmp_path, number):
    for copy in range(400):
        path = photos / "red" / f"more{copy}.jpg"
        cv2.imwrite(str(path), drawn_photos.draw_photo("red", 100 + copy, 400, 600))
    out = tmp_path / "out"
    process = start(photos, out)
    deadline = time.monotonic() + 30
    while not list(out.glob(".partial/*.part")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number, stderr
    assert "Traceback" not in stderr
    assert f"stopped by {number.name}" in stderr
    assert not out.exists() or not final_names(out)


def test_a_full_disk_is_a_named_error_and_the_rerun_completes(photos, tmp_path):
    """A limit on the size of files stands for the end of the device."""
    out = tmp_path / "out"
    for number in range(60):
        photo = drawn_photos.encode_photo("red", 100 + number)
        (photos / "red" / f"more{number}.jpg").write_bytes(photo)
    process = start(photos, out)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
    _, stderr = process.communicate()
    assert process.returncode == 2, stderr
    assert "Traceback" not in stderr
    assert re.search("error: .*(File too large|No space)", stderr)
    assert not out.exists()
    check_completed(photos, out)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-5],
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
        lambda data: bytes(len(data)),
        lambda data: data + b"more",
    ],
    ids=["cut", "one bit", "zeros", "longer"],
)
def test_a_damaged_record_file_is_written_again(photos, tmp_path, damage):
    out = tmp_path / "out"
    conversions.convert(photos, out)
    before = files.folder_digest(out)
    path = out / "red.tfrecord"
    path.write_bytes(damage(path.read_bytes()))
    assert conversions.convert(photos, out).written
    assert files.folder_digest(out) == before


def test_the_command_prints_counts_and_skipped_files(photos, tmp_path):
    (photos / "red" / "bad.jpg").write_text("x")
    done = conversions.command(photos, tmp_path / "out", "--white_level=4095")
    assert done.returncode == 0, done.stderr
    assert "--white_level=4095 has no effect" in done.stdout
    lines = done.stdout.splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines[:5]}
    red = dict(zip(cells["class"], cells["red"], strict=True))
    assert (red["photos"], red["skipped"]) == ("13", "1")
    assert cells["total"][:4] == ["37", "30", "6", "1"]
    assert any(line.startswith("skipped red/bad.jpg: not an image") for line in lines)


def test_wrong_flags_are_refused_before_anything_is_written(photos, tmp_path):
    done = conversions.command(photos, tmp_path / "out", "--group_by=p(")
    assert done.returncode == 2
    assert "--group_by=p(" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lists": "a.txt,b.txt"}, "the name of a.txt does not give its split"),
        ({"lists": "a.txt", "csv": "b.csv"}, "expected only one of them"),
        ({"labels": "a.txt"}, "--labels: expected --lists or --csv"),
        ({"group_by": "*"}, "--group_by=.*not a regular expression"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        source_settings.Settings(**settings)


def test_a_bad_file_does_not_blame_the_next(photos, tmp_path):
    """What the decoder says of a file that is skipped is not said of its neighbour."""
    whole = (photos / "red" / "red000.jpg").read_bytes()
    for cut in range(300, 700, 20):
        (photos / "red" / f"red000-{cut}.jpg").write_bytes(whole[:cut])
    found = conversions.convert(photos, tmp_path / "out", workers=1).manifest
    assert {row.action for row in found.rows if row.format == "jpeg"} == {"copied"}
    assert all(row.reason for row in found.rows if row.action != "copied")


def test_an_animation_is_skipped_on_request(photos, tmp_path):
    frames = [np.full((40, 40, 3), level, np.uint8) for level in (50, 200)]
    animation = cv2.Animation()
    animation.frames, animation.durations = frames, [100, 100]
    assert cv2.imwriteanimation(str(photos / "red" / "moving.gif"), animation)
    out = tmp_path / "out"
    summary = conversions.convert(photos, out, animated="refuse")
    assert skipped(summary) == {"red/moving.gif": "animated (GIF of 2 frames)"}
    rows = conversions.convert(photos, out).manifest.included()
    (row,) = (row for row in rows if row.path.endswith(".gif"))
    assert row.action == "reencoded"
    assert "first of 2 frames" in row.reason


def test_classes_that_are_gone_or_have_another_name_are_said(photos, tmp_path):
    out = tmp_path / "out"
    conversions.convert(photos, out)
    shutil.rmtree(photos / "green")
    done = conversions.command(photos, out)
    assert done.returncode == 0, done.stderr
    assert "24 known, 12 gone (green/green000.jpg, " in done.stdout
    assert "no longer classes of the source: green" in done.stdout
    assert "skipped" not in done.stdout.replace("reencoded  skipped", "")
    assert not (out / "green.tfrecord").exists()
    (photos / "red").rename(photos / "pink")
    first, second = conversions.convert(photos, out).notes[-2:]
    assert "12 with another class (pink/red000.jpg, " in first
    assert second == "warning: no longer classes of the source: red"
