"""Flags and configs are the same thing twice; this keeps them so."""

import dataclasses

import pytest
from absl import app, flags

import evaluate
from model import export, inputs, method, predict, serve, settings
from pipeline import augment, check, command, convert, download, split

# Command -> fields of its config that come from arguments without a flag's name.
COMMANDS = {
    settings: {},
    evaluate: {},
    convert: {"source": "photos", "beam_flags": ()},
    check: {"source": "photos"},
    split: {"data": "records"},
    download: {"name": "flowers", "target": "photos"},
    export: {},
    predict: {"photos": ("a.jpg",)},
    serve: {},
}


@pytest.fixture(params=COMMANDS, ids=lambda module: module.__name__)
def module(request):
    """A command with its flags defined, as when it is run."""
    before = set(flags.FLAGS)
    request.param.define_flags()
    yield request.param
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def test_every_flag_is_a_field_with_the_same_default(module):
    positional = COMMANDS[module]
    of_inputs = {field.name for field in dataclasses.fields(inputs.Overrides)}
    mine = {
        flag.name: flag
        for flag in flags.FLAGS.get_key_flags_for_module(module.__name__)
        if flag.name not in of_inputs
    }
    fields = {field.name for field in dataclasses.fields(module.Config)}
    fields -= {"overrides", "learning", "augmentation", "stages"}  # groups of settings
    if module is settings:
        mine = {n: f for n, f in mine.items() if n not in {*method.HELP, *augment.HELP}}
        mine = {n: f for n, f in mine.items() if n not in settings.MODES}
    assert set(mine) == fields - set(positional)
    default = module.Config(**positional)
    for name, flag in mine.items():
        assert flag.default == getattr(default, name), name
        assert len(flag.help) > 10, name


def test_flags_become_the_config(module):
    positional = COMMANDS[module]
    flags.FLAGS(["program"])
    assert command.config_from_flags(module.Config, **positional) == module.Config(
        **positional
    )


def test_flags_of_the_preprocessing():
    before = set(flags.FLAGS)
    inputs.define_flags()
    try:
        flags.FLAGS(["program"])
        assert inputs.from_flags() == inputs.AS_WEIGHTS
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)


def test_flags_that_are_not_numbers():
    before = set(flags.FLAGS)
    settings.define_flags()
    try:
        flags.FLAGS(["program", "--ema=nan"])
        with pytest.raises(app.UsageError, match="--ema=nan: not a number"):
            settings.from_flags()
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
