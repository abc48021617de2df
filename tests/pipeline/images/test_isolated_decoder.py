import contextlib
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures

import cv2
import numpy as np
import psutil
import pytest

from pipeline.images import isolated_decoder, record_image
from pipeline.records.manifest_row import Code, ImageError
from pipeline.system import sandbox
from tests.support import files, processes

PIXELS = np.random.default_rng(3).integers(0, 256, (60, 90, 3)).astype(np.uint8)


def encoded(extension, pixels=PIXELS):
    return cv2.imencode(extension, pixels)[1].tobytes()


LARGE = encoded(".png", np.zeros((4000, 4000, 3), np.uint8))


@pytest.fixture(scope="module")
def decoders():
    with contextlib.closing(isolated_decoder.Decoders(2, timeout_s=30)) as started:
        yield started


@pytest.mark.parametrize("extension", [".jpg", ".png", ".tiff"])
@pytest.mark.parametrize("size", [(90, 60), (1200, 900)], ids=["small", "large"])
def test_images_equal_those_of_conversion(decoders, extension, size):
    data = encoded(extension, cv2.resize(PIXELS, size))
    assert decoders.decode(data) == record_image.encode_for_record(data)


def test_white_of_sixteen_bits_and_largest_size_are_those_of_conversion():
    data = encoded(".png", np.uint16(PIXELS[:30]) * 16)
    settings = {"white_level": 4095, "max_pixels": 5000}
    with contextlib.closing(
        isolated_decoder.Decoders(1, timeout_s=30, **settings)
    ) as decoders:
        with pytest.raises(ImageError, match="larger than 5,000 pixels") as caught:
            decoders.decode(encoded(".png"))
        assert caught.value.kind is Code.TOO_MANY_PIXELS
        expected = record_image.encode_for_record(data, white_level=4095)
        assert decoders.decode(data) == expected


def test_a_damaged_jpeg_is_reencoded_as_in_conversion(decoders):
    """Conversion knows from what the decoder prints; the bytes alone do not show it."""
    data = encoded(".jpg", cv2.resize(PIXELS, (400, 300)))
    image = decoders.decode(data[: len(data) // 2] + b"\xff\xd9")
    assert image.action == "reencoded"
    assert image.codes == (Code.DECODER_WARNING,)


def test_each_of_many_threads_gets_its_own_image(decoders):
    photos = [encoded(".png", PIXELS[:height]) for height in range(8, 28)]
    with futures.ThreadPoolExecutor(len(photos)) as pool:
        images = pool.map(decoders.decode, photos)
    assert [image.height for image in images] == list(range(8, 28))


def test_a_photo_that_takes_too_long_is_refused():
    with (
        contextlib.closing(isolated_decoder.Decoders(1, timeout_s=0.05)) as decoders,
        pytest.raises(ImageError, match=r"longer than 0\.05 s"),
    ):
        decoders.decode(LARGE)


def end_at_work(pids, number):
    """Start a thread that sends a signal to the first of the processes that works."""

    def end():
        workers = [psutil.Process(pid) for pid in pids]
        idle_s = [worker.cpu_times().user for worker in workers]
        while True:
            for worker, before_s in zip(workers, idle_s, strict=True):
                if worker.cpu_times().user > before_s + 0.03:
                    worker.send_signal(number)
                    return
            time.sleep(0.005)

    threading.Thread(target=end).start()


def test_a_photo_that_crashes_the_decoder_costs_that_photo_only():
    before = processes.decoders()
    with contextlib.closing(isolated_decoder.Decoders(1, timeout_s=30)) as decoders:
        decoders.start()
        end_at_work(processes.decoders() - before, signal.SIGSEGV)
        with pytest.raises(ImageError, match="crashed on this file"):
            decoders.decode(LARGE)
        assert decoders.decode(encoded(".jpg"))
    assert processes.decoders() == before
    with pytest.raises(ImageError, match="crashed"):  # since it is closed
        decoders.decode(encoded(".jpg"))


def test_one_photo_starts_one_process_and_is_tried_alone_when_memory_is_short():
    before = processes.decoders()
    with contextlib.closing(isolated_decoder.Decoders(2, timeout_s=30)) as decoders:
        assert processes.decoders() == before
        for _ in range(2):
            decoders.decode(encoded(".png"))
        assert len(processes.decoders() - before) == 1
        decoders.start()
        assert len(processes.decoders() - before) == 2
        end_at_work(processes.decoders() - before, signal.SIGKILL)
        assert decoders.decode(LARGE).height == 512


def test_a_photo_is_not_blamed_for_a_lack_of_memory(monkeypatch):
    def killed(*_, **__):
        raise sandbox.Killed

    monkeypatch.setattr(sandbox.Child, "send", killed)
    with (
        contextlib.closing(isolated_decoder.Decoders(2, timeout_s=30)) as decoders,
        pytest.raises(sandbox.NotStarted, match="too little memory"),
    ):
        decoders.decode(b"")


def test_the_child_process_starts_without_tensorflow():
    """Its import would take seconds and memory."""
    program = (
        "import sys\n"
        "from pipeline.images import isolated_decoder\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=files.ROOT, check=True)
