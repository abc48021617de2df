"""JPEGs with EXIF, whole and damaged."""

import struct


def tiff(value, order="<", tag=0x0112, before=0, count=None):
    """An image directory with some other entries first."""
    entries = [(0x010F, 9)] * before + [(tag, value)]
    count = len(entries) if count is None else count
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = b"".join(struct.pack(order + "HHIHH", t, 3, 1, v, 0) for t, v in entries)
    return head + struct.pack(order + "H", count) + body + b"\0\0\0\0"


def segment(content, marker=0xE1, length=None):
    length = len(content) + 2 if length is None else length
    return bytes((0xFF, marker)) + struct.pack(">H", length) + content


def turned(data, orientation):
    """A JPEG that says it lies so."""
    return data[:2] + segment(b"Exif\0\0" + tiff(orientation)) + data[2:]
