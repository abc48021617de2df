from pipeline.system import tables


def test_columns_are_aligned_and_missing_cells_are_dashes():
    lines = tables.table(("class", "n"), [("rose", 12), ("asters", None)])
    assert lines == ["class    n", "rose    12", "asters   -"]
    lines = tables.table(("a", "kind", "n"), [("x", "b", 1)], left=2)
    assert lines == ["a  kind  n", "x  b     1"]
