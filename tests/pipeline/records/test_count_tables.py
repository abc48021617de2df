from pipeline.records import count_tables, manifest
from pipeline.records.manifest_row import Row


def test_a_class_may_be_called_total():
    rows = [
        Row(path="", class_name=name, sha256="", source_bytes=1, action="copied")
        for name in ("a", "total", "total", "(no class)", "elsewhere")
    ]
    tally = manifest.Tally(["a", "total", "(no class)"], rows)
    lines = count_tables.conversion(tally).splitlines()[1:]
    assert [line.rsplit(None, 7)[0].split("  ")[0] for line in lines] == [
        *("a", "total", "(no class)", "(no class)", "total")
    ]
    assert [line.rsplit(None, 8)[1] for line in lines] == ["1", "2", "1", "1", "5"]
    counts = {key: {"train": 2, "validation": 1, "test": 1} for key in ("total", "z")}
    lines = [line.split() for line in count_tables.splits(counts).splitlines()[1:]]
    assert [line[:2] for line in lines] == [["total", "2"], ["z", "2"], ["total", "4"]]
