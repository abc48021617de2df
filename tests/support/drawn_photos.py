"""Draw photos, and give JPEGs an EXIF orientation."""

import struct

import cv2
import numpy as np

# Class -> colour of its photos, BGR. Easy to tell apart, so that training learns.
COLOURS = {"blue": (200, 60, 40), "green": (50, 180, 60), "red": (40, 50, 210)}


def draw_photo(class_name, number, height=120, width=160):
    """Draw a photo of a class: its colour, a disc at a random place, noise."""
    random = np.random.default_rng([sorted(COLOURS).index(class_name), number])
    image = np.full((height, width, 3), COLOURS[class_name], np.float64)
    centre = (
        int(random.integers(20, width - 20)),
        int(random.integers(20, height - 20)),
    )
    cv2.circle(image, centre, int(random.integers(8, 30)), (230, 230, 230), -1)
    image += random.normal(0, 20, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def encode_photo(class_name="red", number=1, extension=".jpg"):
    return cv2.imencode(extension, draw_photo(class_name, number))[1].tobytes()


def draw_scene(number, height=240, width=320):
    """Draw a photo with coarse and fine structure all over, as real photos have."""
    random = np.random.default_rng([77, number])
    image = np.zeros((height, width, 3))
    for cells, contrast in ((6, 60), (24, 25), (80, 12)):
        grid = random.normal(0, contrast, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 120, 0, 255).astype(np.uint8)


def write_photos(folder, per_class=12, classes=tuple(COLOURS)):
    """Write class folders with JPEGs; in each class every fifth photo is a PNG."""
    for class_name in classes:
        (folder / class_name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            kind = "png" if number % 5 == 4 else "jpg"
            size = (120, 160) if number % 3 else (150, 110)
            image = draw_photo(class_name, number, *size)
            path = folder / class_name / f"{class_name}{number:03d}.{kind}"
            cv2.imwrite(str(path), image)
    return folder


def exif_tiff(value, order="<", tag=0x0112, before=0, count=None):
    """Return an image directory with some other entries first."""
    entries = [(0x010F, 9)] * before + [(tag, value)]
    count = len(entries) if count is None else count
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = b"".join(struct.pack(order + "HHIHH", t, 3, 1, v, 0) for t, v in entries)
    return head + struct.pack(order + "H", count) + body + b"\0\0\0\0"


def jpeg_segment(content, marker=0xE1, length=None):
    length = len(content) + 2 if length is None else length
    return bytes((0xFF, marker)) + struct.pack(">H", length) + content


def with_orientation(data, orientation, order="<"):
    """Return a JPEG whose EXIF states an orientation."""
    exif = jpeg_segment(b"Exif\0\0" + exif_tiff(orientation, order))
    return data[:2] + exif + data[2:]


# EXIF orientation -> stored pixels that a viewer shows as `upright`.
# Source: CIPA DC-008 (Exif 2.32): the sides of the image that row 0 and column 0 are.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}
