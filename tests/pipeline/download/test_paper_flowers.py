import shutil

import numpy as np
import pytest

from pipeline.download import paper_flowers
from pipeline.images import opencv
from pipeline.system.errors import DataError
from tests.support import conversions, files

KINDS = paper_flowers.KINDS


@pytest.fixture(scope="module")
def photos():
    """{(kind, number): RGB image}, drawn with seed 0."""
    return {
        (kind, number): paper_flowers.draw(kind, 0, number)
        for kind in KINDS
        for number in range(6)
    }


def test_photos_are_small_and_one_in_five_is_upright(photos):
    for image in photos.values():
        assert image.dtype == np.uint8
        short, long = sorted(image.shape[:2])
        assert image.shape[2] == 3
        assert 225 <= short <= 255
        assert 300 <= long <= 340
    assert len({image.shape for image in photos.values()}) > 15
    upright = np.mean([image.shape[0] > image.shape[1] for image in photos.values()])
    assert 0 < upright < 0.5  # 0.2 and four standard deviations, for 30 photos


def test_the_same_seed_draws_the_same_pixels(photos):
    """The order of drawing does not matter."""
    for kind, number in [("tulip", 3), ("aster", 0), ("tulip", 3)]:
        again = paper_flowers.draw(kind, 0, number)
        assert np.array_equal(again, photos[kind, number])


def test_every_seed_kind_and_number_gives_another_photo(photos):
    drawn = [image.tobytes() for image in photos.values()]
    drawn += [paper_flowers.draw(kind, 1, 0).tobytes() for kind in KINDS]
    drawn += [paper_flowers.draw("lily", 2**40, 0).tobytes()]
    assert len(set(drawn)) == len(drawn)


def test_photos_are_neither_flat_nor_blown_out(photos):
    for key, image in photos.items():
        assert image.std() > 10, key
        assert ((image == 255).all(axis=2)).mean() < 0.5, key


def test_a_photo_is_stored_with_nearly_the_same_pixels(photos):
    for (kind, number), image in list(photos.items())[::13]:
        data = paper_flowers.photo(f"{kind}/{kind}_{number:04d}.jpg", 0)
        error = np.abs(opencv.decode_rgb(data).astype(int) - image).mean()
        assert error < 8


class TestFolder:
    def draw(self, folder, count=2, seed=0):
        with conversions.in_this_process():
            return paper_flowers.draw_missing(folder, images_per_class=count, seed=seed)

    def test_every_photo_is_the_one_of_its_name(self, tmp_path):
        assert self.draw(tmp_path / "f", seed=5) == 10
        assert files.folder_content(tmp_path / "f") == {
            name: paper_flowers.photo(name, 5)
            for kind in ("aster", "globe", "lily", "poppy", "tulip")
            for name in (f"{kind}/{kind}_0000.jpg", f"{kind}/{kind}_0001.jpg")
        }

    def test_a_later_call_draws_what_is_missing(self, tmp_path):
        self.draw(tmp_path, 1)
        before = files.folder_digest(tmp_path)
        assert self.draw(tmp_path, 1) == 0
        (tmp_path / "lily" / "lily_0000.jpg").unlink()
        shutil.rmtree(tmp_path / "aster")
        assert self.draw(tmp_path, 2) == 7
        assert before.items() <= files.folder_digest(tmp_path).items()

    def test_photos_of_another_seed_are_not_mixed_in(self, tmp_path):
        self.draw(tmp_path, 1, seed=0)
        before = files.folder_digest(tmp_path)
        message = r"aster/aster_0000\.jpg is not what --seed=1 draws\. Choose"
        with pytest.raises(DataError, match=message):
            self.draw(tmp_path, 2, seed=1)
        assert files.folder_digest(tmp_path) == before

    @pytest.mark.parametrize(
        "name", ["mine.jpg", "rose/rose_0000.jpg", "aster/aster_0002.jpg"]
    )
    def test_a_folder_with_other_files_is_left_alone(self, tmp_path, name):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(DataError, match=f"{name}.*Choose an empty folder"):
            self.draw(tmp_path)
        assert files.folder_content(tmp_path) == {name: b"mine"}
