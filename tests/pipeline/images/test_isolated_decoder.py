"""Decoding in processes of their own: the same answers, and faults that stay there."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.images import decoder_process, isolated_decoder, record_image
from pipeline.records.reasons import Code
from tests import conftest

PIXELS = np.random.default_rng(3).integers(0, 256, (60, 90, 3)).astype(np.uint8)


def encoded(extension, pixels=PIXELS):
    return cv2.imencode(extension, pixels)[1].tobytes()


@pytest.fixture(scope="module")
def running():
    with isolated_decoder.running(2, timeout_s=30) as found:
        yield found


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_it_is_the_decoder_of_conversion(running, extension):
    data = encoded(extension)
    expected = record_image.encode_for_record(data, resize_min=record_image.RESIZE_MIN)
    assert running.decode(data) == expected


def test_large_ones_are_shrunk(running):
    data = encoded(".jpg", cv2.resize(PIXELS, (1200, 900)))
    found = running.decode(data)
    assert (found.height, found.width) == (512, 683)


def test_a_jpeg_that_decodes_with_complaints_is_encoded_anew(running):
    """As in conversion, which hears the complaints; the bytes alone do not tell."""
    data = encoded(".jpg", cv2.resize(PIXELS, (400, 300)))
    cut = data[: len(data) // 2] + b"\xff\xd9"
    try:
        found = running.decode(cut)
    except record_image.ImageError:
        return
    assert found.action == "reencoded"
    assert found.codes == (Code.DECODER_WARNING,)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", Code.EMPTY, "empty file"),
        (b"no photo", Code.NOT_AN_IMAGE, "not an image"),
        (encoded(".png")[:200], Code.UNDECODABLE, "PNG that does not decode"),
    ],
    ids=["empty", "text", "cut"],
)
def test_what_does_not_decode(running, data, kind, message):
    with pytest.raises(record_image.ImageError, match=message) as raised:
        running.decode(data)
    assert raised.value.kind is kind
    assert running.decode(encoded(".jpg"))


def test_the_limit_of_pixels():
    with isolated_decoder.running(1, timeout_s=30, max_pixels=5000) as found:
        with pytest.raises(record_image.ImageError, match="larger than 5,000 pixels"):
            found.decode(encoded(".png"))
        assert found.decode(encoded(".png", PIXELS[:30]))


def test_many_threads(running):
    results = {}

    def work(number):
        data = encoded(".png", np.full((8 + number, 9, 3), number, np.uint8))
        results[number] = running.decode(data).height

    threads = [threading.Thread(target=work, args=[n]) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: 8 + n for n in range(20)}


def test_one_photo_starts_one_process():
    with isolated_decoder.running(3, timeout_s=30) as found:
        assert found.pids == ()
        for _ in range(3):
            found.decode(encoded(".png"))
        assert len(found.pids) == 1
        found.start()
        assert len(found.pids) == 3


def test_one_that_hangs_is_replaced():
    with isolated_decoder.running(1, timeout_s=0.5) as found:
        found.start()
        (pid,) = found.pids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(isolated_decoder.TooSlow, match=r"longer than 0\.5 s"):
            found.decode(encoded(".jpg"))
    with isolated_decoder.running(1, timeout_s=30) as found:
        assert found.decode(encoded(".jpg"))


SLOW_TO_START = "import time; time.sleep(1.2); "


def test_the_time_of_a_file_begins_when_its_process_is_ready(monkeypatch):
    monkeypatch.setattr(
        isolated_decoder, "_CHILD", SLOW_TO_START + isolated_decoder._CHILD
    )
    with isolated_decoder.running(1, timeout_s=1) as found:
        assert found.decode(encoded(".png")).height == 60


@pytest.mark.parametrize(
    ("child", "words"),
    [
        ("import time; time.sleep(60)", r"took longer than 0\.3 s before it was ready"),
        ("raise SystemExit", "ended before it was ready"),
        ("print('ready')", "ended before it was ready"),
    ],
)
def test_a_process_that_does_not_start(monkeypatch, child, words):
    """No file is called bad for it, and the next one may start."""
    with monkeypatch.context() as patch:
        patch.setattr(isolated_decoder, "_CHILD", child)
        found = isolated_decoder.Decoders(1, timeout_s=30)
        if "sleep" in child:
            patch.setattr(isolated_decoder, "_START_S", 0.3)
        with pytest.raises(isolated_decoder.NotStarted, match=words):
            found.decode(encoded(".jpg"))
        with pytest.raises(isolated_decoder.NotStarted, match=words):
            found.start()
    assert found.decode(encoded(".jpg"))
    found.close()


def test_closed_while_it_starts(monkeypatch):
    monkeypatch.setattr(isolated_decoder, "_CHILD", "import time; time.sleep(60)")
    found = isolated_decoder.Decoders(1, timeout_s=30)
    threading.Timer(0.3, found.close).start()
    with pytest.raises(isolated_decoder.Crashed, match="closed"):
        found.decode(encoded(".jpg"))


def test_one_that_crashes_is_replaced():
    with isolated_decoder.running(1, timeout_s=30) as found:
        found.decode(encoded(".jpg"))
        (pid,) = found.pids
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(0.2, os.kill, [pid, signal.SIGKILL]).start()
        with pytest.raises(isolated_decoder.Crashed, match="crashed on this file"):
            found.decode(encoded(".jpg"))
        assert found.decode(encoded(".jpg"))
        assert found.pids != (pid,)


def test_closed():
    with isolated_decoder.running(1, timeout_s=30) as found:
        found.decode(encoded(".jpg"))
        (pid,) = found.pids
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(isolated_decoder.Crashed, match="closed"):
        found.decode(encoded(".jpg"))


PROGRAM = """
import os, signal
from pipeline.images import isolated_decoder
found = isolated_decoder.Decoders(1, timeout_s=30)
found.start()
print(*found.pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_they_end_with_a_parent_that_is_killed():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=conftest.ROOT,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    deadline = time.monotonic() + 30
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answered(header, encoded=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if size is None else size
    return io.BytesIO(
        size.to_bytes(decoder_process.ANSWER_BYTES, "little") + text + encoded
    )


GOOD = {
    "format": "png",
    "height": 2,
    "width": 3,
    "orientation": 1,
    "action": "reencoded",
    "codes": [],
    "reason": "",
    "phash": "0" * 16,
    "size": 4,
}


class TestWhatAProcessSends:
    """A file may have got hold of it."""

    def test_good(self):
        found = isolated_decoder._receive(answered(GOOD, b"1234"), b"file")
        assert (found.encoded, found.width) == (b"1234", 3)

    def test_the_file_itself(self):
        found = isolated_decoder._receive(answered(GOOD | {"size": 0}), b"file")
        assert found.encoded == b"file"

    @pytest.mark.parametrize(
        "stream",
        [
            io.BytesIO(),
            answered(GOOD, b"123"),
            answered(b"{", size=1 << 31),
            answered(b"{"),
            answered(b"[" * 9000),
            answered([]),
            answered({}),
            answered(GOOD | {"size": -1}),
            answered(GOOD | {"size": 1 << 60}),
            answered(GOOD | {"height": "2"}, b"1234"),
            answered(GOOD | {"height": 0}, b"1234"),
            answered(GOOD | {"format": "exe"}, b"1234"),
            answered(GOOD | {"more": 1}, b"1234"),
            answered(GOOD | {"codes": "cmyk"}, b"1234"),
            answered({"error": "x", "kind": "unknown"}),
        ],
        ids=range(15),
    )
    def test_nonsense(self, stream):
        with pytest.raises(isolated_decoder._Nonsense):
            isolated_decoder._receive(stream, b"file")
