from pipeline.system import tables


def test_names_are_left_and_numbers_right():
    lines = tables.table(("class", "n"), [("rose", 12), ("asters", 3)])
    assert lines == ["class    n", "rose    12", "asters   3"]


def test_a_missing_cell_is_a_dash():
    assert tables.table(("a", "b"), [("x", None)])[1] == "x  -"


def test_several_columns_can_be_left():
    lines = tables.table(("a", "kind", "n"), [("x", "b", 1)], left=2)
    assert lines == ["a  kind  n", "x  b     1"]
