import collections

from pipeline.records import count_tables, manifest
from pipeline.records.manifest_row import Row


def test_a_class_may_be_called_total():
    rows = [
        Row(
            path=f"{number}.jpg",
            class_name=class_name,
            sha256="",
            source_bytes=1,
            action="copied",
            split="train",
        )
        for number, class_name in enumerate(
            ("a", "total", "total", "(no class)", "elsewhere")
        )
    ]
    tally = manifest.Tally(["a", "total", "(no class)"], rows)
    lines = [
        line.rsplit(None, 8) for line in count_tables.conversion(tally).splitlines()
    ]
    assert [(line[0].strip(), line[1]) for line in lines[1:]] == [
        ("a", "1"),
        ("total", "2"),
        ("(no class)", "1"),
        ("(no class)", "1"),
        ("total", "5"),
    ]
    counts = collections.defaultdict(lambda: {"train": 2, "validation": 1, "test": 1})
    _ = counts["total"], counts["z"]
    lines = [line.split() for line in count_tables.splits(counts).splitlines()[1:]]
    assert [line[:2] for line in lines] == [["total", "2"], ["z", "2"], ["total", "4"]]
