"""Read recipes: experiments as TOML files with the names of train.py's flags.

    ckpt = "vgg16_conv"
    learning_rate = 1e-3
    rates = {"*/bias" = [2, 0], "logits/kernel" = 10, "logits/bias" = [20, 0]}

    [[stages]]
    stage = "head"
    epochs = 10

    [[stages]]
    train_from = "block5_conv1"
    learning_rate = 1e-5

A setting above the stages holds in all of them. A list may stand for a text with
commas, and a table for a text with pattern=value.
"""

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model.training import settings
from pipeline.system import command_line, config_flags
from pipeline.system.config_flags import Setting
from pipeline.system.errors import DataError, UsageError

FOLDER = Path(__file__).parents[2] / "recipes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Content of a recipe: {setting: value} for the whole training and each stage."""

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: tuple[Mapping[str, Any], ...] = ()


def combinations(typed: Mapping[str, Any]) -> tuple[settings.Config, ...]:
    """Return the settings of each combination of networks, resizings and sizes."""
    name = typed.get("recipe", "")
    values = dict(read(find(name), settings.SETTINGS).values) if name else {}
    values |= typed
    if "ckpt" not in values and not typed.get("resume"):
        if values.get("arch"):
            raise UsageError(
                f"--arch={values['arch']}: expected --ckpt with it: weights of that "
                "network, or --ckpt=none for a random start"
            )
        command_line.note(
            f"no --ckpt: using {settings.DEFAULT_WEIGHTS}; for AlexNet: --ckpt=alexnet"
        )
    networks = tuple(_networks(values.get("ckpt", "")))
    axes = {"ckpt": networks} if len(networks) > 1 else {}
    axes |= {n: v for n, v in values.items() if isinstance(v, tuple)}
    # What is given twice counts once.
    combined = dict.fromkeys(itertools.product(*axes.values()))
    each = [dict(zip(axes, values, strict=True)) for values in combined]
    configs = tuple(configure({**typed, **values}) for values in each)
    config = configs[0]
    deeper = config.train_from or config.train or config.stages or not config.num_views
    other = config.keep_head or config.compare != "none" or config.seeds > 1
    if len(configs) > 1 and (deeper or other or typed.get("find_rate")):
        raise UsageError(
            "several networks: only new heads are compared, on cached features. "
            "Expected no --train_from, --train, stages, --views=0, augmentation, "
            "--keep_head, --compare, --seeds or --find_rate. Compare first, and use "
            "these with the best network"
        )
    return configs


def _networks(text: str) -> Iterator[str]:
    """Yield the networks between commas; a file with commas in its name is one."""
    parts = text.split(",")
    while parts:
        joined = (",".join(parts[:n]) for n in range(len(parts), 1, -1))
        files = (t for t in joined if Path(t).exists() or Path(t + ".index").exists())
        name = next(files, parts[0])
        del parts[: name.count(",") + 1]
        yield name.strip()


def configure(typed: Mapping[str, Any]) -> settings.Config:
    """Return the settings of flags and recipe; a flag holds in all stages.

    Settings that hold in all stages are checked as part of each stage, because alone
    they may not go together: a momentum may be for the optimizers of the stages.
    """
    flags = {name: value for name, value in typed.items() if name in settings.SETTINGS}
    written = Recipe()
    if name := typed.get("recipe", ""):
        path = find(name)
        written = read(path, settings.SETTINGS)
    try:
        return _merged(flags, written)
    except ValueError as error:
        if name and not flags:
            raise DataError(f"{path}: {error}") from error
        source = f", with --recipe={name}" * bool(name)
        raise UsageError(f"{error}{source}") from error


def _merged(flags: Mapping[str, Any], written: Recipe) -> settings.Config:
    for values in (flags, written.values, *written.stages):
        if "epochs" in values and values.get("steps"):
            raise ValueError(
                f"--steps={values['steps']} and --epochs={values['epochs']}: expected "
                "only one of them to end the training"
            )
    if not written.stages:
        values = _overridden(written.values, flags)
        return config_flags.changed(settings.Config(), values)
    everywhere, whole = _parted(written.values)
    flags_of_stages, flags_of_whole = _parted(flags)
    stages = tuple(
        _overridden(everywhere, stage, flags_of_stages) for stage in written.stages
    )
    config = config_flags.changed(settings.Config(), whole | flags_of_whole)
    return dataclasses.replace(config, stages=stages)


def _overridden(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings, later ones first; an end in epochs replaces one in steps."""
    values: dict[str, Any] = {}
    for layer in layers:
        if "epochs" in layer and "steps" in values:
            values["steps"] = 0
        values |= layer
    return values


def _parted(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide settings into those of stages and those of the whole training."""
    of_stages = {n: v for n, v in values.items() if settings.SETTINGS[n].per_stage}
    return of_stages, {n: v for n, v in values.items() if n not in of_stages}


def find(name: str, folder: Path = FOLDER) -> Path:
    """Return the file of a recipe, from its path or its name in `folder`."""
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if name in shipped:
        return shipped[name]
    raise DataError(
        f"--recipe={name}: no such recipe. Expected the path of a file or one of "
        f"{', '.join(shipped)}."
    )


def read(path: Path, known: Mapping[str, Setting]) -> Recipe:
    """Read a recipe, which may have the `known` settings."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not TOML: {error}") from error
    if isinstance(content.get("stage"), dict | list):
        raise DataError(f"{path}: stage: expected [[stages]]")
    stages = content.pop("stages", [])
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise DataError(f"{path}: stages: expected tables, [[stages]]")
    of_stages = {name: setting for name, setting in known.items() if setting.per_stage}
    parts = []
    for number, stage in enumerate(stages, start=1):
        where = f"{path}: stage {number}"
        if misplaced := [key for key in stage if key in known.keys() - of_stages]:
            raise DataError(
                f"{where}: {misplaced[0]} holds for the whole training. Put it above "
                "the stages."
            )
        parts.append(_converted(stage, of_stages, where))
    return Recipe(values=_converted(content, known, str(path)), stages=tuple(parts))


def _converted(
    content: Mapping[str, Any], known: Mapping[str, Setting], where: str
) -> dict[str, Any]:
    """Return {setting: value} with values of the settings' types."""
    values = {}
    for key, value in content.items():
        if key not in known:
            meant = config_flags.meant(key, known) or ", ".join(sorted(known))
            raise DataError(f"{where}: {key}: no such setting; expected {meant}")
        default = known[key].default
        several = known[key].several and isinstance(value, list) and value != []
        try:
            items = [_convert(v, default) for v in (value if several else [value])]
            for item in items:
                known[key].check(key, item)
            values[key] = tuple(items) if several else items[0]
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        except (TypeError, OverflowError):
            expected = known[key].type_name
            if isinstance(default, str):
                expected = 'text in quotes, such as "conv5", or a list'
            raise DataError(
                f"{where}: {key} = {value!r:.100}: expected {expected}"
            ) from None
    return values


def _convert(value: Any, default: Any) -> Any:
    """Return a TOML value as the type of the default; TypeError if it does not fit."""
    if isinstance(default, str):
        return _as_text(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise TypeError
    return value


def _as_text(value: Any) -> str:
    """Return text as a flag has it: a list with commas, a table as pattern=a:b."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(map(_item, value))
    if isinstance(value, dict):
        parts = {p: n if isinstance(n, list) else [n] for p, n in value.items()}
        return ",".join(f"{p}={':'.join(map(_item, n))}" for p, n in parts.items())
    raise TypeError


def _item(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    return str(value)
