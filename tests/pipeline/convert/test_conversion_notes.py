from pipeline.convert import conversion_notes
from pipeline.records import manifest
from pipeline.records.manifest_row import Row


def test_a_class_may_be_called_total():
    rows = [
        Row(path="", class_name=name, sha256="", source_bytes=1, action="copied")
        for name in ("a", "total", "total", "(no class)", "elsewhere")
    ]
    tally = manifest.Tally(["a", "total", "(no class)"], rows)
    lines = conversion_notes.counts(tally)[1:]
    assert [line.rsplit(None, 7)[0].split("  ")[0] for line in lines] == [
        *("a", "total", "(no class)", "(no class)", "total")
    ]
    assert [line.rsplit(None, 8)[1] for line in lines] == ["1", "2", "1", "1", "5"]
