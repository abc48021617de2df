import collections

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grouping import near_duplicates, photo_groups, photo_selection
from pipeline.grouping.thumbnail_comparison import PAIR, Thumbnails
from pipeline.records.manifest_row import Row

NONE = np.zeros(0, np.int64)
PHOTO = st.tuples(
    st.integers(0, 12),  # content: photos of the same one are copies
    st.sampled_from("ab"),  # class
    st.sampled_from(["", "", "", "train", "validation", "test"]),  # split it had
    st.booleans(),  # whether it has a record
    st.sampled_from([None, None, "x", "y"]),  # what the user's pattern finds
)


def row(number, content, class_name, split, is_included):
    return Row(
        path=f"{class_name}/{number}.jpg",
        class_name=class_name,
        sha256=f"{content:064x}",
        source_bytes=1,
        action="copied" if is_included else "skipped",
        split=split,
    )


@given(
    st.lists(PHOTO, min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=10),
)
def test_new_photos_of_a_group_share_a_split_and_known_ones_keep_theirs(photos, links):
    before = [row(number, *photo[:4]) for number, photo in enumerate(photos)]
    pairs = [
        (first, second)
        for first, second in links
        if first != second
        and max(first, second) < len(before)
        and before[first].is_included
        and before[second].is_included
    ]
    similar = near_duplicates.NearDuplicates(
        pairs=np.array(pairs, np.int64).reshape(-1, 2),
        identical=NONE.reshape(-1, 2),
        indices=NONE,
        thumbnails=Thumbnails(NONE),
        proposed=np.zeros(0, PAIR),
    )
    keys = [key and (key,) for *_, key in photos]
    groups = photo_groups.PhotoGroups(similar=similar, user_keys=keys)
    after = list(before)
    photo_selection.assign_splits(
        after, groups, {"a": 0, "b": 1}, seed=0, shares={"validation": 0.1, "test": 0.1}
    )
    splits = collections.defaultdict(set)
    for old, new in zip(before, after, strict=True):
        assert new.split == old.split or not old.split
        assert bool(new.split) or not new.is_included
        if new.is_included:
            splits[new.group].add(new.split)
    for group in groups.together(after):
        names = {after[index].group for index in group}
        assert names == {min(after[index].sha256 for index in group)}
        had = {before[index].split for index in group} - {""}
        has = splits[names.pop()]
        assert has == had or (not had and len(has) == 1)
