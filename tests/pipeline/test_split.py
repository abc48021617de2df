import dataclasses

import pytest

from pipeline import split
from pipeline.records import manifest, staging
from pipeline.system.errors import DataError


def copy(found, tmp_path):
    copied = dataclasses.replace(found, directory=tmp_path)
    with staging.staged(tmp_path) as partial:
        copied.stage(partial)
        staging.commit(tmp_path)
    return copied


def test_folds_change_the_manifest_but_no_record(found, tmp_path):
    before = copy(found, tmp_path)
    config = split.Config(data=str(tmp_path), folds=5, fold=2)
    split.resplit(config)
    after = manifest.read(tmp_path)
    assert {row.fold for row in after.included("test")} == {2}
    assert len(after.included("test")) == 12
    assert after.records_digest == before.records_digest
    assert after.digest != before.digest


def test_seed_and_shares_decide_the_split(found, tmp_path):
    copy(found, tmp_path)
    config = split.Config(
        data=str(tmp_path), seed=5, validation_share=0.25, test_share=0.25
    )
    split.resplit(config)
    after = manifest.read(tmp_path)
    assert (after.info.seed, after.info.shares["test"]) == (5, 0.25)
    assert len(after.included("test")) == len(after.included("validation")) == 15


@pytest.mark.parametrize("folds", [61, 40_000, 10**9])
def test_more_folds_than_groups_are_refused(found, folds):
    config = split.Config(data=str(found.directory), folds=folds)
    with pytest.raises(DataError, match=r"for 60 groups .* Choose fewer"):
        split.split_rows(config, found)
    split.split_rows(dataclasses.replace(config, folds=60), found)


def test_the_same_split_again_writes_nothing(found, tmp_path):
    copy(found, tmp_path)
    head = tmp_path / manifest.HEAD_NAME
    before = head.stat().st_mtime_ns
    split.resplit(split.Config(data=str(tmp_path), seed=found.info.seed))
    assert head.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "how",
    [
        {"folds": 1},
        {"folds": 5, "fold": 5},
        {"fold": 1},
        {"validation_share": 0.5, "test_share": 0.5},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(how):
    with pytest.raises(ValueError, match="--"):
        split.Config(**how)
