import collections

from pipeline.records import count_tables, manifest


def test_a_class_may_be_called_total():
    tally = manifest.Tally(["a", "total", "(no class)"])
    for class_name in ("a", "total", "total", "(no class)", "elsewhere"):
        tally.add(class_name, "copied", "train", 1)
    rows = [
        line.rsplit(None, 8) for line in count_tables.conversion(tally).splitlines()
    ]
    assert [(row[0].strip(), row[1]) for row in rows[1:]] == [
        ("a", "1"),
        ("total", "2"),
        ("(no class)", "1"),
        ("(no class)", "1"),
        ("total", "5"),
    ]
    counts = collections.defaultdict(lambda: {"train": 2, "validation": 1, "test": 1})
    _ = counts["total"], counts["z"]
    rows = [line.split() for line in count_tables.splits(counts).splitlines()[1:]]
    assert [row[:2] for row in rows] == [["total", "2"], ["z", "2"], ["total", "4"]]
