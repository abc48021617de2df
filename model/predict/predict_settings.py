"""Define the settings of model.predict, and those that model.serve shares."""

import dataclasses
import functools
import itertools
import re

from model.weights import weight_settings
from pipeline.system import config_flags, file_system
from pipeline.system.remote import beam_jobs

_setting = functools.partial(config_flags.setting, basic=True)
_input = functools.partial(_setting, group="Run")
_answers = functools.partial(_setting, group="Predictions")
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(s|m|h|)", re.ASCII)
# Settings that do not go together with --suggest or --out.
_ALONE = ("explain", "every", "spans", "sort_into", "ckpt", "suggest", "out")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}

# Functions that make the fields of settings that model.serve shares.
run_dir = functools.partial(
    _input,
    "runs/latest",
    "Run whose network classifies the photos; runs/latest is the newest run, best the "
    "one with the lowest validation loss on the newest data.",
    value="FOLDER",
)
top = functools.partial(
    _answers, 5, "Number of most probable classes to report.", lower=1
)
unknown_below = functools.partial(
    _answers,
    0.0,
    "Answers `unknown` if the most probable class has a lower probability than this; "
    "0 always names a class.",
    lower=0,
    upper=1,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a prediction."""

    photos: tuple[str, ...] = config_flags.argument(
        "PHOTO", "Photos, or folders of photos, to classify.", many=True
    )
    run_dir: str = run_dir()
    ckpt: str = weight_settings.ckpt()
    arch: str = weight_settings.arch()
    labels: str = weight_settings.labels()
    overrides: weight_settings.Overrides = weight_settings.AS_WEIGHTS
    top: int = top()
    format: str = _answers(
        "text",
        "Format of the results on standard output: text for people, a CSV table, or a "
        "JSON object per line.",
        choices=("text", "csv", "jsonl"),
    )
    unknown_below: float = unknown_below()
    every: str = _answers(
        "",
        "Time from one frame of a video to the next, such as 0.5s or 2m; 1s by "
        "default. If it is set, videos in folders are classified too.",
        value="TIME",
    )
    spans: bool = config_flags.setting(
        False,
        "Lists spans of a video with the same class in place of its frames; text "
        "shows both by default.",
        group="Predictions",
    )
    explain: str = _answers(
        "",
        "Folder for one picture per photo, which shows where the network looked and "
        "the most similar training photos.",
        value="FOLDER",
    )
    suggest: int = _answers(
        0,
        "Number of photos to suggest for labelling: those that would teach the network "
        "most, with a page on which to label them.",
        lower=0,
        upper=2000,
    )
    suggest_into: str = _answers(
        "suggestions",
        "Folder for suggestions.csv and suggestions.html of --suggest.",
        value="FOLDER",
        basic=False,
    )
    sort_into: str = _answers(
        "",
        "Folder with one folder per class, into which the photos are copied; those "
        "without a class go to `unsure` and `none`. Nothing is moved or replaced.",
        value="FOLDER",
    )
    sort_as: str = _answers(
        "copies",
        "What --sort_into makes: copies of the photos, or symbolic links to them.",
        choices=("copies", "links"),
        basic=False,
    )
    sort_by: str = _answers(
        "",
        "CSV file with columns path and label, as the page of --suggest saves it: "
        "--sort_into sorts the photos of PHOTO, a folder, by these labels.",
        value="FILE",
        basic=False,
    )
    out: str = _answers(
        "",
        "Folder for predictions.jsonl and problems.jsonl. They are made in parts, so a "
        "command that was stopped can be run again.",
        value="FOLDER",
    )
    shard: str = config_flags.setting(
        "1/1",
        "Share of --out for this process: 3/100 is for the third of 100 processes. The "
        "last one joins the parts.",
        group="Predictions",
        value="N/COUNT",
    )
    runner: str = beam_jobs.runner(group="Predictions")
    beam_flags: tuple[str, ...] = ()  # --name=value, the runner's own
    data: str = _input(
        "",
        "New folder of the run's records, if they were moved; --explain and --suggest "
        "need them.",
        value="FOLDER",
    )
    batch_size: int = _input(
        64, "Photos per step; smaller batches need less memory.", lower=1, upper=1 << 12
    )

    def __post_init__(self) -> None:
        config_flags.check(self)
        if not self.every_s:
            raise ValueError(
                f"--every={self.every}: expected a time above 0, such as 1s, 0.5s or 2m"
            )
        if self.data and not (self.explain or self.suggest):
            raise ValueError("--data: expected --explain or --suggest, which need it")
        for first, name in itertools.product(("suggest", "out"), _ALONE):
            if name != first and getattr(self, first) and getattr(self, name):
                raise ValueError(f"--{first} and --{name}: expected only one of them")
        self._check_parts()
        if self.sort_by and not (self.sort_into and len(self.photos) == 1):
            raise ValueError(
                "--sort_by: expected --sort_into=FOLDER, too, and one folder of photos"
            )
        if not self.ckpt:
            weight_settings.refuse_without_ckpt(self)
        elif self.data or self.run_dir != type(self).run_dir:
            name = "data" if self.data else "run_dir"
            raise ValueError(f"--ckpt and --{name}: expected only one of them")

    def _check_parts(self) -> None:
        beam_jobs.check_flags(self)
        uses_beam, is_share = self.runner != beam_jobs.LOCAL, self.shard != "1/1"
        if uses_beam and is_share:
            raise ValueError("--runner and --shard: expected only one of them")
        if (uses_beam or is_share) and not self.out:
            raise ValueError("--runner, --shard: expected --out=FOLDER, too")
        if self.out and self.format == "csv":
            raise ValueError("--out: expected no --format=csv. It writes JSON lines")
        places = map(file_system.named, (self.out, *self.photos))
        if self.out and any(map(file_system.is_remote, places)):
            raise ValueError("--out: expected photos and FOLDER on this machine")
        number, _, count = self.shard.partition("/")
        has_numbers = number.isdecimal() and count.isdecimal()
        if not (has_numbers and 1 <= int(number) <= int(count)):
            raise ValueError(f"--shard={self.shard}: expected N/COUNT, such as 3/100")

    @property
    def every_s(self) -> float:
        """Seconds from one frame of a video to the next; 0 if --every is not a time."""
        parts = _TIME.fullmatch(self.every or "1s")
        return float(parts[1]) * _SECONDS[parts[2]] if parts else 0.0
