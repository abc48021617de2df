"""Bytes of any image file to bytes of a record; the one place that decodes."""
