import dataclasses
import json

import pytest

import evaluate
from model import inputs, report_facts, run, settings
from tests.model import judgements


class TestCommandLine:
    def test_defaults_go_unsaid(self):
        found = report_facts.command_line("evaluate.py", evaluate.Config())
        assert found == "python evaluate.py"

    def test_flags_and_groups_of_flags(self):
        config = settings.Config(
            epochs=3,
            keep_head=True,
            data="my records",
            overrides=inputs.Overrides(image_size=64),
        )
        found = report_facts.command_line("train.py", config)
        assert found == (
            "python train.py '--data=my records' --image_size=64 --keep_head --epochs=3"
        )

    def test_a_flag_that_is_switched_off(self):
        found = report_facts.command_line(
            "evaluate.py", evaluate.Config(report=False, tta="flip")
        )
        assert found == "python evaluate.py --tta=flip --noreport"


class TestLedger:
    def test_counts_and_proof(self, found, tmp_path):
        finished = judgements.write_run(tmp_path / "run", found)
        ledger = report_facts.ledger(finished)
        assert {row["status"]: row["count"] for row in ledger["counts"]} == {
            "restored": 1,
            "new": 1,
            "skipped": 0,
            "mismatched": 0,
            "unused": 1,
        }
        assert ledger["counts"][-1]["names"] == ["<i>fc8</i>"]
        assert (ledger["frozen"], ledger["unchanged"]) == (1, 1)

    def test_a_variable_that_moved(self, found, tmp_path):
        finished = judgements.write_run(tmp_path / "run", found)
        path = finished.directory / "ledger.json"
        content = json.loads(path.read_text())
        content["frozen"][0]["sha256_after"] = "b"
        path.write_text(json.dumps(content))
        assert report_facts.ledger(finished)["unchanged"] == 0

    @pytest.mark.parametrize("text", ["", "[]", '{"tensors": [{}], "frozen": []}'])
    def test_damaged(self, found, tmp_path, text):
        finished = judgements.write_run(tmp_path / "run", found)
        (finished.directory / "ledger.json").write_text(text)
        with pytest.raises(run.RunError, match=r"ledger\.json: cannot be read"):
            report_facts.ledger(finished)


class TestData:
    def test_counts_reasons_and_files(self, found):
        rows = list(found.rows)
        rows[0] = rows[0].skipped("JPEG that does not decode: cut off or damaged")
        rows[1] = rows[1].skipped("JPEG that does not decode: otherwise")
        rows[2] = rows[2].skipped("empty file")
        changed = dataclasses.replace(found, rows=tuple(rows))
        data = report_facts.data(changed, "test")
        assert data["files"]["skipped"] == 3
        first, second = data["skipped"]
        assert (first["reason"], first["count"]) == ("JPEG that does not decode", 2)
        assert first["photos"][0] == (rows[0].path, rows[0].reason)
        assert second["reason"] == "empty file"
        assert [group["reason"] for group in data["reencoded"]] == ["PNG source"]
        assert any("fewer than 10 photos judged" in line for line in data["warnings"])

    def test_of_many_paths_some(self, found):
        rows = tuple(row.skipped("empty file") for row in found.rows)
        data = report_facts.data(dataclasses.replace(found, rows=rows), "test")
        (group,) = data["skipped"]
        assert len(group["photos"]) == 30
        assert group["more"] == len(rows) - 30
        assert "no photo judged of blue, green, red" in data["warnings"]

    def test_classes_of_unequal_size(self, found):
        reds = [row for row in found.taken("train") if row.class_name == "red"]
        left_out = {row.path for row in reds[1:]}
        rows = tuple(
            row.skipped("empty file") if row.path in left_out else row
            for row in found.rows
        )
        data = report_facts.data(dataclasses.replace(found, rows=rows), "test")
        line = "16 training photos of blue, 1 of red: --class_weights=balanced"
        assert any(warning.startswith(line) for warning in data["warnings"])

    def test_copies(self, found):
        rows = list(found.rows)
        rows[1] = dataclasses.replace(rows[1], group=rows[0].group)
        data = report_facts.data(dataclasses.replace(found, rows=tuple(rows)), "all")
        assert data["warnings"] == []
        assert data["notes"] == [
            "2 photos belong to groups of copies, near-duplicates or of what "
            "--group_by finds alike; each group lies within one split."
        ]
