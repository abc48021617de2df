from hypothesis import given
from hypothesis import strategies as st

from pipeline.grouping import photo_groups


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
