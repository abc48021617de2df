import hashlib

import cv2
import numpy as np
import pytest

from pipeline.grouping import near_duplicates, photo_groups, thumbnail_comparison
from pipeline.images import opencv, photo_pixels, record_image
from pipeline.records.manifest_row import Row
from tests.support import drawn_photos


def jpeg(pixels, quality=95):
    how = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", pixels, how)[1].tobytes()


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def half(pixels):
    return cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def cut(pixels, share):
    down, across = (round(share * side) for side in pixels.shape[:2])
    return pixels[down:-down, across:-across]


def brighter(pixels):
    return np.clip(pixels * 1.05, 0, 255).astype(np.uint8)


def grey(pixels):
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def search(files, tmp_path, labels=None):
    """Near-duplicates among image files that all have a record."""
    stored = [record_image.encode_for_record(data, resize_min=512) for data in files]
    rows = [
        Row(
            path=f"{number}.jpg",
            class_name=str(label),
            sha256=hashlib.sha256(data).hexdigest(),
            phash=image.phash,
            source_bytes=len(data),
            action="copied",
        )
        for number, (data, image, label) in enumerate(
            zip(files, stored, labels or [0] * len(files), strict=True)
        )
    ]
    similar = near_duplicates.find(
        rows,
        lambda number: opencv.thumbnail(
            stored[number].encoded, thumbnail_comparison.SIDE
        ),
        lambda numbers: [photo_pixels.digest(files[number]) for number in numbers],
    )
    assert list(tmp_path.iterdir()) == []
    return similar


def groups(similar, count):
    """All groups, also those of one photo."""
    connected = photo_groups.connect(similar.pairs.tolist())
    alone = {*range(count)}.difference(*connected)
    return sorted([*connected, *([number] for number in alone)])


TREATMENTS = {
    "quality 60": lambda p: jpeg(p, 60),
    "quality 20": lambda p: jpeg(p, 20),
    "PNG": png,
    "half the size": lambda p: jpeg(half(p)),
    "a quarter turn": lambda p: jpeg(np.rot90(p)),
    "three quarter turns": lambda p: jpeg(np.rot90(p, 3)),
    "upside down": lambda p: jpeg(p[::-1, ::-1]),
    "mirrored": lambda p: jpeg(p[:, ::-1]),
    "turned and mirrored": lambda p: jpeg(np.rot90(p)[::-1]),
    "brighter": lambda p: jpeg(brighter(p)),
    "1 % cut off": lambda p: jpeg(cut(p, 0.01)),
    "2 % cut off one side": lambda p: jpeg(p[: round(len(p) * 0.98)]),
    "grey": lambda p: jpeg(grey(p)),
    "several": lambda p: jpeg(np.rot90(half(cut(brighter(p), 0.01))), 60),
}


@pytest.mark.parametrize("name", TREATMENTS)
def test_copies_are_found(tmp_path, name):
    scenes = [
        drawn_photos.draw_scene(n, *((240, 320), (300, 200))[n % 2]) for n in range(12)
    ]
    files = [jpeg(scene) for scene in scenes]
    files += [TREATMENTS[name](scene) for scene in scenes]
    found = groups(search(files, tmp_path), len(files))
    assert sorted(found) == [[n, n + 12] for n in range(12)]


def test_most_copies_of_which_two_percent_are_cut_off_are_found(tmp_path):
    scenes = [drawn_photos.draw_scene(n) for n in range(40)]
    files = [jpeg(s) for s in scenes] + [jpeg(cut(s, 0.02)) for s in scenes]
    found = groups(search(files, tmp_path), len(files))
    assert all(group[-1] - group[0] in (0, 40) for group in found)
    assert len(found) <= 40 + 8


def discs(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        pixels = np.full((200, 200, 3), 255, np.uint8)
        x, y, radius = random.integers((30, 30, 5), (170, 170, 60)).tolist()
        colour = random.integers(0, 200, 3).tolist()
        cv2.circle(pixels, (x, y), radius, colour, -1)
        yield pixels


def test_plain_pictures_that_differ_stay_apart(tmp_path):
    files = [jpeg(pixels) for pixels in discs(300)]
    assert len(groups(search(files, tmp_path), 300)) == 300


def test_copies_of_plain_pictures_are_found(tmp_path):
    pictures = list(discs(100))
    files = [jpeg(p) for p in pictures] + [jpeg(half(p), 80) for p in pictures]
    found = groups(search(files, tmp_path), 200)
    assert sum(group == [group[0], group[0] + 100] for group in found) >= 95
    assert all(len(group) <= 2 for group in found)


def test_plain_pictures_of_different_colours_stay_apart(tmp_path):
    """Also where one is grey: in plain pictures the colour may be the class."""
    files = []
    for colour in ((0, 0, 200), (200, 0, 0), (60, 60, 60), (0, 102, 0)):
        pixels = np.full((200, 200, 3), 255, np.uint8)
        cv2.circle(pixels, (90, 110), 50, colour, -1)
        files.append(jpeg(pixels))
    assert len(groups(search(files, tmp_path), 4)) == 4


def test_many_of_one_hash_are_not_compared_with_all(tmp_path):
    """And those of one colour are found among them."""
    colours = [(n % 256, n * 7 % 256, n * 13 % 256) for n in range(256)] * 2
    files = [
        png(np.full((20 + n // 256, 30, 3), colour, np.uint8))
        for n, colour in enumerate(colours)
    ]
    similar = search(files, tmp_path)
    assert len(similar.proposed) <= 16 * len(files)
    assert groups(similar, 512) == [[n, n + 256] for n in range(256)]


def test_pixels_are_looked_at_only_where_hashes_are_close(tmp_path):
    files = [jpeg(drawn_photos.draw_scene(n)) for n in range(60)]
    similar = search(files, tmp_path)
    assert len(similar.pairs) == 0
    assert len(similar.proposed) <= 2


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((64, 64, 3), np.uint8),
        np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3)),
        np.tile(np.eye(2, dtype=np.uint8)[:, :, None] * 255, (50, 50, 3)),
        np.full((1, 1, 3), 7, np.uint8),
        np.full((1, 3000, 3), 7, np.uint8),
    ],
    ids=["black", "ramp", "checks", "one pixel", "a line"],
)
def test_pictures_without_texture_are_compared(tmp_path, pixels):
    other = pixels.copy()
    other[..., 0] //= 2
    files = [png(pixels), png(pixels.swapaxes(0, 1)), png(other), jpeg(pixels, 50)]
    found = groups(search(files, tmp_path), 4)
    assert sorted(number for group in found for number in group) == [0, 1, 2, 3]


def test_a_group_stays_connected_without_a_photo_that_is_left_out(tmp_path):
    """Whoever of a group is left out, the others are one group."""
    pixels = drawn_photos.draw_scene(0)
    files = [jpeg(pixels, quality) for quality in range(60, 95, 5)]
    files += [
        jpeg(half(pixels)),
        jpeg(np.rot90(pixels)),
        jpeg(drawn_photos.draw_scene(1)),
    ]
    similar = search(files, tmp_path)
    for left_out in range(9):
        for other in range(9):
            taken = np.ones(10, np.bool_)
            taken[[left_out, other]] = False
            pairs = similar.among(taken).pairs
            assert taken[pairs].all()
            (group,) = photo_groups.connect(pairs.tolist())
            assert group == np.flatnonzero(taken[:9]).tolist()
    assert similar.among(np.ones(10, np.bool_)) is similar


class TestIdentical:
    def find(self, files, labels, tmp_path):
        pairs = search(files, tmp_path, labels).identical.tolist()
        return sorted(tuple(sorted(pair)) for pair in pairs)

    def test_a_lossless_copy_in_another_class_is_identical(self, tmp_path):
        data = jpeg(drawn_photos.draw_scene(0))
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        files = [data, png(pixels), jpeg(pixels, 90), png(pixels[:, ::-1])]
        assert self.find(files, [0, 1, 1, 1], tmp_path) == [(0, 1)]
        assert self.find(files, [0, 0, 0, 0], tmp_path) == []

    def test_identical_photos_are_found_though_similar_ones_connect_them(
        self, tmp_path
    ):
        pixels = drawn_photos.draw_scene(0)
        files = [png(pixels), *(jpeg(pixels, 80 + n) for n in range(6))]
        files.append(cv2.imencode(".bmp", pixels)[1].tobytes())
        labels = [0, *([0, 1] * 3), 1]
        assert (0, 7) in self.find(files, labels, tmp_path)

    def test_a_photo_filed_twice_is_identical_to_its_lossless_copy(self, tmp_path):
        data = jpeg(drawn_photos.draw_scene(0))
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        files = [data, data, png(pixels)]
        assert self.find(files, [0, 1, 0], tmp_path) == [(0, 2)]
