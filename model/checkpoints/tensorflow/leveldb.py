"""Read the keys and values of a sorted table of LevelDB's kind.

Sources: tensorflow/core/lib/io/format.cc, leveldb/doc/table_format.md.
"""

from collections.abc import Iterator
from pathlib import Path

from model.checkpoints import errors, protobuf_fields
from pipeline.records import tfrecord

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_BYTES, _TRAILER_BYTES = 48, 5
_MAX_KEY_BYTES, _MAX_KEYS_BYTES = 4096, 64 << 20  # of one key, of a block's keys


def unreadable(prefix: Path, problem: str) -> errors.CorruptCheckpoint:
    """Return the error for a damaged index."""
    return errors.CorruptCheckpoint(
        f"{prefix}: not a readable TensorFlow checkpoint ({problem}); copy its index "
        "again"
    )


def read(data: bytes, prefix: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield all keys and values; `prefix` names the checkpoint in errors."""
    if len(data) < _FOOTER_BYTES or data[-8:] != MAGIC:
        raise unreadable(prefix, "its index does not end as one")
    # The first of the footer's two blocks is not used here.
    wire = protobuf_fields.Wire(data, str(prefix))
    footer = len(data) - _FOOTER_BYTES
    (_, _, offset, size), _ = wire.varints(footer, len(data) - 8, 4)
    blocks = []
    for _, value in _entries(_block(data, offset, size, prefix), prefix):
        wire = protobuf_fields.Wire(value, str(prefix))
        blocks.append(wire.varints(0, len(value), 2)[0])
    if sum(size for _, size in blocks) > len(data):
        raise unreadable(prefix, "blocks that overlap")
    for offset, size in blocks:
        yield from _entries(_block(data, offset, size, prefix), prefix)


def _block(data: bytes, offset: int, size: int, prefix: Path) -> bytes:
    end = offset + size
    if end + _TRAILER_BYTES > len(data) - _FOOTER_BYTES + 1:
        raise unreadable(prefix, "a block outside the index")
    block = data[offset : end + 1]
    crc = int.from_bytes(data[end + 1 : end + _TRAILER_BYTES], "little")
    if tfrecord.masked_crc(block) != crc:
        raise unreadable(prefix, "a block's checksum is wrong")
    if block[-1] != 0:
        problem = "a compressed block, which TensorFlow does not write"
        raise unreadable(prefix, problem)
    return block[:-1]


def _entries(block: bytes, prefix: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield a block's keys and values; a key may begin as the one before it."""
    if len(block) < 4:
        raise unreadable(prefix, "a block of nothing")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise unreadable(prefix, f"a block with {restarts:,} restarts")
    message = protobuf_fields.Wire(block, str(prefix))
    at, key, total = 0, b"", 0
    while at < end:
        (shared, added, length), at = message.varints(at, end, 3)
        if shared > len(key) or at + added + length > end:
            raise unreadable(prefix, "a key that runs past its block")
        total += shared + added
        if shared + added > _MAX_KEY_BYTES or total > _MAX_KEYS_BYTES:
            raise unreadable(prefix, "keys beyond any variable's name")
        key = key[:shared] + block[at : at + added]
        at += added
        yield key, block[at : at + length]
        at += length
