"""Data sets as earlier versions of Graft wrote them."""

import hashlib
import json

from pipeline.records import manifest


def rewrite_as_version_1(directory):
    """Takes the codes out of a data set, and digests whole rows, as version 1 did."""
    head_path, rows_path = (
        directory / name for name in (manifest.HEAD_NAME, manifest.ROWS_NAME)
    )
    lines = []
    for line in rows_path.read_text().splitlines():
        row = json.loads(line)
        del row["codes"]
        lines.append(json.dumps(row, separators=(",", ":")) + "\n")
    rows_path.write_text("".join(lines))
    head = json.loads(head_path.read_text())
    text = json.dumps(head["class_names"]) + "\n" + "".join(lines)
    head |= {"format_version": 1, "digest": hashlib.sha256(text.encode()).hexdigest()}
    head_path.write_text(json.dumps(head, indent=2) + "\n")
