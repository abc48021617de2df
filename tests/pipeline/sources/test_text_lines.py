import gzip
import os

import pytest

from pipeline.sources import text_lines
from pipeline.system.errors import DataError


def lines(path, body, **how):
    path.write_bytes(body)
    return list(text_lines.read_lines(path, **how))


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
def test_lines(tmp_path, body, expected):
    assert lines(tmp_path / "list", body) == expected
    assert lines(tmp_path / "list.gz", gzip.compress(body)) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"a\n" + b"x" * 4097, "line 2: longer than 4,096 bytes"),
        (b"a\nb\0c\n", "line 2: holds a zero byte"),
        ("a\n".encode("utf-16"), "is UTF-16"),
    ],
    ids=["long line", "zero byte", "UTF-16"],
)
def test_what_is_no_list(tmp_path, body, message):
    with pytest.raises(DataError, match=message):
        lines(tmp_path / "list", body)


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_damaged_gzip(tmp_path, cut):
    body = gzip.compress(os.urandom(500).hex().encode() + b"\n")
    with pytest.raises(DataError, match=r"list\.gz: damaged gzip"):
        lines(tmp_path / "list.gz", body[:cut])
    with pytest.raises(DataError, match=r"list\.gz: damaged gzip"):
        lines(tmp_path / "list.gz", b"no gzip at all")


def test_what_is_no_file(tmp_path):
    """Told at once: a pipe would wait, a device would never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, message in (
        (tmp_path / "pipe", "not a plain file"),
        (tmp_path, "not a plain file"),
        (tmp_path / "nothing", "No such file"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(DataError, match=message):
            list(text_lines.read_lines(path))


def test_a_file_that_is_no_list_is_not_read(tmp_path):
    with (tmp_path / "list").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(DataError, match="3,221,225,472 bytes are no list"):
        list(text_lines.read_lines(tmp_path / "list"))
