"""Split bytes into protobuf fields; the wire format only, no messages.

Every length is checked against the message it lies in before it is used.
Source: protobuf.dev/programming-guides/encoding.
"""

import dataclasses
from collections.abc import Iterator

from model.checkpoints import errors

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MAX_FIELDS = 1_000_000  # in one file; no model has so many


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A field of a message."""

    number: int  # as the message's definition has it
    kind: int  # wire type: VARINT, FIXED64, BYTES or FIXED32
    start: int  # byte of the file where the value begins
    end: int  # the byte after it
    value: int  # an unsigned number; 0 for BYTES


class Wire:
    """A file as protobuf messages."""

    _fields_left = _MAX_FIELDS

    def __init__(self, data: bytes, where: str) -> None:
        """Take the file's bytes, without a copy, and its name for errors."""
        self.data = data
        self.where = where

    def corrupt(self, problem: str, at: int) -> errors.CorruptCheckpoint:
        """Return the error for a problem at a byte."""
        return errors.CorruptCheckpoint(
            f"{self.where}: {problem} at byte {at:,}; the file is damaged or cut off, "
            "download or copy it again"
        )

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at a byte, below 2^64, and the byte after it."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
        raise self.corrupt("a number that does not end", at)

    def varints(self, at: int, end: int, count: int) -> tuple[list[int], int]:
        """Return the `count` numbers that begin at a byte, and the byte after them."""
        numbers = []
        for _ in range(count):
            number, at = self.varint(at, end)
            numbers.append(number)
        return numbers, at

    def field(self, at: int, end: int) -> Field:
        """Return the field that begins at `at`, in a message that ends at `end`."""
        self._fields_left -= 1
        if self._fields_left < 0:
            raise self.corrupt(f"more than {_MAX_FIELDS:,} fields", at)
        tag, begin = self.varint(at, end)
        number, kind = tag >> 3, tag & 7
        value = 0
        if kind == VARINT:
            value, stop = self.varint(begin, end)
        elif kind == BYTES:
            length, begin = self.varint(begin, end)
            stop = begin + length
        elif kind in _FIXED_BYTES:
            stop = begin + _FIXED_BYTES[kind]
            value = int.from_bytes(self.data[begin:stop], "little")
        else:
            raise self.corrupt(f"field {number} of unknown kind {kind}", begin)
        if stop > end or not number:
            raise self.corrupt(f"field {number} that runs past its message", begin)
        return Field(number, kind, begin, stop, value)

    def span(self, message: Field | None) -> tuple[int, int]:
        """Return where the message in a field begins and ends; None is the file."""
        if message is None:
            return 0, len(self.data)
        if message.kind != BYTES:
            problem = f"field {message.number} that is not a message"
            raise self.corrupt(problem, message.start)
        return message.start, message.end

    def fields(self, message: Field | None = None) -> Iterator[Field]:
        """Yield the fields of the message in a field; None is the whole file."""
        at, end = self.span(message)
        while at < end:
            field = self.field(at, end)
            at = field.end
            yield field

    def numbers(self, field: Field) -> Iterator[int]:
        """Yield the numbers of a repeated field: one, or several that are packed."""
        if field.kind == VARINT:
            yield field.value
            return
        at, end = self.span(field)
        while at < end:
            number, at = self.varint(at, end)
            yield number

    def by_number(self, message: Field | None = None) -> dict[int, Field]:
        """Return {number: the last field of that number} of a message."""
        return {field.number: field for field in self.fields(message)}

    def text(self, field: Field) -> str:
        """Return the value of a text field."""
        if field.kind != BYTES:
            raise self.corrupt(f"field {field.number}, expected text,", field.start)
        return self.data[field.start : field.end].decode("utf-8", "replace")
