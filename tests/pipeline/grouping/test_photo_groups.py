from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grouping import photo_groups
from pipeline.sources.photo_source import Source, SourcePhoto


@given(
    st.lists(
        st.lists(st.integers(0, 29), min_size=2, max_size=2, unique=True), max_size=60
    )
)
def test_pairs_connect_groups(pairs):
    expected = {number: {number} for pair in pairs for number in pair}
    for first, second in pairs:
        both = expected[first] | expected[second]
        expected |= dict.fromkeys(both, both)
    groups = photo_groups.connect(pairs)
    different = {frozenset(group) for group in expected.values()}
    assert groups == sorted(map(sorted, different))


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        (r"p\d+_", [("p1_",), ("p1_",), None]),
        (r"(p)(\d)", [("p", "1"), ("p", "1"), ("p", "2")]),
        ("^./p1", [("a/p1",), ("b/p1",), None]),
    ],
)
def test_a_pattern_groups_by_its_match_or_its_groups(pattern, keys):
    paths = ("a/p1_x.jpg", "b/p1_y.jpg", "b/p2.jpg")
    photos = [SourcePhoto(path=path, class_name=path[0]) for path in paths]
    names = ("a", "b")
    source = Source(kind="lists", root=Path(), class_names=names, photos=photos)
    assert photo_groups.find_user_keys(source, pattern) == keys
