import concurrent.futures
import dataclasses

import pytest

from pipeline.records import stored_photo
from pipeline.system.errors import DataError


def test_threads_share_a_reader(found):
    photos = stored_photo.StoredPhotos(found.directory)
    rows = found.included()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        records = list(pool.map(photos.record, rows * 5))
    assert [record.sha256 for record in records] == [row.sha256 for row in rows * 5]


def test_another_photo_than_the_rows_is_an_error(found):
    photos = stored_photo.StoredPhotos(found.directory)
    row = dataclasses.replace(found.included()[0], sha256="0" * 64)
    with pytest.raises(DataError, match=rf"{row.file} .*{row.path}.*another photo"):
        photos.image(row)


def test_a_record_file_that_is_gone_is_named(found, tmp_path):
    with pytest.raises(FileNotFoundError, match=found.included()[0].file):
        stored_photo.StoredPhotos(tmp_path).image(found.included()[0])
