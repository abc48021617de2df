"""Write short videos with OpenCV."""

import cv2
import numpy as np

from tests.support import drawn_photos

FPS = 10


def plain(colour, height=48, width=64):
    """Return a frame of one colour of drawn_photos, BGR."""
    return np.full((height, width, 3), drawn_photos.COLOURS[colour], np.uint8)


def write(path, frames, codec="mp4v"):
    """Write frames, 10 for each second; the ending of the path decides the format."""
    height, width = frames[0].shape[:2]
    code = cv2.VideoWriter_fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, FPS, (width, height))
    if not writer.isOpened():
        raise OSError(f"{path}: OpenCV cannot write {codec}")
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def red_then_blue(path, seconds=3, codec="mp4v"):
    count = seconds * FPS
    return write(path, [plain("red")] * count + [plain("blue")] * count, codec)
