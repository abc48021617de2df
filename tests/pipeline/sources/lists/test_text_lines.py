import gzip
import os

import pytest

from pipeline.sources.lists import text_lines
from pipeline.system.errors import DataError


def read(path, body):
    path.write_bytes(body)
    return text_lines.read(path)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"a\nb", ["a\n", "b"]),
        (b"a\r\nb\r\n", ["a\n", "b\n"]),
        (b"a\rb\r", ["a\n", "b\n"]),
        (b"\xef\xbb\xbfa\n", ["a\n"]),
        (b"\n\n", ["\n", "\n"]),
        ("blüte\x85x\n".encode(), ["blüte\x85x\n"]),
        ("blüte\n".encode("utf-16"), ["blüte\n"]),
        (b"\xfe\xff" + "blüte\r\n日\n".encode("utf-16-be"), ["blüte\n", "日\n"]),
    ],
    ids=["empty", "no end", "CRLF", "CR", "BOM", "blank", "UTF-8", "UTF-16", "BE"],
)
def test_lines_are_decoded(tmp_path, capsys, body, expected):
    assert read(tmp_path / "list", body) == expected
    assert read(tmp_path / "list.gz", gzip.compress(body)) == expected
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("body", "encoding", "word"),
    [
        (b"a.jpg,G\xe4nsebl\xfcmchen\n", "Windows-1252", "Gänseblümchen"),
        (b"a.jpg;\x80uro\n", "Windows-1252", "€uro"),
        (b"a.jpg\t\xe9t\x81\n", "Latin-1", "ét\x81"),
    ],
)
def test_a_guessed_encoding_is_said_with_an_example(
    tmp_path, capsys, body, encoding, word
):
    (line,) = read(tmp_path / "list", body)
    assert word in line
    (note,) = capsys.readouterr().err.splitlines()
    assert f"is not UTF-8, so it was read as {encoding}, as in {word!r}. If" in note


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a\n".encode("utf-16-le"), "line 1: has a zero byte"),
        (b"a\nb\0c\n", "line 2: has a zero byte"),
        (b"PK\x03\x04\0\0", "zero byte .an Excel workbook"),
        (b"\xef\xbb\xbfa\n\xff\n", "line 2: is not UTF-8, although"),
        ("ä\n".encode() + b"\xe4\n", "line 2: is not UTF-8, although other lines are"),
        (b"\xff\xfea\0b", "is not UTF-16-LE"),
        (b"\n" * (3 << 20), "more than 128 MB or 2,097,152 lines"),
        (b"a\n" + b"x" * (2 << 20), "line 2: has 2,097,152 characters"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 4\n",
            "pointer of Git LFS, not the file itself. Run git lfs pull",
        ),
    ],
    ids=[
        "UTF-16",
        "zero",
        "Excel",
        "BOM",
        "mixed",
        "cut UTF-16",
        "lines",
        "long",
        "LFS",
    ],
)
def test_what_is_no_text_is_refused(tmp_path, body, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "list", body)


def test_a_file_that_unpacks_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "list.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(129):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="more than 128 MB"):
        text_lines.read(path)


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_a_damaged_gzip_file_is_refused(tmp_path, cut):
    body = gzip.compress(os.urandom(500).hex().encode() + b"\n")
    with pytest.raises(DataError, match=r"list\.gz: damaged gzip"):
        read(tmp_path / "list.gz", body[:cut])
    with pytest.raises(DataError, match=r"list\.gz: damaged gzip"):
        read(tmp_path / "list.gz", b"no gzip at all")


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "is a folder"), ("pipe", "a pipe"), ("nothing", "No such file")],
)
def test_what_cannot_be_read_is_refused(tmp_path, impatient, name, message):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=message):
        text_lines.read(tmp_path / name)
