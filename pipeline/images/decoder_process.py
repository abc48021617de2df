"""Decode one image file after another, as a child process of isolated_decoder.

Arguments: most pixels of an image, longest short side of a record's image in pixels.
A request is a file. Its answer is {"error": sentence, "kind": a row_codes.Code}, or
the fields of record_image.RecordImage. If those come without bytes, the record's image
is the file itself.
"""

import sys
from collections.abc import Iterator

from pipeline.images import opencv, record_image
from pipeline.images.errors import ImageError
from pipeline.system import sandbox, standard_error

# Memory for libraries and what they keep. And for each pixel, in the worst case: 16
# bits and 4 channels, twice, and what is made of them.
_LIBRARY_BYTES = 1 << 30
_BYTES_PER_PIXEL = 32


def main() -> None:
    """Answer requests until the parent ends."""
    max_pixels, resize_min = map(int, sys.argv[1:])
    messages = standard_error.Collector()
    opencv.use_one_thread()
    sandbox.limit_memory(_LIBRARY_BYTES + _BYTES_PER_PIXEL * max_pixels)

    def answers(
        _: sandbox.Header, data: bytes
    ) -> Iterator[tuple[sandbox.Header, bytes]]:
        try:
            image = record_image.encode_for_record(
                data, resize_min=resize_min, messages=messages
            )
        except ImageError as error:
            yield {"error": str(error), "kind": error.kind}, b""
        else:
            fields = dict(vars(image))
            encoded = fields.pop("encoded")
            yield fields, b"" if image.action == "copied" else encoded

    sandbox.serve(answers)
