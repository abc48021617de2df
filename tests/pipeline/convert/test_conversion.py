import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from pipeline.convert import conversion, convert_settings
from pipeline.records import manifest, staging, stored_photo
from pipeline.records.row_codes import Code
from pipeline.system.errors import DataError
from tests.support import drawn_photos, files, processes


def run_convert(source, out, **kwargs):
    config = convert_settings.Config(
        source=str(source), out=str(out), workers=1, **kwargs
    )
    summary = conversion.convert(config)
    assert summary.manifest == manifest.read(out)
    return summary


def command(source, out, *flags, **kwargs):
    return processes.run_command(
        "-m", "pipeline.convert", source, f"--out={out}", *flags, **kwargs
    )


def start(source, out, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.convert", source, f"--out={out}", *flags],
        cwd=files.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def record_of(row, directory):
    return stored_photo.StoredPhotos(directory).record(row)


def final_names(directory):
    return {p.name for p in directory.iterdir() if not p.name.startswith(".")}


def test_every_file_is_accounted_for(photos, tmp_path):
    (photos / "red" / "notes.txt").write_text("not an image")
    (photos / "red" / "cut.jpg").write_bytes(
        (photos / "red" / "red000.jpg").read_bytes()[:1500]
    )
    (photos / "stray.jpg").write_bytes((photos / "red" / "red001.jpg").read_bytes())
    (photos / "red" / ".hidden").write_text("")
    found = run_convert(photos, tmp_path / "out").manifest
    files = {
        path.relative_to(photos).as_posix()
        for path in photos.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    assert {row.path for row in found.rows} == files
    skipped = {row.path: row.reason for row in found.rows if not row.is_included}
    assert set(skipped) == {"red/notes.txt", "red/cut.jpg", "stray.jpg"}
    assert "not an image" in skipped["red/notes.txt"]
    assert skipped["stray.jpg"] == "not in a class folder"
    head = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert head["files"]["total"] == 36 + 3
    assert sum(found.info.ignored.values()) == 1


def test_records_hold_what_the_manifest_says(photos, tmp_path):
    found = run_convert(photos, tmp_path / "out").manifest
    kinds = set()
    for row in found.included():
        record = record_of(row, tmp_path / "out")
        source = (photos / row.path).read_bytes()
        assert record.path == row.path
        assert record.class_name == row.class_name
        assert found.class_names[record.label] == row.class_name
        pixels = cv2.imdecode(np.frombuffer(record.encoded, np.uint8), cv2.IMREAD_COLOR)
        size = (record.height, record.width)
        assert size == (row.height, row.width) == pixels.shape[:2]
        kinds.add((row.format, row.action))
        if row.action == "copied":
            assert record.encoded == source
        else:
            assert (pixels == cv2.imread(str(photos / row.path))).all()  # PNG
    assert kinds == {("jpeg", "copied"), ("png", "reencoded")}


def test_rows_tile_the_record_files(photos, tmp_path):
    found = run_convert(photos, tmp_path / "out").manifest
    for name in {row.file for row in found.included()}:
        rows = sorted(
            (row for row in found.included() if row.file == name),
            key=lambda r: r.offset,
        )
        ends = [0, *(row.offset + row.length for row in rows)]
        assert [row.offset for row in rows] == ends[:-1]
        assert (tmp_path / "out" / name).stat().st_size == ends[-1]


def test_large_photos_are_shrunk_to_the_setting(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        pixels = drawn_photos.draw_photo("red", ord(name), 600, 900)
        cv2.imwrite(str(tmp_path / "photos" / name / "large.jpg"), pixels)
    for resize_min, size, action in (
        (512, (512, 768), "reencoded"),
        (100, (100, 150), "reencoded"),
        (0, (600, 900), "copied"),
    ):
        out = tmp_path / f"out{resize_min}"
        found = run_convert(tmp_path / "photos", out, resize_min=resize_min).manifest
        for row in found.rows:
            assert ((row.height, row.width), row.action) == (size, action)


def test_two_conversions_give_the_same_bytes(photos, tmp_path):
    for out, workers in (("one", 1), ("two", 2)):
        config = convert_settings.Config(
            source=str(photos), out=str(tmp_path / out), workers=workers
        )
        conversion.convert(config)
    one, two = (files.folder_digest(tmp_path / out) for out in ("one", "two"))
    assert one == two


def test_the_source_is_never_touched(photos, tmp_path):
    before = files.folder_digest(photos)
    stamps = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    run_convert(photos, tmp_path / "out")
    assert files.folder_digest(photos) == before
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == stamps


def test_a_second_conversion_changes_nothing_and_says_so(photos, tmp_path):
    out = tmp_path / "out"
    run_convert(photos, out)
    stamps = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    done = command(photos, out, "--workers=1")
    assert done.returncode == 0, done.stderr
    assert "nothing changed" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == stamps


def test_photos_added_later_keep_the_split_of_all_others(photos, tmp_path):
    out = tmp_path / "out"
    before = {r.path: r.split for r in run_convert(photos, out).manifest.rows}
    for number in range(100, 130):
        cv2.imwrite(
            str(photos / "red" / f"new{number}.png"),
            drawn_photos.draw_photo("red", number),
        )
    summary = run_convert(photos, out)
    after = {row.path: row.split for row in summary.manifest.rows}
    assert {path: after[path] for path in before} == before
    assert summary.written == ("red.tfrecord",)
    counts = summary.manifest.counts()["red"]
    assert counts == {"train": 34, "validation": 4, "test": 4}
    for row in summary.manifest.included():
        assert record_of(row, out).sha256 == row.sha256


def test_a_photo_under_a_new_name_keeps_its_split(photos, tmp_path):
    out = tmp_path / "out"
    before = {r.sha256: r.split for r in run_convert(photos, out).manifest.rows}
    for path in sorted(photos.rglob("*.jpg")):
        path.rename(path.with_name(f"renamed-{path.name}"))
    after = run_convert(photos, out).manifest
    assert {row.sha256: row.split for row in after.included()} == before


def test_a_photo_with_another_class_in_the_csv_gets_a_new_record(tmp_path):
    folder = drawn_photos.write_photos(tmp_path, classes=("red", "blue")) / "red"
    labels = {path.name: "red" for path in folder.iterdir()}
    table = tmp_path / "labels.csv"
    for changed in ("red000.jpg", "red001.jpg"):
        labels[changed] = "blue"
        lines = ["path,label", *map(",".join, labels.items())]
        table.write_text("\n".join(lines))
        converted = run_convert(folder, tmp_path / "out", csv=str(table)).manifest
    rows = {row.path: row for row in converted.rows}
    assert {name: row.class_name for name, row in rows.items()} == labels
    assert record_of(rows["red001.jpg"], tmp_path / "out").class_name == "blue"


def test_removed_photos_stay_in_the_manifest_and_come_back(photos, tmp_path):
    out = tmp_path / "out"
    before = run_convert(photos, out).manifest
    lost = photos / "green" / "green001.jpg"
    data = lost.read_bytes()
    lost.unlink()
    summary = run_convert(photos, out)
    (row,) = [row for row in summary.manifest.rows if not row.is_included]
    assert row.path == "green/green001.jpg"
    assert (row.action, row.codes) == ("skipped", (Code.REMOVED,))
    lost.write_bytes(data)
    assert run_convert(photos, out).manifest.digest == before.digest


def test_a_removed_class_is_reported(photos, tmp_path):
    run_convert(photos, tmp_path / "out")
    shutil.rmtree(photos / "green")
    done = command(photos, tmp_path / "out", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert "gone from the source" in done.stdout
    assert manifest.read(tmp_path / "out").class_names == ("blue", "red")
    assert not (tmp_path / "out" / "green.tfrecord").exists()


def test_copies_of_a_photo_share_a_split(photos, tmp_path):
    for number in range(12):
        for copy in range(3):
            shutil.copy(
                photos
                / "red"
                / f"red{number:03d}.{'png' if number % 5 == 4 else 'jpg'}",
                photos / "red" / f"copy{copy}-{number}",
            )
    found = run_convert(photos, tmp_path / "out").manifest
    splits = {}
    for row in found.included():
        splits.setdefault(row.sha256, set()).add(row.split)
    assert {len(names) for names in splits.values()} == {1}
    assert found.counts()["red"]["test"] in (4, 8)


def test_a_photo_under_two_classes_is_left_out(photos, tmp_path):
    shutil.copy(photos / "red" / "red000.jpg", photos / "blue" / "same.jpg")
    found = run_convert(photos, tmp_path / "out").manifest
    reasons = {row.path: row.reason for row in found.rows if not row.is_included}
    assert set(reasons) == {"red/red000.jpg", "blue/same.jpg"}
    assert set(reasons.values()) == {"the same photo is filed under blue, red"}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: None, "photos"),
        (lambda p: p.write_text("a file"), "photos"),
        (lambda p: p.mkdir(), "class"),
        (lambda p: drawn_photos.write_photos(p, 3, ("red",)), "red"),
        (lambda p: (drawn_photos.write_photos(p, 3), (p / "empty").mkdir()), "empty"),
    ],
    ids=["nothing", "a file", "empty", "one class", "empty class"],
)
def test_a_source_that_is_no_data_set_is_refused(tmp_path, prepare, message):
    source = tmp_path / "photos"
    prepare(source)
    done = command(source, tmp_path / "out", "--workers=1")
    assert done.returncode == 2
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not (tmp_path / "out").exists() or not final_names(tmp_path / "out")


def test_a_class_without_a_usable_photo_is_an_error(photos, tmp_path):
    (photos / "void").mkdir()
    (photos / "void" / "a.jpg").write_text("nothing")
    with pytest.raises(DataError, match=r"void: none of 1 files.*not an image"):
        run_convert(photos, tmp_path / "out")


def test_small_classes_are_warned_of(tmp_path):
    drawn_photos.write_photos(tmp_path / "photos", per_class=2)
    done = command(tmp_path / "photos", tmp_path / "out", "--workers=1")
    assert done.returncode == 0
    assert "warning: class red: no photo for" in done.stdout


def test_unreadable_files_are_skipped_by_name(photos, tmp_path):
    (photos / "red" / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (photos / "red" / "empty.jpg").write_bytes(b"")
    found = run_convert(photos, tmp_path / "out").manifest
    reasons = {row.path: row.reason for row in found.rows if not row.is_included}
    assert set(reasons) == {"red/dangling.jpg", "red/empty.jpg"}
    assert "No such file" in reasons["red/dangling.jpg"]
    assert reasons["red/empty.jpg"] == "empty file"


def test_names_of_any_bytes_and_length_are_converted(tmp_path):
    photos = drawn_photos.write_photos(tmp_path / "photos", 4)
    odd = os.fsdecode(b"caf\xe9 \xf0\x9f\x8c\xbc\n50%")
    folder = photos / "a:b*c"
    folder.mkdir()
    for number, name in enumerate((odd, "x" * 240, "plain")):
        cv2.imwrite(str(photos / "t.png"), drawn_photos.draw_photo("red", 50 + number))
        (photos / "t.png").rename(folder / f"{name}.png")
    found = run_convert(photos, tmp_path / "out").manifest
    assert manifest.read(tmp_path / "out").digest == found.digest
    rows = [row for row in found.rows if row.class_name == "a:b*c"]
    assert {row.path for row in rows} == {
        f"a:b*c/{name}.png" for name in (odd, "x" * 240, "plain")
    }
    for row in rows:
        assert row.file == "a%3Ab%2Ac.tfrecord"
        assert record_of(row, tmp_path / "out").path == row.path


@pytest.mark.parametrize("name", ["notes.txt", "other.tfrecord", "folder"])
def test_a_foreign_folder_is_refused_untouched(photos, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    if name == "folder":
        (out / name).mkdir()
    else:
        (out / name).write_text("mine")
    with pytest.raises(DataError, match=f"not made by a conversion.*{name}"):
        run_convert(photos, out)
    assert final_names(out) == {name}


def test_another_data_set_is_not_overwritten(photos, tmp_path):
    run_convert(photos, tmp_path / "out")
    before = files.folder_digest(tmp_path / "out")
    other = drawn_photos.write_photos(tmp_path / "other", 3, ("red",))
    for path in (other / "red").iterdir():
        path.rename(path.with_name(f"other-{path.name}"))
    shutil.copytree(other / "red", other / "blue")
    with pytest.raises(DataError, match="another data set"):
        run_convert(other, tmp_path / "out")
    assert files.folder_digest(tmp_path / "out") == before


def test_out_may_not_lie_in_the_source(photos):
    with pytest.raises(DataError, match="inside the source"):
        run_convert(photos, photos / "out")


def test_a_known_data_set_keeps_its_seed_and_says_so(photos, tmp_path):
    before = run_convert(photos, tmp_path / "out", seed=1).manifest
    done = command(photos, tmp_path / "out", "--workers=1", "--seed=2")
    assert done.returncode == 0
    assert "seed" in done.stdout
    assert "pipeline.split" in done.stdout
    assert manifest.read(tmp_path / "out").digest == before.digest


@pytest.mark.parametrize("delay_s", [0.3, 0.5, 0.7, 0.9, 1.2])
def test_a_killed_conversion_leaves_nothing_half_done_and_is_completed(
    photos, tmp_path, delay_s
):
    for number in range(200):
        path = photos / "red" / f"more{number}.jpg"
        cv2.imwrite(str(path), drawn_photos.draw_photo("red", 100 + number))
    out = tmp_path / "out"
    process = start(photos, out)
    time.sleep(delay_s)
    process.kill()
    process.communicate()
    if out.exists() and final_names(out):
        # Renaming had begun: the rest is marked as on its way, or all is there.
        marker = out / staging.PARTIAL_NAME / staging.COMMIT_NAME
        assert marker.exists() or manifest.read(out).included()
    run_convert(photos, out)
    run_convert(photos, tmp_path / "undisturbed")
    expected = files.folder_digest(tmp_path / "undisturbed")
    assert files.folder_digest(out) == expected
    assert not (out / staging.PARTIAL_NAME).exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_conversion_cleans_up(photos, tmp_path, number):
    for copy in range(400):
        path = photos / "red" / f"more{copy}.jpg"
        cv2.imwrite(str(path), drawn_photos.draw_photo("red", 100 + copy, 400, 600))
    out = tmp_path / "out"
    process = start(photos, out, "--workers=1")
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


def test_a_second_conversion_at_the_same_time_is_refused(photos, tmp_path):
    """The second one is told; the folder is whole in the end."""
    out = tmp_path / "out"
    with (
        staging.staged(out),
        pytest.raises(DataError, match="another conversion is writing"),
    ):
        run_convert(photos, out)
    assert len(run_convert(photos, out).written) == 3


def test_a_full_disk_is_a_named_error_and_the_rerun_completes(photos, tmp_path):
    """A limit on the size of files stands for the end of the device."""
    out = tmp_path / "out"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    for number in range(60):
        path = photos / "red" / f"more{number}.jpg"
        cv2.imwrite(str(path), drawn_photos.draw_photo("red", 100 + number))
    done = command(photos, out, "--workers=1", preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search("error: .*(File too large|No space)", done.stderr)
    assert not final_names(out)
    run_convert(photos, out)
    run_convert(photos, tmp_path / "undisturbed")
    expected = files.folder_digest(tmp_path / "undisturbed")
    assert files.folder_digest(out) == expected


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
    run_convert(photos, out)
    before = files.folder_digest(out)
    path = out / "red.tfrecord"
    path.write_bytes(damage(path.read_bytes()))
    assert run_convert(photos, out).written
    assert files.folder_digest(out) == before


def test_the_command_prints_counts_and_skipped_files(photos, tmp_path):
    (photos / "red" / "bad.jpg").write_text("x")
    done = command(photos, tmp_path / "out", "--workers=2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    header = lines[0].split()
    cells = {line.split()[0]: line.split()[1:] for line in lines[1:5]}
    red = dict(zip(header[1:], cells["red"], strict=True))
    assert (red["photos"], red["skipped"]) == ("13", "1")
    assert cells["total"][0] == "37"
    assert any(line.startswith("skipped red/bad.jpg: not an image") for line in lines)
    head = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert head["files"] == {"total": 37, "copied": 30, "reencoded": 6, "skipped": 1}


def test_wrong_flags_exit_with_1(photos):
    for words in ((), (photos, "--workers=-1"), (photos, photos)):
        done = processes.run_command("-m", "pipeline.convert", *words)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


def test_pipes_and_videos_are_skipped(photos, tmp_path):
    os.mkfifo(photos / "red" / "pipe.jpg")
    with (photos / "red" / "video.mp4").open("wb") as file:
        file.truncate(600 << 20)
    found = run_convert(photos, tmp_path / "out").manifest
    reasons = {row.path: row.reason for row in found.rows if not row.is_included}
    assert reasons == {
        "red/pipe.jpg": "not a regular file",
        "red/video.mp4": "larger than 512 MB, no photo",
    }


def test_a_bad_file_does_not_blame_the_next(photos, tmp_path):
    """What the decoder says of a file that is skipped is not said of its neighbour."""
    whole = (photos / "red" / "red000.jpg").read_bytes()
    for cut in range(300, 700, 20):
        (photos / "red" / f"red000-{cut}.jpg").write_bytes(whole[:cut])
    found = run_convert(photos, tmp_path / "out").manifest
    assert {row.action for row in found.rows if row.format == "jpeg"} == {"copied"}
    assert all(row.reason for row in found.rows if row.action != "copied")


def test_a_copy_outside_the_classes_does_not_move_a_photo(photos, tmp_path):
    for path in sorted((photos / "red").glob("*.jpg")):
        shutil.copy(path, photos / f"zz-{path.name}")
    out = tmp_path / "out"
    before = {r.path: r.split for r in run_convert(photos, out).manifest.included()}
    for number in range(100, 130):
        pixels = drawn_photos.draw_photo("red", number)
        cv2.imwrite(str(photos / "red" / f"new{number}.png"), pixels)
    after = {r.path: r.split for r in run_convert(photos, out).manifest.included()}
    assert {path: after[path] for path in before} == before


def test_a_class_that_is_a_link_is_refused(photos, tmp_path):
    (photos / "red").rename(tmp_path / "elsewhere")
    (photos / "red").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="red: is a link"):
        run_convert(photos, tmp_path / "out")


class TestAnimated:
    @pytest.fixture
    def animated(self, photos):
        """A GIF of two frames among the photos."""
        frames = [np.full((40, 40, 3), level, np.uint8) for level in (50, 200)]
        animation = cv2.Animation()
        animation.frames, animation.durations = frames, [100, 100]
        assert cv2.imwriteanimation(str(photos / "red" / "moving.gif"), animation)
        return photos

    def row(self, summary):
        return next(r for r in summary.manifest.rows if r.path.endswith(".gif"))

    def test_the_first_frame_is_converted(self, animated, tmp_path):
        row = self.row(run_convert(animated, tmp_path / "out"))
        assert row.action == "reencoded"
        assert "first of 2 frames" in row.reason

    def test_an_animation_is_skipped_on_request(self, animated, tmp_path):
        out = tmp_path / "out"
        row = self.row(run_convert(animated, out, animated="refuse"))
        assert row.action == "skipped"
        assert row.reason == "animated (GIF of 2 frames)"
        row = self.row(run_convert(animated, out))  # another setting: looked at anew
        assert row.is_included


def test_more_pixels_than_allowed_are_refused_by_the_header(photos, tmp_path):
    large = np.zeros((300, 400, 3), np.uint8)
    cv2.imwrite(str(photos / "red" / "large.png"), large)
    out = tmp_path / "out"
    summary = run_convert(photos, out, max_pixels=300 * 400 - 1)
    reasons = {r.path: r.reason for r in summary.manifest.rows if not r.is_included}
    assert reasons == {"red/large.png": "PNG larger than 119,999 pixels"}
    summary = run_convert(photos, out, max_pixels=300 * 400)
    assert not [row for row in summary.manifest.rows if not row.is_included]
