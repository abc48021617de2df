"""Flags and configs are the same thing twice; this keeps them so."""

import dataclasses

import pytest
from absl import app, flags

import evaluate
from model.export import exporting
from model.loop import optimization
from model.predict import output_formats, predicting
from model.serve import serving
from model.training import settings
from model.weights import preprocessing_overrides, pretrained_classifier
from pipeline import split
from pipeline.batches import random_augmentation
from pipeline.check import checking
from pipeline.convert import conversion
from pipeline.download import downloading
from pipeline.system import command_line

# Command -> fields of its config that come from arguments without a flag's name.
COMMANDS = {
    settings: {},
    evaluate: {},
    conversion: {"source": "photos", "beam_flags": ()},
    checking: {"source": "photos"},
    split: {"data": "records"},
    downloading: {"name": "flowers", "target": "photos"},
    exporting: {},
    predicting: {"photos": ("a.jpg",)},
    serving: {},
}
# Declare flags for several commands.
SHARED = (output_formats, pretrained_classifier)


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
    by_module = flags.FLAGS.flags_by_module_dict()
    mine = {
        flag.name: flag
        for declared in (module, *SHARED)
        for flag in by_module.get(declared.__name__, ())
    }
    fields = {field.name for field in dataclasses.fields(module.Config)}
    fields -= {"overrides", "learning", "augmentation", "stages"}  # groups of settings
    if module is settings:
        mine = {
            n: f
            for n, f in mine.items()
            if n not in {*optimization.HELP, *random_augmentation.HELP}
        }
        mine = {n: f for n, f in mine.items() if n not in settings.MODES}
    assert set(mine) == fields - set(positional)
    default = module.Config(**positional)
    for name, flag in mine.items():
        assert flag.default == getattr(default, name), name
        assert len(flag.help) > 10, name


def test_flags_become_the_config(module):
    positional = COMMANDS[module]
    flags.FLAGS(["program"])
    assert command_line.config_from_flags(module.Config, **positional) == module.Config(
        **positional
    )


def test_flags_of_the_preprocessing():
    before = set(flags.FLAGS)
    preprocessing_overrides.define_flags()
    try:
        flags.FLAGS(["program"])
        assert (
            preprocessing_overrides.from_flags() == preprocessing_overrides.AS_WEIGHTS
        )
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
