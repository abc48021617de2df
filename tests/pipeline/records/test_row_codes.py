"""The codes of manifest.jsonl."""

import re

from pipeline.records import row_codes
from tests.support import files


def test_the_page_on_the_format_explains_every_code():
    text = (files.ROOT / "tfrecords" / "README.md").read_text()
    tables = "".join(line for line in text.splitlines(True) if line.startswith("| `"))
    codes = {code.value for code in row_codes.Code}
    assert codes <= set(re.findall("`([^`]+)`", tables))
