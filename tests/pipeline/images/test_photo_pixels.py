"""Pixels of each kind of image, against tifffile, imagecodecs and what was drawn."""

import io
import itertools
import random
import struct
import zlib

import cv2
import imagecodecs
import numpy as np
import PIL.Image
import pillow_heif
import pytest
import tifffile

from pipeline.images import opencv, photo_pixels
from pipeline.records.manifest_row import Code, ImageError
from tests.support import drawn_photos, files

HEIGHT, WIDTH, CELL = 48, 64, 16
LEVELS = 2  # between means of cells, of 255
pillow_heif.register_heif_opener()


def draw(channels, bits=8, seed=0):
    """Smooth numbers, [height, width, channels], of which some are white."""
    coarse = np.random.default_rng(seed).random((4, 5, channels)).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    smooth = np.clip(smooth.reshape(HEIGHT, WIDTH, channels), 0, 1)
    smooth[:8, :8] = 1
    return np.round(smooth * ((1 << bits) - 1)).astype(
        np.uint8 if bits <= 8 else np.uint16
    )


def shown(numbers, bits=8):
    """RGB over white, 0..255, of grey or RGB with or without alpha."""
    shares = np.asarray(numbers, float).reshape(*numbers.shape[:2], -1) / (2**bits - 1)
    if shares.shape[2] in (2, 4):
        shares = shares[..., :-1] * shares[..., -1:] + 1 - shares[..., -1:]
    return 255 * np.broadcast_to(shares, (*shares.shape[:2], 3))


def cells(pixels):
    rows = pixels.reshape(len(pixels) // CELL, CELL, -1, CELL, 3)
    return rows.mean(axis=(1, 3))


def assert_shows(data, expected):
    pixels, _ = photo_pixels.decode_upright(data)
    ours = opencv.as_bgr(pixels)[..., ::-1].astype(float)
    assert ours.shape == expected.shape
    assert np.abs(cells(ours) - cells(expected)).max() <= LEVELS


def assert_refused(data, kind=Code.UNSUPPORTED_PIXELS, match=None, **options):
    with pytest.raises(ImageError, match=match) as raised:
        photo_pixels.decode_upright(data, **options)
    assert raised.value.kind is kind


def saved(pixels, kind, **options):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def tiff(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "rgb", **options})
    return file.getvalue()


LOSSLESS = {
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIF": {"quality": -1, "chroma": 444, "matrix_coefficients": 0},
}


@pytest.mark.parametrize("kind", [*LOSSLESS, "JPEG"])
@pytest.mark.parametrize("orientation", drawn_photos.STORED)
@pytest.mark.parametrize("channels", [1, 3])
def test_orientation_is_undone_once(kind, orientation, channels):
    upright = draw(channels)
    stored = drawn_photos.STORED[orientation](np.squeeze(upright))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    options = LOSSLESS.get(kind, {"quality": 99, "subsampling": 0})
    data = saved(np.ascontiguousarray(stored), kind, exif=exif.tobytes(), **options)
    assert_shows(data, shown(upright))


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_grey_and_alpha(kind, channels):
    pixels = draw(channels)
    assert_shows(saved(np.squeeze(pixels), kind, **LOSSLESS[kind]), shown(pixels))


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_depths_of_avif(bits, channels):
    pixels = draw(channels, bits)
    data = imagecodecs.avif_encode(np.squeeze(pixels), level=100, bitspersample=bits)
    assert_shows(data, shown(pixels, bits))


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize(("mode", "channels"), [("RGB;16", 3), ("RGBA;16", 4)])
def test_depths_of_heic(monkeypatch, bits, mode, channels):
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    pixels, file = draw(channels, 16), io.BytesIO()
    pillow_heif.from_bytes(mode, (WIDTH, HEIGHT), pixels.tobytes()).save(
        file, **LOSSLESS["HEIF"]
    )
    assert_shows(file.getvalue(), shown(pixels, 16))


def png(numbers, bits, colour_type, *chunks):
    """A PNG file of packed rows, without filters."""
    rows = np.unpackbits(numbers.astype(">u2").view("u1"), axis=-1)
    rows = rows.reshape(HEIGHT, -1, 16)[..., 16 - bits :].reshape(HEIGHT, -1)
    body = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8), **dict.fromkeys((2, 4, 6), (8, 16))}


@pytest.mark.parametrize(
    ("colour_type", "bits"), [(n, bits) for n in PNG_DEPTHS for bits in PNG_DEPTHS[n]]
)
def test_depths_of_png(colour_type, bits):
    numbers = draw({0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type], bits)
    palette = draw(4, seed=4).reshape(-1, 4)[: 1 << bits]
    chunks, expected = [], shown(numbers, bits)
    if colour_type == 3:
        chunks = [
            (b"PLTE", palette[:, :3].tobytes()),
            (b"tRNS", palette[:, 3].tobytes()),
        ]
        expected = shown(palette[numbers[..., 0]])
    assert_shows(png(numbers, bits, colour_type, *chunks), expected)


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_one_transparent_number_of_png(bits):
    numbers = draw(3, bits)
    key = numbers[HEIGHT // 2, WIDTH // 2]
    grey = png(numbers[..., :1], bits, 0, (b"tRNS", struct.pack(">H", key[0])))
    assert_refused(grey, match="one grey that is transparent")
    if bits >= 8:
        colours = png(numbers, bits, 2, (b"tRNS", struct.pack(">HHH", *key)))
        is_key = (numbers == key).all(axis=2, keepdims=True)
        assert_shows(colours, np.where(is_key, 255, shown(numbers, bits)))


@pytest.mark.parametrize("codec", ["j2k", "jp2"])
@pytest.mark.parametrize("bits", [4, 8, 9, 10, 12, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_depths_of_jpeg_2000(codec, bits, channels):
    pixels = draw(channels, bits)
    data = imagecodecs.jpeg2k_encode(
        np.squeeze(pixels), level=0, codecformat=codec, bitspersample=bits
    )
    # Pillow takes a JP2 file of 9 bits for one of 8.
    if bits == 8 or (channels == 1 and bits > 8 and (codec, bits) != ("jp2", 9)):
        assert_shows(data, shown(pixels, bits))
    else:
        assert_refused(data, match="not of 8 bits")


@pytest.mark.parametrize("maxval", [1, 100, 255, 1000, 4095, 65_535])
@pytest.mark.parametrize(("magic", "channels"), [(b"P5", 1), (b"P6", 3)])
def test_maxval_of_pnm_is_white(magic, channels, maxval):
    numbers = np.round(draw(channels, 16) / 65_535 * maxval)
    raw = numbers.astype(">u2" if maxval > 255 else "u1").tobytes()
    header = b"%s %d %d %d\n" % (magic, WIDTH, HEIGHT, maxval)
    expected = shown(numbers / maxval * 255)
    assert_shows(header + raw, expected)
    text = " ".join(str(int(number)) for number in numbers.ravel()).encode()
    plain = {b"P5": b"P2", b"P6": b"P3"}[magic] + header[2:]
    assert_shows(plain + text, expected)


COLOURS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}
# What of these Pillow shows as tifffile does.
RIGHT = {
    *itertools.product(("minisblack", "rgb", "separated"), ("",), (8, 16), ("contig",)),
    *itertools.product(("rgb", "separated"), ("",), (8,), ("separate",)),
    ("miniswhite", "", 8, "contig"),
    ("minisblack", "unassalpha", 8, "contig"),
    *itertools.product(("rgb",), ("unassalpha", "assocalpha"), (8, 16), ("contig",)),
}


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", ["", "unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize("colours", COLOURS)
def test_colours_alpha_and_planes_of_tiff(colours, alpha, bits, planes):
    channels, white = COLOURS[colours] + bool(alpha), (1 << bits) - 1
    if channels == 1 and planes == "separate":
        pytest.skip("one channel is one plane")
    numbers = draw(channels, bits)
    shares = numbers / white
    if colours == "separated":
        shares = np.concatenate(
            [(1 - shares[..., :3]) * (1 - shares[..., 3:4]), shares[..., 4:]], axis=2
        )
    elif colours == "miniswhite":
        shares = 1 - shares
    if alpha == "assocalpha":
        numbers[..., :-1] = np.round(numbers[..., :-1] * (numbers[..., -1:] / white))
    stored = np.squeeze(numbers)
    for compression, order in itertools.product((None, "lzw"), "<>"):
        data = tiff(
            stored if planes == "contig" else stored.transpose(2, 0, 1).copy(),
            photometric=colours,
            planarconfig=planes if channels > 1 else None,
            extrasamples=[alpha] if alpha else None,
            compression=compression,
            byteorder=order,
        )
        if (colours, alpha, bits, planes) in RIGHT:
            assert_shows(data, shown(shares * 255))
        else:
            with pytest.raises(ImageError):
                photo_pixels.decode_upright(data)


@pytest.mark.parametrize("zero", ["miniswhite", "minisblack"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 9, 12, 14, 16])
def test_depths_of_tiff(bits, zero):
    numbers = draw(1, bits)[..., 0]
    text = "".join(f"{number:0{bits}b}" for number in numbers.ravel())
    raw = int(text, 2).to_bytes(len(text) // 8, "big")
    order = ">"
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1)]
    tags += [(262, int(zero == "minisblack")), (273, 8), (277, 1), (278, HEIGHT)]
    tags += [(279, len(raw))]
    entries = b"".join(struct.pack(f"{order}HHII", t, 4, 1, value) for t, value in tags)
    start = struct.pack(f"{order}2sHI", b"MM", 42, 8 + len(raw))
    data = start + raw + struct.pack(">H", len(tags)) + entries + bytes(4)
    if bits <= 8 or (bits, zero) == (16, "minisblack"):
        white = (1 << bits) - 1
        assert_shows(
            data, shown(numbers if zero == "minisblack" else white - numbers, bits)
        )
    else:
        assert_refused(data)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (16, 16)},
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
        {"bigtiff": True},
        {"compression": "jpeg"},
        {"compression": "packbits"},
        {"rowsperstrip": 7},
    ],
    ids=str,
)
def test_layouts_of_tiff(options):
    data = tiff(draw(3), **options)
    assert_shows(data, shown(tifffile.imread(io.BytesIO(data))))


@pytest.mark.parametrize("scale", [257, 1], ids=["16 bits", "8 bits"])
def test_palettes_of_tiff(scale):
    palette = draw(3, seed=4).reshape(-1, 3)[:256].T
    numbers = draw(1)[..., 0]
    colourmap = np.uint16(palette) * scale
    data = tiff(numbers, photometric="palette", colormap=colourmap)
    if scale == 257:
        assert_shows(data, shown(palette.T[numbers]))
    else:
        assert_refused(data, match="palette")


@pytest.mark.parametrize("kind", ["int8", "int16", "uint32", "float32", "float64"])
def test_numbers_without_a_known_white_are_refused(kind):
    numbers = (draw(1)[..., 0] // 2).astype(kind)
    assert_refused(tiff(numbers, photometric="minisblack"))


def camera_tiff(maker, order):
    """A preview, and the sensor's numbers in a directory below, as most cameras do."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=order) as writer:
        make = [(271, "s", 0, maker, True)]
        options = {"photometric": "rgb", "subfiletype": 1, "extratags": make}
        writer.write(draw(3), subifds=2, **options)
        writer.write(draw(3), photometric="rgb", subfiletype=1)
        writer.write(draw(1, 14)[..., 0], photometric=32_803)
    return file.getvalue()


RAW = {
    "NEF": camera_tiff("NIKON CORPORATION", ">"),
    "ARW": camera_tiff("SONY", "<"),
    "DNG": tiff(draw(3), extratags=[(50_706, 1, 4, b"\1\4\0\0", True)]),
    "PEF": tiff(draw(1, 14)[..., 0], photometric=32_803),
    "CR2": b"II*\0\x10\0\0\0CR\2\0",
    "CRW": b"II\x1a\0\0\0HEAPCCDR",
    "CR3": b"\0\0\0\x18ftypcrx ",
    "IIQ": b"II*\0\x10\0\0\0IIIITwaR",
    "MRW": b"\0MRM",
    "ORF": b"IIRO\x08\0\0\0",
    "RAF": b"FUJIFILMCCD-RAW ",
    "RW2": b"IIU\0\x18\0\0\0",
    "X3F": b"FOVb",
}
NOT_READ = {
    "Sun raster": b"\x59\xa6\x6a\x95",
    "Photoshop": b"8BPS",
    "PAM or PFM": b"PF\n",
    "OpenEXR or Radiance HDR": b"#?RADIANCE",
}


@pytest.mark.parametrize(
    ("data", "name"),
    [
        *((data, "camera RAW") for data in RAW.values()),
        *((data, name) for name, data in NOT_READ.items()),
    ],
    ids=[*RAW, *NOT_READ],
)
def test_formats_that_are_not_read_are_named(data, name):
    match = f"^{name}, a format that is not read"
    assert_refused(data + bytes(99), Code.UNSUPPORTED_FORMAT, match)


def bmp(bits, compression, body, *, palette=b"", masks=(), header_bytes=40):
    size = (header_bytes, WIDTH, HEIGHT, 1, bits, compression, len(body), 0, 0)
    header = struct.pack("<IiiHHIIiiII", *size, len(palette) // 4, 0)
    header += struct.pack(f"<{len(masks)}I", *masks)
    header = header.ljust(header_bytes, b"\0")
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIII", b"BM", 0, 0, start) + header + palette + body


RGB_MASKS = (0xFF0000, 0xFF00, 0xFF)


@pytest.mark.parametrize(
    ("options", "has_alpha"),
    [
        ({"compression": 0}, False),
        ({"compression": 3, "masks": RGB_MASKS}, False),
        ({"compression": 3, "masks": (*RGB_MASKS, 0), "header_bytes": 56}, False),
        (
            {"compression": 3, "masks": (*RGB_MASKS, 0xFF000000), "header_bytes": 108},
            True,
        ),
    ],
    ids=["plain", "masks", "no alpha mask", "alpha mask"],
)
def test_alpha_of_bmp(options, has_alpha):
    pixels = draw(4)
    body = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    expected = shown(pixels if has_alpha else pixels[..., :3])
    assert_shows(bmp(32, body=body, **options), expected)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_palettes_of_bmp(bits):
    numbers = draw(1)[..., 0] >> (8 - bits)
    palette = np.random.default_rng(5).integers(0, 256, (1 << bits, 4)).astype("u1")
    bit_rows = np.unpackbits(numbers[..., None], axis=2)[..., 8 - bits :]
    body = np.packbits(bit_rows[::-1].reshape(HEIGHT, -1), axis=1).tobytes()
    expected = shown(palette[numbers][..., [2, 1, 0]])
    assert_shows(bmp(bits, 0, body, palette=palette.tobytes()), expected)


def test_fifteen_bits_of_bmp():
    numbers = draw(3, 5).astype("<u2")
    body = (numbers[..., 0] << 10 | numbers[..., 1] << 5 | numbers[..., 2])[::-1]
    assert_shows(bmp(16, 0, body.tobytes()), shown(numbers, 5))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (bmp(8, 1, bytes(99), palette=bytes(1024)), "RLE8"),
        (b"BM" + bytes(12) + b"\x0c" + bytes(99), "OS/2"),
        (saved(draw(3), "AVIF").replace(b"pixi", b"clap"), "clap"),
        (tiff(draw(4), extrasamples=["unspecified"]), "may be transparency or not"),
    ],
)
def test_rare_kinds_are_refused(data, match):
    assert_refused(data, match=match)


def test_a_pointer_of_git_lfs_is_called_that():
    assert_refused(files.LFS_POINTER, Code.NOT_AN_IMAGE, "Git LFS; run git lfs pull")


@pytest.mark.parametrize("shown_first", [True, False])
def test_first_frame_of_png(shown_first):
    images = [PIL.Image.fromarray(draw(3, seed=n)) for n in range(2)]
    options = {"append_images": images[1:], "default_image": not shown_first}
    data = saved(draw(3), "PNG", save_all=True, **options)
    if shown_first:
        assert_shows(data, shown(draw(3)))
    else:  # some viewers show the still image, others the animation
        assert_refused(data, match="its animation leaves out")


@pytest.mark.parametrize("options", [{}, {"transparency": 5}], ids=["opaque", "clear"])
def test_first_frame_of_gif(options):
    grey = draw(1)[..., 0]
    frames = [PIL.Image.fromarray(255 - grey)]
    data = saved(grey, "GIF", save_all=True, append_images=frames, **options)
    assert_shows(data, shown(np.where(grey == options.get("transparency"), 255, grey)))


def test_larger_images_than_the_limit_are_refused_undecoded():
    match = "larger than 99 pixels"
    assert_refused(tiff(draw(3)), Code.TOO_MANY_PIXELS, match, max_pixels=99)


@pytest.mark.parametrize(
    "name", ["Display P3", "Adobe RGB (1998)", "sRGB IEC61966-2.1"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_wide_colour_profiles_are_recognised(kind, name):
    data = saved(draw(3), kind, icc_profile=bytes(128) + name.encode("utf-16-be"))
    assert photo_pixels.has_wide_gamut(data) == ("sRGB" not in name)


def frames(kind, count):
    others = [PIL.Image.fromarray(draw(3, seed=n)) for n in range(1, count)]
    return saved(draw(3), kind, save_all=True, append_images=others)


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_frames_and_pages_are_counted(kind, count):
    assert photo_pixels.count_frames(frames(kind, count)) == count


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "PNG", "TIFF", "WEBP"])
def test_damaged_files_still_have_a_number_of_frames(kind):
    data, chosen = frames(kind, 4), random.Random(0)
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(chosen.choice((1, 3, 20))):
            damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
        cut = bytes(damaged[: chosen.randrange(8, len(damaged) + 1)])
        assert photo_pixels.count_frames(cut) >= 1


def test_pages_in_a_circle_are_counted_once():
    """The first directory of a TIFF names itself as the next one."""
    data = bytearray(frames("TIFF", 2))
    first = int.from_bytes(data[4:8], "little")
    link = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[link : link + 4] = first.to_bytes(4, "little")
    assert photo_pixels.count_frames(bytes(data)) == 1


@pytest.mark.parametrize("bits", [12, 16])
def test_sixteen_bit_colours_of_tiff_use_their_bits(bits):
    if bits == 16:
        assert_shows(tiff(draw(3, 16)), shown(draw(3, 16), 16))
    else:
        assert_refused(tiff(draw(3, bits)), match="at most 14 bits")
