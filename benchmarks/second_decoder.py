"""Compare the pixels that conversion decodes with those of independent decoders.

    python benchmarks/second_decoder.py FOLDER

Decodes every file below FOLDER as conversion does, before anything is encoded again,
and once more: TIFF with tifffile, AVIF, GIF and JPEG 2000 with imagecodecs, others
with Pillow. Prints each file that is refused, with the reason, and the largest
difference between means of 16 x 16 cells, 0 to 255. The exit code is 1 if one is above
2.
"""

import collections
import io
import sys
import warnings
from pathlib import Path

import imagecodecs
import measure  # noqa: F401 (makes Graft's modules importable)
import numpy as np
import tifffile
from PIL import Image, ImageOps

from pipeline.images import file_headers, opencv, photo_pixels
from pipeline.records.manifest_row import ImageError

CELL_PX = 16
MOST = 2.0  # levels


def over_white(pixels: np.ndarray, white: float) -> np.ndarray:
    """Return float RGB, 0..255, of grey or RGB with or without alpha."""
    pixels = np.asarray(pixels, np.float64) / white
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:]
        pixels = pixels[..., :-1] * alpha + 1 - alpha
    return 255 * np.clip(pixels.repeat(4 - pixels.shape[2], 2)[..., :3], 0, 1)


def read_tiff(data: bytes) -> np.ndarray:
    """Decode the first page with tifffile, as its tags say."""
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    pixels = page.asarray()
    if page.planarconfig == 2 and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    white = float(2 ** max(np.atleast_1d(page.bitspersample)) - 1)
    if page.photometric == 0:
        pixels = white - pixels
    elif page.photometric == 3:
        pixels, white = page.colormap.T[pixels.astype(int)] / 257, 255
    elif page.photometric == 5:
        pixels, white = (1 - pixels[..., :3] / white) * (1 - pixels[..., 3:] / white), 1
    elif page.extrasamples == (1,):  # numbers that alpha has already darkened
        alpha = np.maximum(pixels[..., -1:], 1) / white
        pixels = np.concatenate([pixels[..., :-1] / alpha, pixels[..., -1:]], axis=2)
    turned = over_white(pixels, white)
    orientation = page.tags.valueof(274, default=1)
    image = Image.fromarray(np.round(turned).astype(np.uint8))
    image.getexif()[274] = int(orientation)
    return np.asarray(ImageOps.exif_transpose(image), np.float64)


def read_avif(data: bytes) -> np.ndarray:
    """Decode with imagecodecs, and turn as the boxes irot and imir say."""
    pixels = imagecodecs.avif_decode(data)
    depth = 8
    if pixels.dtype != np.uint8:
        depth = 10 if pixels.max() < 1 << 10 else 12
    pixels = over_white(pixels, 2.0**depth - 1)
    if (at := data.find(b"irot")) >= 0:
        pixels = np.rot90(pixels, data[at + 4] & 3)
    if (at := data.find(b"imir")) >= 0:
        pixels = pixels[:, ::-1] if data[at + 4] & 1 else pixels[::-1]
    return pixels


def read_jpeg_2000(data: bytes) -> np.ndarray:
    """Decode with imagecodecs."""
    pixels = imagecodecs.jpeg2k_decode(data)
    depth = data[data.find(b"\xff\x4f\xff\x51") + 42] + 1
    return over_white(pixels, 2.0**depth - 1)


def read_with_pillow(data: bytes) -> np.ndarray:
    """Decode the first frame with Pillow."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        return over_white(np.asarray(image), 65535)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return over_white(np.asarray(image.convert(mode)), 255)


def read_gif(data: bytes) -> np.ndarray:
    """Decode the first frame with imagecodecs, which enlarges it to that of others."""
    frames = imagecodecs.gif_decode(data)
    width, height = np.frombuffer(data[6:10], "<u2")
    return over_white((frames[0] if frames.ndim == 4 else frames)[:height, :width], 255)


READERS = collections.defaultdict(
    lambda: read_with_pillow,
    {
        "TIFF": read_tiff,
        "AVIF": read_avif,
        "JPEG 2000": read_jpeg_2000,
        "GIF": read_gif,
    },
)


def largest_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest difference of the means of two images' cells."""
    if first.shape != second.shape:
        return 255.0
    height, width = first.shape[:2]
    difference = first - second
    return max(
        np.abs(difference[y : y + CELL_PX, x : x + CELL_PX].mean((0, 1))).max()
        for y in range(0, height, CELL_PX)
        for x in range(0, width, CELL_PX)
    )


def main() -> None:
    """Compare all files of a folder."""
    warnings.simplefilter("ignore")
    counts = collections.Counter[str]()
    for path in sorted(p for p in Path(sys.argv[1]).rglob("*") if p.is_file()):
        data = path.read_bytes()
        try:
            pixels, _ = photo_pixels.decode_upright(data)
        except ImageError as error:
            counts["refused"] += 1
            print(f"refused   {path.name}: {error}")
            continue
        ours = opencv.as_bgr(pixels)[..., ::-1].astype(np.float64)
        try:
            other = READERS[file_headers.sniff(data)](data)
        except Exception as error:
            counts["not read by the other decoder"] += 1
            print(f"only here {path.name}: {error!r:.100}")
            continue
        difference = largest_difference(ours, other)
        counts["same" if difference <= MOST else "different"] += 1
        print(f"{difference:9.2f} {path.name}")
    print(", ".join(f"{kind}: {number}" for kind, number in sorted(counts.items())))
    sys.exit(bool(counts["different"]))


if __name__ == "__main__":
    main()
