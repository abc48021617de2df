"""The records of a run, where they were and elsewhere; those of others."""

import dataclasses
from pathlib import Path

import pytest

from model.runs import finished_run, run_records
from pipeline.system.errors import DataError


def run_on(records, path):
    """Return a run that was trained on these records when they lay at `path`."""
    data = {"path": str(path), "manifest_digest": records.digest}
    return finished_run.FinishedRun(directory=Path("runs/a"), config={"data": data})


def test_records_are_read_where_they_are_now(found, tmp_path):
    assert run_records.read(run_on(found, found.directory)).digest == found.digest
    run = run_on(found, tmp_path / "gone")
    with pytest.raises(DataError, match=r"gone: .*--data=FOLDER"):
        run_records.read(run)
    assert run_records.read(run, str(found.directory)).digest == found.digest


@pytest.mark.parametrize("is_moved", [False, True])
def test_records_that_were_split_again_are_refused(found, tmp_path, is_moved):
    """The advice fits commands that have no --another_dataset."""
    rows = [
        dataclasses.replace(row, split="train") if row.split == "test" else row
        for row in found.rows
    ]
    dataclasses.replace(found, rows=tuple(rows)).stage(tmp_path)
    run = run_on(found, "gone" if is_moved else tmp_path)
    with pytest.raises(DataError, match="not the records that run") as raised:
        run_records.read(run, str(tmp_path) if is_moved else "")
    assert "another_dataset" not in str(raised.value)
