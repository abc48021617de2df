"""Damage files at random, and see what a reader makes of the copies."""

import collections
import random

from model.checkpoints import errors

KINDS = ("bit", "byte", "bytes", "field", "field", "pointer", "cut")


def copies(data, count, *, aims=(), seed=0):
    """Yield damaged copies: bits, bytes, fields of 2 to 8 bytes, cuts.

    Args:
        data: the file's bytes.
        count: number of copies.
        aims: offsets to damage more often than others, such as those of headers.
        seed: seed of the damage.
    """
    rng = random.Random(seed)
    aims = list(aims) or range(len(data))
    for _ in range(count):
        yield _damage(data, aims, rng)


def _damage(data, aims, rng):
    copy = bytearray(data)
    at = rng.choice(aims) if rng.random() < 0.7 else rng.randrange(len(data))
    kind = rng.choice(KINDS)
    if kind == "bit":
        copy[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        copy[at] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
    elif kind == "bytes":
        for _ in range(rng.choice((2, 5))):
            copy[rng.choice(aims)] = rng.randrange(256)
    elif kind == "field":
        size = rng.choice((2, 4, 8))
        top = 1 << (8 * size)
        value = rng.choice((0, 1, top - 1, top // 2, top // 2 - 1))
        copy[at : at + size] = value.to_bytes(size, "little")
    elif kind == "pointer":  # HDF5 aligns them
        at -= at % 8
        copy[at : at + 8] = rng.randrange(len(data)).to_bytes(8, "little")
    else:
        del copy[at:]
    return bytes(copy)


def outcomes(read, data, count, **options):
    """Count what comes of damaged copies: "read", or the name of an error class.

    Any other error than a CheckpointError is raised, and messages can be printed.
    """
    counts = collections.Counter()
    for copy in copies(data, count, **options):
        try:
            read(copy)
            counts["read"] += 1
        except errors.CheckpointError as error:
            assert str(error).isprintable()
            counts[type(error).__name__] += 1
    return counts
