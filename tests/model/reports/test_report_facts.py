import dataclasses
import json

import pytest

from model.evaluation import evaluation_settings
from model.reports import report_facts
from model.runs import run_folder
from model.training import settings
from model.weights import weight_settings
from pipeline.records.manifest_row import Code
from tests.support import evaluated_runs


class TestCommandLine:
    def test_flags_at_their_default_are_left_out(self):
        command = report_facts.command_line("evaluate.py", evaluation_settings.Config())
        assert command == "python evaluate.py"

    def test_changed_flags_and_groups_of_flags_are_listed(self):
        config = settings.Config(
            epochs=3,
            keep_head=True,
            data="my records",
            overrides=weight_settings.Overrides(image_size=64),
        )
        command = report_facts.command_line("train.py", config)
        assert command == (
            "python train.py '--data=my records' --image_size=64 --keep_head --epochs=3"
        )

    def test_a_flag_that_is_off_has_the_prefix_no(self):
        command = report_facts.command_line(
            "evaluate.py", evaluation_settings.Config(report=False, tta="flip")
        )
        assert command == "python evaluate.py --tta=flip --noreport"


class TestLedger:
    def test_ledger_counts_tensors_and_unchanged_variables(self, found, tmp_path):
        finished = evaluated_runs.write_run(tmp_path / "run", found)
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

    def test_a_frozen_variable_that_changed_is_counted(self, found, tmp_path):
        finished = evaluated_runs.write_run(tmp_path / "run", found)
        path = finished.directory / "ledger.json"
        content = json.loads(path.read_text())
        content["frozen"][0]["sha256_after"] = "b"
        path.write_text(json.dumps(content))
        assert report_facts.ledger(finished)["unchanged"] == 0

    @pytest.mark.parametrize("text", ["", "[]", '{"tensors": [{}], "frozen": []}'])
    def test_a_damaged_ledger_is_a_named_error(self, found, tmp_path, text):
        finished = evaluated_runs.write_run(tmp_path / "run", found)
        (finished.directory / "ledger.json").write_text(text)
        with pytest.raises(run_folder.RunError, match=r"ledger\.json: damaged"):
            report_facts.ledger(finished)


def with_one_red_training_photo(records):
    """Return the rows of records, all but one red training photo skipped."""
    reds = [row for row in records.included("train") if row.class_name == "red"]
    return tuple(
        row.skipped(Code.EMPTY, "empty file") if row in reds[1:] else row
        for row in records.rows
    )


class TestData:
    def test_skipped_files_are_grouped_by_reason(self, found):
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
        assert any(
            "fewer than 10 photos were evaluated" in line for line in data["warnings"]
        )

    def test_only_some_of_many_paths_are_listed(self, found):
        rows = tuple(row.skipped(Code.EMPTY, "empty file") for row in found.rows)
        changed = dataclasses.replace(found, rows=rows)
        data = report_facts.data(changed, "test", own=True)
        (group,) = data["skipped"]
        assert len(group["photos"]) == 30
        assert group["more"] == len(rows) - 30
        assert "no photos were evaluated of blue, green, red" in data["warnings"]

    def test_classes_of_very_unequal_size_are_a_warning(self, found):
        rows = with_one_red_training_photo(found)
        changed = dataclasses.replace(found, rows=rows)
        data = report_facts.data(changed, "test", own=True)
        line = "16 training photos of blue, 1 of red: --class_weights=balanced"
        assert any(warning.startswith(line) for warning in data["warnings"])

    def test_grouped_photos_are_a_note(self, found):
        rows = list(found.rows)
        rows[1] = dataclasses.replace(rows[1], group=rows[0].group)
        changed = dataclasses.replace(found, rows=tuple(rows))
        data = report_facts.data(changed, "all", own=True)
        assert data["warnings"] == []
        assert data["notes"] == [
            "2 photos belong to groups of copies, of near-duplicates, or of "
            "--group_by; each group lies within one split."
        ]

    def test_corrected_labels_are_a_note(self, found):
        rows = [dataclasses.replace(r, corrected_from="pink") for r in found.rows[:2]]
        for number, text in ((1, "1 label corrected."), (2, "2 labels corrected.")):
            changed = (*rows[:number], *found.rows[number:])
            records = dataclasses.replace(found, rows=changed)
            assert report_facts.data(records, "all", own=True)["notes"] == [text]

    def test_other_records_have_no_splits_and_no_training_warnings(self, found):
        """A single red training photo does not matter if nothing was trained on it."""
        rows = list(with_one_red_training_photo(found))
        rows[1] = dataclasses.replace(rows[1], group=rows[0].group)
        changed = dataclasses.replace(found, rows=tuple(rows))
        data = report_facts.data(
            changed, "all", own=False, class_names=("blue", "green", "pink", "red")
        )
        assert data["columns"] == ("evaluated",)
        assert data["counts"]["blue"] == {"evaluated": 20}
        num_red = sum(row.is_included and row.class_name == "red" for row in rows)
        assert data["counts"]["red"] == {"evaluated": num_red}
        assert data["warnings"] == [
            "no photos were evaluated of pink",
            "fewer than 10 photos were evaluated of red: their figures are uncertain",
        ]
        (note,) = data["notes"]
        assert "split" not in note


class TestTemperature:
    @pytest.mark.parametrize(
        ("split", "seen", "words"),
        [
            ("test", 0, "split, not on these photos."),
            ("train", 9, "split, not on these photos."),
            ("all", 0, "split, not on these photos."),  # other photos
            ("validation", 9, "split, and so on these photos: the error on new"),
            ("all", 9, "split, and so on some of these photos: the error on new"),
        ],
    )
    def test_the_text_says_what_the_temperature_was_fitted_on(self, split, seen, words):
        figures = {"split": split, "photos_seen": seen, "temperature": 1.5}
        text = report_facts.temperature(figures)
        assert words in text
        assert "bound" not in text

    @pytest.mark.parametrize("temperature", [0.05, 20.0])
    def test_a_temperature_at_a_bound_is_a_warning(self, temperature):
        figures = {"split": "test", "photos_seen": 0, "temperature": temperature}
        words = "at a bound of the search, 0.05 to 20: the probabilities are not"
        assert words in report_facts.temperature(figures)
