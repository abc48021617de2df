"""Flags and configs are the same thing twice; this keeps them so."""

import dataclasses

import pytest
from absl import flags

import evaluate
from model.export import __main__ as export_flags
from model.export import exporting
from model.predict import __main__ as predict_flags
from model.predict import output_formats, predicting
from model.serve import __main__ as serve_flags
from model.serve import serving
from model.weights import preprocessing_overrides, pretrained_classifier
from pipeline.system import command_line

# Command -> fields of its config that come from arguments without a flag's name.
COMMANDS = {
    (evaluate, evaluate.Config): {},
    (export_flags, exporting.Config): {},
    (predict_flags, predicting.Config): {"photos": ("a.jpg",)},
    (serve_flags, serving.Config): {},
}
# Declare flags for several commands.
SHARED = (output_formats, pretrained_classifier)


@pytest.fixture(params=COMMANDS, ids=lambda pair: pair[0].__name__)
def command(request):
    """A command with its flags defined, as when it is run."""
    before = set(flags.FLAGS)
    request.param[0].define_flags()
    yield request.param
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


def test_every_flag_is_a_field_with_the_same_default(command):
    positional = COMMANDS[command]
    module, config = command
    by_module = flags.FLAGS.flags_by_module_dict()
    mine = {
        flag.name: flag
        for declared in (module, *SHARED)
        for flag in by_module.get(declared.__name__, ())
    }
    fields = {field.name for field in dataclasses.fields(config)}
    fields -= {"overrides", "learning", "augmentation", "stages"}  # groups of settings
    assert set(mine) == fields - set(positional)
    default = config(**positional)
    for name, flag in mine.items():
        assert flag.default == getattr(default, name), name
        assert len(flag.help) > 10, name


def test_flags_become_the_config(command):
    positional = COMMANDS[command]
    _, config = command
    flags.FLAGS(["program"])
    assert command_line.config_from_flags(config, **positional) == config(**positional)


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
