import dataclasses
import json

import pytest

import evaluate
from model.reports import report_facts
from model.runs import run_folder
from model.training import settings
from model.weights import preprocessing_overrides
from pipeline.records.reasons import Code
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
            overrides=preprocessing_overrides.Overrides(image_size=64),
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
        with pytest.raises(run_folder.RunError, match=r"ledger\.json: cannot be read"):
            report_facts.ledger(finished)


class TestData:
    def test_counts_reasons_and_files(self, found):
        rows = list(found.rows)
        rows[0] = rows[0].skipped(Code.UNDECODABLE, "JPEG that does not decode")
        rows[1] = rows[1].skipped(Code.UNDECODABLE, "PNG that does not decode")
        rows[2] = rows[2].skipped(Code.EMPTY, "empty file")
        changed = dataclasses.replace(found, rows=tuple(rows))
        data = report_facts.data(changed, "test", own=True)
        assert data["files"]["skipped"] == 3
        first, second = data["skipped"]
        assert (first["reason"], first["count"]) == ("undecodable", 2)
        assert first["photos"][0] == (rows[0].path, rows[0].reason)
        assert second["reason"] == "empty"
        assert [group["reason"] for group in data["reencoded"]] == ["not jpeg"]
        assert any("fewer than 10 photos judged" in line for line in data["warnings"])

    def test_of_many_paths_some(self, found):
        rows = tuple(row.skipped(Code.EMPTY, "empty file") for row in found.rows)
        data = report_facts.data(
            dataclasses.replace(found, rows=rows), "test", own=True
        )
        (group,) = data["skipped"]
        assert len(group["photos"]) == 30
        assert group["more"] == len(rows) - 30
        assert "no photo judged of blue, green, red" in data["warnings"]

    def test_classes_of_unequal_size(self, found):
        reds = [row for row in found.included("train") if row.class_name == "red"]
        left_out = {row.path for row in reds[1:]}
        rows = tuple(
            row.skipped(Code.EMPTY, "empty file") if row.path in left_out else row
            for row in found.rows
        )
        data = report_facts.data(
            dataclasses.replace(found, rows=rows), "test", own=True
        )
        line = "16 training photos of blue, 1 of red: --class_weights=balanced"
        assert any(warning.startswith(line) for warning in data["warnings"])

    def test_copies(self, found):
        rows = list(found.rows)
        rows[1] = dataclasses.replace(rows[1], group=rows[0].group)
        changed = dataclasses.replace(found, rows=tuple(rows))
        data = report_facts.data(changed, "all", own=True)
        assert data["warnings"] == []
        assert data["notes"] == [
            "2 photos belong to groups of copies, near-duplicates or of what "
            "--group_by finds alike; each group lies within one split."
        ]

    def test_of_other_photos_nothing_is_said_of_training(self, found):
        """One red training photo is no warning where nothing was trained on them."""
        reds = [row for row in found.included("train") if row.class_name == "red"]
        left_out = {row.path for row in reds[1:]}
        rows = [
            row.skipped(Code.EMPTY, "empty file") if row.path in left_out else row
            for row in found.rows
        ]
        rows[1] = dataclasses.replace(rows[1], group=rows[0].group)
        changed = dataclasses.replace(found, rows=tuple(rows))
        data = report_facts.data(
            changed, "all", own=False, class_names=("blue", "green", "pink", "red")
        )
        assert data["columns"] == ("judged",)
        assert data["counts"]["blue"] == {"judged": 20}
        assert data["counts"]["red"] == {"judged": 21 - len(reds)}
        assert data["warnings"] == [
            "no photo judged of pink",
            "fewer than 10 photos judged of red: their figures say little",
        ]
        (note,) = data["notes"]
        assert "split" not in note


class TestTemperature:
    @pytest.mark.parametrize(
        ("split", "seen", "words"),
        [
            ("test", 0, "split and never on these photos."),
            ("train", 9, "split and never on these photos."),
            ("all", 0, "split and never on these photos."),  # other photos
            ("validation", 9, "split, and so on these photos: of new ones"),
            ("all", 9, "split, and so on some of these photos: of new ones"),
        ],
    )
    def test_what_it_was_fitted_on(self, split, seen, words):
        figures = {"split": split, "photos_seen": seen, "temperature": 1.5}
        told = report_facts.temperature(figures)
        assert words in told
        assert "bound" not in told

    @pytest.mark.parametrize("temperature", [0.05, 20.0])
    def test_at_its_bound(self, temperature):
        figures = {"split": "test", "photos_seen": 0, "temperature": temperature}
        words = "at the bound of what is tried, 0.05 to 20: the probabilities are not"
        assert words in report_facts.temperature(figures)
