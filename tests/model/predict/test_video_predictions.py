"""Predictions for videos, decoded as a user's are."""

import contextlib
import csv
import io
import json

import pytest

from model.predict import __main__ as command
from model.predict import classifier, predict_settings, predicting
from pipeline.images import video_frames
from pipeline.system.errors import DataError
from tests.support import clips, drawn_photos


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A red photo for three seconds, then a blue one."""
    photos = (drawn_photos.draw_photo(name, 3) for name in ("red", "blue"))
    red, blue = photos
    path = tmp_path_factory.mktemp("clips") / "a, b\n.avi"
    return str(clips.write(path, [red] * 30 + [blue] * 30, codec="MJPG"))


def run(capsys, shared_run, *photos, **flags):
    command.main({"photos": photos, "run_dir": str(shared_run), **flags})
    return capsys.readouterr().out


def test_frames_and_spans_have_times_classes_and_mean_probabilities(clip, shared_run):
    run_classifier = classifier.load_run(str(shared_run))
    config = predict_settings.Config(photos=(clip,), run_dir=str(shared_run))
    with contextlib.closing(video_frames.VideoFrames([clip], every_s=1)) as frames:
        results = list(predicting.predict(config, run_classifier, frames))
    frames = [result for result in results if not result.num_frames]
    assert [(r.time_s, r.answer) for r in frames] == [
        *((time_s, "red") for time_s in (0, 1, 2)),
        *((time_s, "blue") for time_s in (3, 4, 5)),
    ]
    red, blue = (result for result in results if result.num_frames)
    assert (red.answer, red.time_s, red.until_s, red.num_frames) == ("red", 0, 2, 3)
    assert (blue.answer, blue.time_s, blue.until_s, blue.num_frames) == (
        "blue",
        3,
        5,
        3,
    )
    mean = sum(frame.probability for frame in frames[:3]) / 3
    assert red.probability == pytest.approx(mean)
    assert results.index(red) == 3  # said when it has ended


def test_text_shows_frames_and_then_spans(clip, shared_run, capsys):
    lines = run(capsys, shared_run, clip, every="2.5s").splitlines()
    assert [line.split()[-1] for line in lines[:3]] == ["red", "red", "blue"]
    assert "  0:00:02.500  " in lines[1]
    assert lines[3] == "spans of the same answer:"
    assert "  0:00:00.000 to 0:00:02.500  " in lines[4]
    assert lines[4].endswith("  red  (2 frames)")
    assert lines[5].endswith("  blue  (1 frame)")


def test_csv_and_json_have_frames_or_spans_beside_photos(
    clip, shared_run, tmp_path, capsys
):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(drawn_photos.encode_photo("green"))
    text = run(capsys, shared_run, str(photo), clip, every="2", format="csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["time_s"] for row in rows] == ["", "0.0", "2.0", "4.0"]
    assert [row["answer"] for row in rows] == ["green", "red", "red", "blue"]
    assert rows[1]["photo"] == clip
    text = run(capsys, shared_run, clip, every="2", format="jsonl", spans=True)
    fields = ("time_s", "until_s", "num_frames", "answer")
    assert [
        [json.loads(line)[name] for name in fields] for line in text.splitlines()
    ] == [
        [0, 2, 2, "red"],
        [4, 4, 1, "blue"],
    ]


def test_spans_without_a_video_are_refused(shared_run, tmp_path, capsys):
    with pytest.raises(DataError, match=r"--spans: .*no video found"):
        run(capsys, shared_run, str(tmp_path), spans=True)


@pytest.mark.parametrize(
    ("flags", "others"),
    [
        ({"suggest": 2}, 0),
        ({"suggest": 2}, 1),
        ({"sort_into": "sorted"}, 0),
        ({"sort_into": "sorted", "every": "1s"}, 0),
    ],
)
def test_a_video_where_only_photos_count_is_refused(flags, others, shared_run, capsys):
    message = r"^a\.mp4: is a video\. --suggest, --sort_into and --out expect photos"
    with pytest.raises(DataError, match=message):
        run(capsys, shared_run, *["photos"] * others, "a.mp4", **flags)


def test_videos_in_folders_are_said_to_be_left_out_of_suggestions(
    shared_run, tmp_path, capsys
):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="there are no photos"):
        run(capsys, shared_run, str(tmp_path), suggest=2)
    assert "1 of these videos, which --suggest leaves out\n" in capsys.readouterr().err


def test_a_damaged_video_is_an_error_after_the_others(
    clip, shared_run, tmp_path, capsys
):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"1 of 7 photos and frames .*bad\.mp4"):
        run(capsys, shared_run, str(bad), clip)
    out = capsys.readouterr().out
    assert f"{bad}  not a video that FFmpeg decodes" in out
    assert out.count("red") == 4


def test_videos_in_folders_are_classified_if_a_time_is_given(
    clip, shared_run, tmp_path, capsys
):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "b.jpg").write_bytes(drawn_photos.encode_photo("green"))
    folder = str(tmp_path)
    assert run(capsys, shared_run, folder).splitlines()[0] == f"{folder}/b.jpg"
    with pytest.raises(DataError, match="1 of 2 photos and frames"):
        run(capsys, shared_run, folder, every="1s")


@pytest.mark.parametrize(
    ("every", "seconds"), [("", 1), ("0.5s", 0.5), ("2m", 120), ("3", 3), ("1h", 3600)]
)
def test_a_time_has_a_unit_or_is_in_seconds(every, seconds):
    assert predict_settings.Config(photos=(), every=every).every_s == seconds


@pytest.mark.parametrize("every", ["0", "0.0s", "-1s", "1 s", "s", "1e3", "٣s", "1d"])
def test_other_times_are_refused(every):
    with pytest.raises(ValueError, match=r"--every=.*: expected a time above 0"):
        predict_settings.Config(photos=(), every=every)
