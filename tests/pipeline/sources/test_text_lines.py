import gzip
import os

import pytest

from pipeline.sources import text_lines
from pipeline.system.errors import DataError


def lines(path, body):
    path.write_bytes(body)
    return list(text_lines.read_lines(path))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"a\nb", ["a\n", "b"]),
        (b"a\r\nb\r\n", ["a\n", "b\n"]),
        (b"\xef\xbb\xbfa\n", ["a\n"]),
        (b"\n\n", ["\n", "\n"]),
        ("blüte\n".encode(), ["blüte\n"]),
        (b"\xe9\xff\n", ["\udce9\udcff\n"]),
    ],
    ids=["empty", "no end", "CRLF", "BOM", "blank", "UTF-8", "no UTF-8"],
)
def test_lines_are_decoded(tmp_path, body, expected):
    assert lines(tmp_path / "list", body) == expected
    assert lines(tmp_path / "list.gz", gzip.compress(body)) == expected


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("utf-16", "is UTF-16"), ("utf-16-le", "line 1: has a zero byte")],
)
def test_other_encodings_are_refused(tmp_path, encoding, message):
    with pytest.raises(DataError, match=message):
        lines(tmp_path / "list", "a\n".encode(encoding))


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_a_damaged_gzip_file_is_refused(tmp_path, cut):
    body = gzip.compress(os.urandom(500).hex().encode() + b"\n")
    with pytest.raises(DataError, match=r"list\.gz: damaged gzip"):
        lines(tmp_path / "list.gz", body[:cut])
    with pytest.raises(DataError, match=r"list\.gz: damaged gzip"):
        lines(tmp_path / "list.gz", b"no gzip at all")


@pytest.mark.parametrize(
    ("name", "message"), [("", "Is a directory"), ("nothing", "No such file")]
)
def test_what_cannot_be_read_is_refused(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        list(text_lines.read_lines(tmp_path / name))
