"""Frame payloads as TFRecords, and take them out of their frames.

A record is: length (uint64, little endian), masked CRC32C of those 8 bytes (uint32),
payload, masked CRC32C of the payload. Source: tensorflow/core/lib/io/record_writer.h.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from pipeline.system import file_system
from pipeline.system.errors import DataError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")  # the checksum of the payload
HEADER_BYTES = _HEADER.size
OVERHEAD_BYTES = _HEADER.size + _FOOTER.size


def masked_crc(data: bytes) -> int:
    """Return the CRC32C of bytes as TensorFlow stores it, rotated and shifted.

    Source: tensorflow/core/lib/hash/crc32c.h.
    """
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """Return `payload` as one TFRecord, `OVERHEAD_BYTES` longer."""
    length = struct.pack("<Q", len(payload))
    header = _HEADER.pack(len(payload), masked_crc(length))
    return b"".join((header, payload, _FOOTER.pack(masked_crc(payload))))


def unframe(record: bytes, where: str) -> bytes:
    """Return the payload of a TFRecord; DataError begins with its place, `where`."""
    if len(record) < OVERHEAD_BYTES:
        raise DataError(f"{where}: the file ends inside the record")
    length, length_crc = _HEADER.unpack_from(record)
    if length_crc != masked_crc(record[:8]):
        raise DataError(f"{where}: no record starts here (length checksum)")
    if length != len(record) - OVERHEAD_BYTES:
        raise DataError(
            f"{where}: the record has {length} bytes. Expected "
            f"{len(record) - OVERHEAD_BYTES}, as in the manifest"
        )
    payload, footer = record[_HEADER.size : -_FOOTER.size], record[-_FOOTER.size :]
    if footer != _FOOTER.pack(masked_crc(payload)):
        raise DataError(
            f"{where}: the record is damaged (checksum). If pipeline.convert wrote "
            "this file, remove it and convert again"
        )
    return payload


def scan(path: Path, *, max_bytes: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (byte offset, payload) of every record of a file, or raise DataError.

    Checksums are verified. A payload may have any length if `max_bytes` is 0.
    """
    with file_system.regular(path).open("rb") as file:
        size = path.stat().st_size
        offset = 0
        while offset < size:
            where, available = f"{path} at {offset}", size - offset
            header = file.read(_HEADER.size)
            length = int.from_bytes(header[:8], "little")
            if length + OVERHEAD_BYTES > available:
                # Checked before allocating: a damaged length may ask for exabytes.
                text = f"ends inside a record of {length} bytes, {available} left"
                raise DataError(f"{where}: the file {text}")
            if max_bytes and length > max_bytes:
                raise DataError(f"{where}: a record of {length:,} bytes is not a photo")
            yield offset, unframe(header + file.read(length + _FOOTER.size), where)
            offset += length + OVERHEAD_BYTES
