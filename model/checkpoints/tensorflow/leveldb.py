"""Read the keys and values of a sorted table of LevelDB's kind.

Sources: tensorflow/core/lib/io/format.cc, leveldb/doc/table_format.md.
"""

from collections.abc import Iterator
from pathlib import Path

from model.checkpoints import errors, protobuf_fields
from pipeline.records import tfrecord

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER_BYTES, _TRAILER_BYTES = 48, 5
_MAX_KEY_BYTES, _MAX_KEYS_BYTES = 4096, 64 << 20  # of one key, of a block's keys


def unreadable(prefix: Path, problem: str) -> errors.CorruptCheckpoint:
    """Return the error for a damaged index."""
    return errors.CorruptCheckpoint(
        f"{prefix}: not a readable TensorFlow checkpoint ({problem}); copy its index "
        "again"
    )


class Table:
    """A LevelDB table: blocks of keys and values, found by an index block."""

    def __init__(self, data: bytes, prefix: Path) -> None:
        """Take the file's bytes, and the checkpoint's name for errors."""
        self._data = data
        self._prefix = prefix
        if len(data) < FOOTER_BYTES or data[-8:] != MAGIC:
            raise unreadable(prefix, "its index does not end as one")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys with their values."""
        # The first of the footer's two blocks is not used here.
        _, _, offset, size = self._varints(self._data[-FOOTER_BYTES:-8], 4)
        index = self._entries(self._block(offset, size))
        blocks = [self._varints(value, 2) for _, value in index]
        if sum(size for _, size in blocks) > len(self._data):
            raise unreadable(self._prefix, "blocks that overlap")
        for offset, size in blocks:
            yield from self._entries(self._block(offset, size))

    def _varints(self, data: bytes, count: int) -> list[int]:
        message, at, numbers = protobuf_fields.Wire(data, str(self._prefix)), 0, []
        for _ in range(count):
            number, at = message.varint(at, len(data))
            numbers.append(number)
        return numbers

    def _block(self, offset: int, size: int) -> bytes:
        end = offset + size
        if end + _TRAILER_BYTES > len(self._data) - FOOTER_BYTES + 1:
            raise unreadable(self._prefix, "a block outside the index")
        block = self._data[offset : end + 1]
        crc = int.from_bytes(self._data[end + 1 : end + _TRAILER_BYTES], "little")
        if tfrecord.masked_crc(block) != crc:
            raise unreadable(self._prefix, "a block's checksum is wrong")
        if block[-1] != 0:
            raise unreadable(
                self._prefix, "a compressed block, which TensorFlow does not write"
            )
        return block[:-1]

    def _entries(self, block: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield a block's keys and values; a key may begin as the one before it."""
        if len(block) < 4:
            raise unreadable(self._prefix, "a block of nothing")
        restarts = int.from_bytes(block[-4:], "little")
        end = len(block) - 4 * (restarts + 1)
        if end < 0:
            raise unreadable(self._prefix, f"a block with {restarts:,} restarts")
        message = protobuf_fields.Wire(block, str(self._prefix))
        at, key, total = 0, b"", 0
        while at < end:
            shared, at = message.varint(at, end)
            added, at = message.varint(at, end)
            length, at = message.varint(at, end)
            if shared > len(key) or at + added + length > end:
                raise unreadable(self._prefix, "a key that runs past its block")
            total += shared + added
            if shared + added > _MAX_KEY_BYTES or total > _MAX_KEYS_BYTES:
                raise unreadable(self._prefix, "keys beyond any variable's name")
            key = key[:shared] + block[at : at + added]
            at += added
            yield key, block[at : at + length]
            at += length
