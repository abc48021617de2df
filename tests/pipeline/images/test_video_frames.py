import contextlib
import os
import signal
import struct

import cv2
import numpy as np
import pytest

from pipeline.images import opencv, video_frames
from pipeline.records.manifest_row import Code
from pipeline.system import sandbox
from tests.support import clips, drawn_photos


def read(*paths, every_s=1.0, **settings):
    frames = video_frames.VideoFrames(
        list(map(str, paths)), every_s=every_s, **settings
    )
    with contextlib.closing(frames):
        return list(frames)


def times(frames):
    return [frame.time_s for frame in frames if not frame.problem]


def problem(path):
    (frame,) = read(path)
    return frame.problem


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG")])
def test_frames_have_the_times_and_colours_of_the_clip(tmp_path, name, codec):
    path = clips.red_then_blue(tmp_path / name, codec=codec)
    frames = read(path, path)
    assert times(frames) == [0, 1, 2, 3, 4, 5] * 2
    for frame, colour in zip(frames, (["red"] * 3 + ["blue"] * 3) * 2, strict=True):
        assert frame.video == str(path)
        rgb = drawn_photos.COLOURS[colour][::-1]
        np.testing.assert_allclose(frame.pixels.mean((0, 1)), rgb, atol=12)


@pytest.mark.parametrize(
    ("every_s", "expected"),
    [(0.25, [0, 0.3, 0.5, 0.8]), (0.01, np.arange(10) / 10), (60, [0])],
)
def test_a_frame_is_the_first_at_or_after_its_time(tmp_path, every_s, expected):
    path = clips.write(tmp_path / "a.mp4", [clips.plain("red")] * 10)
    assert times(read(path, every_s=every_s)) == pytest.approx(expected)


@pytest.mark.parametrize("every_s", [0.3, 1, 2.5, 7])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_frames_between_key_frames_are_skipped_without_a_difference(
    tmp_path, name, every_s
):
    scenes = [drawn_photos.draw_scene(number, 60, 80) for number in range(200)]
    path = clips.write(tmp_path / name, scenes)
    capture, expected = cv2.VideoCapture(str(path)), {}
    while capture.grab():
        time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        expected.setdefault(int(round(time_s, 6) / every_s + 1e-9), capture.retrieve())
    frames = read(path, every_s=every_s)
    assert len(frames) == len(expected)
    for frame, (_, bgr) in zip(frames, expected.values(), strict=True):
        np.testing.assert_array_equal(frame.pixels, bgr[..., ::-1])


def test_times_are_those_of_a_clip_whose_frame_rate_varies(tmp_path):
    """No frame from 1.5 s to 4 s: the next one is that for 2 s, and comes once."""
    path = clips.write(tmp_path / "a.mkv", [clips.plain("red")] * 30)
    data = path.read_bytes()
    for number in reversed(range(15, 30)):  # times in ms, in the head of each block
        before, after = (struct.pack(">bh", -127, 100 * number + n) for n in (0, 2500))
        assert data.count(before) == 1
        data = data.replace(before, after)
    path.write_bytes(data)
    assert times(read(path)) == [0, 1, 4, 5]


def test_a_frame_is_shrunk_to_the_short_side_as_photos_are(tmp_path):
    large = cv2.resize(drawn_photos.draw_scene(1), (300, 200))
    path = clips.write(tmp_path / "a.avi", [large] * 2, codec="MJPG")
    (whole,) = read(path, resize_min=0)
    (small,) = read(path, resize_min=100)
    assert whole.pixels.shape == (200, 300, 3)
    shrunk = opencv.shrink(whole.pixels, 100)
    np.testing.assert_allclose(small.pixels, shrunk, atol=1)


def test_a_clip_that_a_phone_has_turned_is_upright(tmp_path):
    scene = np.concatenate([clips.plain("red"), clips.plain("blue")])
    path = clips.write(tmp_path / "a.mp4", [scene] * 2)
    data = path.read_bytes()
    matrix = data.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2
    quarter_turn = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:matrix] + quarter_turn + data[matrix + 36 :])
    (frame,) = read(path)
    assert frame.pixels.shape == (64, 96, 3)
    blue, red = (drawn_photos.COLOURS[name][::-1] for name in ("blue", "red"))
    np.testing.assert_allclose(frame.pixels[:, :40].mean((0, 1)), blue, atol=12)
    np.testing.assert_allclose(frame.pixels[:, -40:].mean((0, 1)), red, atol=12)


def test_files_that_are_no_videos_have_a_problem_each(tmp_path):
    for name, data in {"text.mp4": b"no video", "empty.mp4": b""}.items():
        (tmp_path / name).write_bytes(data)
        error = problem(tmp_path / name)
        assert error.kind is Code.UNDECODABLE
        assert str(error).startswith("not a video that FFmpeg decodes")
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "missing.mp4", tmp_path, tmp_path / "pipe.mp4"):
        assert problem(path).kind is Code.UNREADABLE


def test_a_playlist_named_as_a_video_opens_no_other_file(tmp_path):
    clip = clips.write(tmp_path / "a.mp4", [clips.plain("red")] * 10)
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(text)
    assert problem(tmp_path / "list.mp4").kind is Code.UNDECODABLE


def test_a_clip_that_is_cut_off_gives_its_frames_and_says_so(tmp_path):
    path = clips.red_then_blue(tmp_path / "a.avi", codec="MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    *frames, last = read(path)
    assert times(frames)[:2] == [0, 1]
    assert "s of 6.0 s: cut off or damaged" in str(last.problem)


def test_a_video_with_too_many_pixels_is_refused(tmp_path):
    path = clips.write(tmp_path / "a.avi", [clips.plain("red")] * 2, codec="MJPG")
    data = bytearray(path.read_bytes())
    struct.pack_into("<2i", data, data.index(b"strf") + 12, 9000, 9000)
    while (frame := data.find(b"\xff\xc0\0")) > 0:  # ITU-T T.81, B.2.2
        data[frame : frame + 9] = b"\xff\xc1\0\x11\x08" + struct.pack(">2H", 9000, 9000)
    path.write_bytes(data)
    assert problem(path).kind is Code.TOO_MANY_PIXELS


def test_a_video_that_hangs_or_crashes_the_decoder_does_not_stop_the_next(
    tmp_path, monkeypatch
):
    path = str(clips.red_then_blue(tmp_path / "a.mp4"))
    monkeypatch.setattr(video_frames, "_FRAMES_AHEAD", 2)
    processes = []
    start = sandbox.Child.start

    def started(child):
        start(child)
        processes.append(child._process.pid)

    monkeypatch.setattr(sandbox.Child, "start", started)
    frames = video_frames.VideoFrames([path, path], every_s=0.1)
    with contextlib.closing(frames):
        results = iter(frames)
        next(results)
        os.kill(processes[-1], signal.SIGSEGV)
        rest = list(results)
    problems = [frame.problem for frame in rest if frame.problem]
    assert [error.kind for error in problems] == [Code.DECODER_CRASHED]
    assert len(times(rest)) >= 60
    monkeypatch.setattr(video_frames, "_TIMEOUT_S", 0.001)
    assert problem(path).kind is Code.DECODER_TOO_SLOW


def test_videos_are_found_by_their_endings_in_folders_on_request(tmp_path):
    for name in ("a.MP4", "b.jpg", ".hidden.mp4"):
        (tmp_path / name).touch()
    names = [str(tmp_path), "c.mov", "d.png"]
    assert video_frames.find(names, in_folders=False) == ["c.mov"]
    found = video_frames.find(names, in_folders=True)
    assert found == [str(tmp_path / "a.MP4"), "c.mov"]
