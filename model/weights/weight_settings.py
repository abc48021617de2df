"""Define the settings of a weight file that is used in place of a run."""

import functools
from typing import Any

from pipeline.system import config_flags

_setting = functools.partial(config_flags.setting, "", group="Weight file")
NAME_OF_WEIGHTS = "a name in docs/weights.md, such as alexnet or efficientnet_lite2"
ARCH = (
    "Network that the weights belong to, if their names and shapes leave it open: one "
    "of those in docs/weights.md, such as alexnet_owt, or a Keras or JSON file with it."
)
# Each of these makes the field of one setting.
ckpt = functools.partial(
    _setting,
    f"Weights to use in place of a run, with their own classes: {NAME_OF_WEIGHTS}, or "
    "the path of a file.",
    basic=True,
    value="NAME",
)
arch = functools.partial(_setting, ARCH, value="NAME")
labels = functools.partial(
    _setting,
    "File of class names of --ckpt: one per line as in synset_words.txt, JSON or CSV.",
    basic=True,
    value="FILE",
)


def refuse_without_ckpt(config: Any) -> None:
    """Refuse settings of a weight file where a run is used, by a ValueError.

    `config` has the fields `arch`, `labels` and `overrides`.
    """
    names = [name for name in ("arch", "labels") if getattr(config, name)]
    if names := names + config.overrides.changed_settings():
        raise ValueError(
            f"{', '.join(f'--{name}' for name in names)} can only be used with --ckpt. "
            "A run already defines its network, classes and preprocessing."
        )
