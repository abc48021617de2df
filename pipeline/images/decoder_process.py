"""The process that decodes one image file after the other; started by decoders.py.

It may crash, hang or be taken over by what it reads, so it has nothing but two pipes:
files come in on standard input, answers leave on standard output.

    to begin   the byte READY, once
    request    uint64 length, the file
    answer     uint32 length, JSON, encoded image
               {"error": sentence, "kind": one of reasons.Code}, or the fields of
               record_image.RecordImage with "size", the length of the encoded image:
               0 where it is the file itself

Numbers are little-endian.
"""

import dataclasses
import json
import os
import resource
import signal
import sys
from typing import Any, BinaryIO

from pipeline.images import record_image

READY = b"\x06"
LENGTH_BYTES = 8
ANSWER_BYTES = 4
# Of memory, beside the pixels: libraries and what they keep. And for each pixel, in the
# worst case: 16 bits and 4 channels, twice, and what is made of them.
_OWN_BYTES = 1 << 30
_BYTES_PER_PIXEL = 32


def main() -> None:
    """Serves until standard input ends; its arguments are PIXELS, MIN and SECONDS.

    PIXELS is the most that an image may have, MIN the longest short side of a record,
    SECONDS how long one file may take before the process ends itself, should nobody be
    left to end it.
    """
    max_pixels, resize_min, seconds = map(int, sys.argv[1:4])
    source = os.fdopen(os.dup(0), "rb")
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    messages = record_image.DecoderMessages()
    record_image.use_one_thread()
    most = _OWN_BYTES + _BYTES_PER_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    target.write(READY)
    target.flush()
    while length := source.read(LENGTH_BYTES):
        data = source.read(int.from_bytes(length, "little"))
        signal.alarm(seconds)  # its default action ends the process
        header, encoded = answer(data, resize_min, messages)
        signal.alarm(0)
        _send(target, header, encoded)


def answer(
    data: bytes, resize_min: int, messages: record_image.DecoderMessages | None
) -> tuple[dict[str, Any], bytes]:
    """What is said of a file: the JSON and the encoded image."""
    try:
        found = record_image.encode_for_record(
            data, resize_min=resize_min, messages=messages
        )
    except record_image.ImageError as error:
        return {"error": str(error), "kind": error.kind}, b""
    except MemoryError:
        refused = record_image.no_memory()
        return {"error": str(refused), "kind": refused.kind}, b""
    encoded = b"" if found.action == "copied" else found.encoded
    fields = {
        field.name: getattr(found, field.name)
        for field in dataclasses.fields(found)
        if field.name != "encoded"
    }
    return {**fields, "size": len(encoded)}, encoded


def _send(target: BinaryIO, header: dict[str, Any], encoded: bytes) -> None:
    text = json.dumps(header).encode()
    target.write(len(text).to_bytes(ANSWER_BYTES, "little") + text + encoded)
    target.flush()
