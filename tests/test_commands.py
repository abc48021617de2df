"""Help and flags of every command, as a user meets them."""

import dataclasses
import importlib
import re
import runpy
import subprocess
import sys

import pytest

from model.networks import registry
from model.training import settings
from model.weights import named_weights
from pipeline.system import command_line, config_flags, flag_help
from pipeline.system.errors import UsageError
from tests.support import files, processes

# Module of each command -> what it needs on the command line.
COMMANDS = {
    "train": (),
    "evaluate": (),
    "pipeline.convert": ("photos",),
    "pipeline.split": (),
    "pipeline.check": ("photos",),
    "pipeline.download": ("flowers", "photos"),
    "model.predict": ("a.jpg",),
    "model.export": ("--format=onnx",),
    "model.inspect": ("a.npy",),
    "model.serve": (),
}


def module_of(command):
    is_package = (files.ROOT / command.replace(".", "/")).is_dir()
    return importlib.import_module(f"{command}.__main__" if is_package else command)


def kinds_of(command):
    """Return the dataclasses of a command's flags."""
    if command == "train":
        return settings.Action, settings.Config
    return (module_of(command).Config,)


def help_of(command, *, full=False):
    kinds = kinds_of(command)
    return flag_help.screen(
        module_of(command).__doc__,
        config_flags.arguments_of(*kinds),
        config_flags.settings_of(*kinds),
        full=full,
    ).splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen(command):
    lines = help_of(command)
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("  --") for line in lines) <= 20
    assert sum(line.startswith(("    python", "    curl")) for line in lines) == 2
    flags = config_flags.settings_of(*kinds_of(command)).values()
    hidden = sum(flag.is_flag and not flag.basic for flag in flags)
    more = f"--helpfull lists {hidden} more flags."
    last = more if hidden else "This is the complete list"
    assert not flags or lines[-1].startswith(last)


@pytest.mark.parametrize("command", COMMANDS)
def test_full_help_has_every_flag(command):
    text = "\n".join(help_of(command, full=True))
    for name, setting in config_flags.settings_of(*kinds_of(command)).items():
        assert (f"--{name}" in text or f"--[no]{name}" in text) == setting.is_flag


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_is_explained_in_sentences(command):
    known = config_flags.settings_of(*kinds_of(command))
    for name, setting in known.items():
        assert setting.help[0].isupper(), name
        assert setting.help.endswith("."), name
        setting.check(name, setting.default)


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_make_a_config(command):
    typed, unknown, words = config_flags.parse(
        COMMANDS[command], config_flags.settings_of(*kinds_of(command))
    )
    assert not unknown
    for kind in kinds_of(command):
        arguments = config_flags.assign(words, config_flags.arguments_of(kind), "")
        config = config_flags.build(kind, typed | arguments)
        for field in dataclasses.fields(config):
            if field.name not in typed | arguments:
                assert getattr(config, field.name) == field.default


# Starts a command twice, with wrong flags and for its help; then says what is imported.
PROGRAM = """
import functools, runpy, sys
name, run = sys.argv[1], runpy.run_path
if not name.endswith(".py"):
    run = functools.partial(runpy.run_module, alter_sys=True)
arguments = sys.argv[2:]
for flag in ("--nonsense=1", "--help"):
    sys.argv = [name, flag, *arguments]
    try:
        run(name, run_name="__main__")
    except SystemExit as error:
        print("exit code", error.code)
print({"tensorflow", "keras", "cv2", "requests"} & sys.modules.keys())
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_wrong_flags_come_before_slow_imports(command):
    *_, name = words_of(command)
    done = processes.run_command("-c", PROGRAM, name, *COMMANDS[command])
    assert done.stdout.splitlines() == ["exit code 2", *help_of(command), "set()"]
    assert done.stderr == "error: --nonsense=1: no such flag. " + (
        "--helpfull lists all flags.\n"
    )


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", ("--lr=0.1",), "Did you mean --learning_rate?"),
        ("train", ("--output=a",), "Did you mean --run_dir?"),
        ("train", ("--stage=a",), "--stage=a: no such flag"),
        ("train", ("--epochs=-1",), "--epochs=-1: expected 0 or more"),
        ("train", ("--optimizer=adamm",), "adamw, sgd, rmsprop; did you mean adam?"),
        ("train", ("--plan", "--find_rate"), "expected only one of them"),
        ("train", ("photos/",), "unexpected argument 'photos/'"),
        ("pipeline.convert", ("photos", "--output=a"), "Did you mean --out?"),
        ("pipeline.convert", (), "FOLDER is missing. Expected, for example: python -m"),
        ("pipeline.check", ("a", "b"), "unexpected argument 'b'"),
        ("evaluate", ("--split=tst",), "--split=tst: expected one of train, valid"),
        ("model.predict", (), "PHOTO is missing"),
        ("model.export", (), "expected --format (saved_model, onnx, litert, keras)"),
        ("model.serve", ("--port=70000",), "--port=70000: expected 0 to 65535"),
    ],
)
def test_wrong_command_lines_are_answered_with_the_right_name(command, words, message):
    kinds = kinds_of(command)
    with pytest.raises(UsageError, match=re.escape(message)):
        typed = command_line.read_words(words, module_of(command).__doc__, kinds)
        for kind in kinds:
            config_flags.build(kind, typed)


FOLDERS = {
    "train": ("run_dir", "data"),
    "evaluate": ("run_dir", "data", "strangers"),
    "pipeline.convert": ("out",),
    "pipeline.check": ("out",),
    "pipeline.download": ("FOLDER",),
    "model.predict": ("explain", "suggest_into", "sort_into"),
    "model.export": ("out", "weights"),
    "model.serve": ("collect",),
}


@pytest.mark.parametrize(
    ("command", "flag"), [(name, flag) for name in FOLDERS for flag in FOLDERS[name]]
)
def test_a_file_where_a_folder_is_expected_is_refused_at_once(command, flag, tmp_path):
    file, kinds = tmp_path / "file", kinds_of(command)
    file.touch()
    for folder in (file, file / "a" / "b"):
        words = [*COMMANDS[command]]
        if command == "pipeline.download":
            words[-1] = str(folder)
        else:  # those of exports are files
            ending = "/m.onnx" * (command == "model.export")
            words.append(f"--{flag}={folder}{ending}")
        expected = re.escape(f"{file} is a file. Expected a folder")
        with pytest.raises(UsageError, match=f"{flag}: {expected}"):
            for kind in kinds:
                config_flags.build(kind, command_line.read_words(words, "", kinds))


def test_a_reader_that_stops_early_ends_help_quietly():
    done = subprocess.run(
        f"{sys.executable} train.py --help | head -3",
        shell=True,
        cwd=files.ROOT,
        capture_output=True,
        text=True,
    )
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""


def words_of(command):
    """Return the words after `python` that start a command."""
    is_script = (files.ROOT / f"{command}.py").exists()
    return (f"{command}.py",) if is_script else ("-m", command)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_with_one_line_while_it_imports(command, tmp_path):
    """SIGUSR1, which asks a training for a snapshot, is too early to do harm."""
    code = "import os\nfor number in (10, 2):\n    os.kill(os.getpid(), number)\n"
    for name in ("tqdm", "numpy", "ml_dtypes"):
        (tmp_path / f"{name}.py").write_text(code)
    done = processes.run_command(*words_of(command), PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (130, "stopped by SIGINT\n")


@pytest.mark.parametrize("command", ["train", "model.inspect"])
def test_a_python_without_the_packages_is_told_in_one_line(command):
    done = processes.run_command("-S", *words_of(command), "--help")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the Python package ")
    assert "script/setup" in line


def test_stages_of_a_recipe_have_two_settings_that_are_not_flags():
    known = settings.SETTINGS.items()
    assert {name for name, s in known if not s.is_flag} == {"stage", "start"}


def test_the_documentation_lists_all_settings():
    path = files.ROOT / "docs" / "settings.md"
    document = runpy.run_path(str(path.with_name("write_settings.py")))["document"]
    message = "run: python docs/write_settings.py"
    assert path.read_text(encoding="utf-8") == document(), message


@pytest.mark.parametrize("name", sorted({*registry.NETWORKS, *named_weights.NAMES}))
def test_every_name_is_in_the_documentation(name):
    assert f"`{name}`" in (files.ROOT / "docs/weights.md").read_text(encoding="utf-8")
