"""Define the settings of evaluate.py."""

import dataclasses
import functools
from collections.abc import Sequence

from model.weights import weight_settings
from pipeline.system import config_flags

_setting = functools.partial(config_flags.setting, basic=True)
_subject = functools.partial(_setting, group="What to evaluate")
_list = functools.partial(config_flags.setting, group="What to evaluate")
_photos = functools.partial(_setting, group="Photos")
_results = functools.partial(_setting, group="Results")
_least = functools.partial(_results, 0.0, lower=0, upper=1)
GATES = {"min_accuracy": "accuracy", "min_balanced_accuracy": "balanced accuracy"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of an evaluation."""

    run_dir: str = _subject(
        "runs/latest",
        "Run to evaluate; runs/latest is the newest run, best the one with the lowest "
        "validation loss on the newest data.",
        value="FOLDER",
    )
    runs: str = _subject(
        "",
        "Runs to compare on the same photos, separated by commas: compares the first "
        "with each of the others.",
        value="FOLDERS",
    )
    strangers: str = _subject(
        "",
        "Folder of photos that show none of the classes: measures how well the run "
        "recognises them.",
        value="FOLDER",
    )
    list: bool = _subject(False, "Lists all runs with their figures, newest first.")
    runs_dir: str = _list("runs", "Folder whose runs --list shows.", value="FOLDER")
    sort: str = _list(
        "time", "Order of --list: newest or best first.", choices=("time", "accuracy")
    )
    json: bool = _list(False, "Prints --list as JSON.")
    ckpt: str = weight_settings.ckpt()
    arch: str = weight_settings.arch()
    labels: str = weight_settings.labels()
    overrides: weight_settings.Overrides = weight_settings.AS_WEIGHTS
    data: str = _photos(
        "",
        "Folder of records, or a folder with one folder of photos per class; by "
        "default the run's own records.",
        value="FOLDER",
    )
    layout: str = _photos(
        "", "Meaning of the folders in --data, as for pipeline.convert.", value="LAYOUT"
    )
    another_dataset: bool = _photos(
        False,
        "States that --data is another data set than the run's; its classes must be "
        "among the run's.",
    )
    split: str = _photos(
        "test",
        "Part of the records to evaluate; test was never trained on. Folders of photos "
        "and --ckpt default to all instead.",
        choices=("train", "validation", "test", "all"),
    )
    batch_size: int = _photos(
        64, "Photos per step; smaller batches need less memory.", lower=1, upper=1 << 12
    )
    tta: str = _photos(
        "none",
        "Test-time augmentation, views of each photo whose predictions are averaged: "
        "the central crop (none), also mirrored (flip), also the corners (ten_crop).",
        choices=("none", "flip", "ten_crop"),
    )
    report: bool = _results(True, "Writes an HTML report.")
    min_accuracy: float = _least(
        "Ends with exit code 2 if the accuracy, a number from 0 to 1, is lower than "
        "this."
    )
    min_balanced_accuracy: float = _least(
        "Ends with exit code 2 if the balanced accuracy, the mean of the classes' "
        "recalls, from 0 to 1, is lower than this."
    )

    def __post_init__(self) -> None:
        config_flags.check(self)
        if self.layout and not self.data:
            raise ValueError("--layout: expected --data, a folder of photos")
        if self.list:
            self._refuse_with("list", ("run_dir", "runs", "ckpt"))
        elif name := self._changed("runs_dir", "sort", "json"):
            raise ValueError(f"--{name}: expected --list")
        if self.strangers:
            others = ("list", "runs", "ckpt", "split", "layout", "another_dataset")
            self._refuse_with("strangers", (*others, "tta", "report", *GATES))
        if self.runs:
            names = ("run_dir", "ckpt", "arch", "labels", "overrides", "tta", "report")
            self._refuse_with("runs", (*names, *GATES))
            folders = self.runs.split(",")
            if len(folders) < 2 or not all(folders):
                raise ValueError(
                    f"--runs={self.runs}: expected two or more folders, separated by "
                    "commas"
                )
            if self.another_dataset and not self.data:
                raise ValueError("--runs and --another_dataset: expected --data too")
        elif self.ckpt:
            self._refuse_with("ckpt", ("run_dir", "another_dataset"))
            if not self.data:
                raise ValueError("--ckpt: expected --data with photos or records")
        else:
            weight_settings.refuse_without_ckpt(self)

    def _refuse_with(self, chosen: str, names: Sequence[str]) -> None:
        if name := self._changed(*names):
            other = "preprocessing" if name == "overrides" else f"--{name}"
            raise ValueError(f"--{chosen} and {other}: expected only one of them")

    def _changed(self, *names: str) -> str:
        """Return the first of these settings that is not the default; "" if all are."""
        differ = (n for n in names if getattr(self, n) != getattr(type(self), n))
        return next(differ, "")
