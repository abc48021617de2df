"""The records of a run, where they were and elsewhere; those of others."""

import dataclasses
from pathlib import Path

import pytest

from model.runs import finished_run, run_records
from pipeline.system.errors import DataError


def of(found, path):
    """A run that was trained on these records, which lay there."""
    data = {"path": str(path), "manifest_digest": found.digest}
    return finished_run.FinishedRun(directory=Path("runs/a"), config={"data": data})


def test_records_are_read_where_training_read_them(found):
    finished = of(found, found.directory)
    assert run_records.read(finished).digest == found.digest


def test_moved_records_are_named_by_data(found, tmp_path):
    finished = of(found, tmp_path / "gone")
    with pytest.raises(DataError, match=r"gone: .*--data=FOLDER"):
        run_records.read(finished)
    moved = run_records.read(finished, str(found.directory))
    assert moved.digest == found.digest


def test_records_that_were_split_again_are_refused(found, tmp_path):
    """The advice fits commands that have no --another_dataset."""
    rows = [
        dataclasses.replace(row, split="train") if row.split == "test" else row
        for row in found.rows
    ]
    dataclasses.replace(found, rows=tuple(rows)).stage(tmp_path)
    for finished, data in (
        (of(found, tmp_path), ""),
        (of(found, "gone"), str(tmp_path)),
    ):
        with pytest.raises(DataError, match="not the records that run") as raised:
            run_records.read(finished, data)
        assert "another_dataset" not in str(raised.value)
