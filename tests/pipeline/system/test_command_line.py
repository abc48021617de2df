"""Exit codes and messages of a small command, run as a process."""

import signal
import subprocess
import sys
import time

import pytest

from pipeline.system import command_line
from tests.support import files, processes

PROGRAM = '''
"""Do something small.

    python program.py work
"""
import dataclasses, os, signal, sys, time, types
from pipeline.system import command_line, config_flags
from pipeline.system.errors import DataError

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    what: tuple[str, ...] = config_flags.argument("WHAT", "What to do.", many=True)
    word: str = config_flags.setting("", "A word.", group="All", basic=True)
    number: int = config_flags.setting(3, "A number.", group="All", basic=True, lower=0)

    def __post_init__(self):
        config_flags.check(self)
        if self.number == 13:
            raise ValueError("--number=13: expected a lucky one")

def wait(count):
    with command_line.progress(count, "step", "wait") as progress:
        for _ in range(count):
            print("tick", flush=True)
            time.sleep(0.2)
            progress.update()

def main(typed):
    config = config_flags.build(Config, typed)
    match config.what[0]:
        case "import":
            import pipeline.system.tensorflow_import
        case "work":
            command_line.say(f"{config.number} {config.word} {config.what[1:]}")
        case "problem":
            raise DataError("photos: 3 found,\\n  5 expected")
        case "system":
            open("nowhere/at all")
        case "tensorflow":
            class OpError(Exception):
                pass
            errors = types.SimpleNamespace(OpError=OpError)
            sys.modules["tensorflow"] = types.SimpleNamespace(errors=errors)
            raise OpError("run/events; No space left on device\\n\\t [Op:Write]")
        case "memory":
            raise MemoryError("Unable to allocate 4. TiB")
        case "interrupted import":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except SystemExit:
                raise ImportError("initialization failed")
        case "bug":
            raise KeyError("a bug")
        case "wait":
            wait(100)
        case "gracefully":
            with command_line.graceful():
                try:
                    wait(100)
                finally:
                    time.sleep(0.3)
                    command_line.say("saved")
        case "at the end":
            with command_line.graceful():
                print("tick", flush=True)
                time.sleep(1)
                command_line.say("done")
        case "many lines":
            for _ in range(100_000):
                command_line.say("a line")

if __name__ == "__main__":
    command_line.run(main, Config)
'''


@pytest.fixture
def program(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(files.ROOT))
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def test_flags_and_arguments_mix(program):
    done = processes.run_command(program, "work", "--number=5", "rest", "--word=x")
    assert (done.returncode, done.stdout) == (0, "5 x ('rest',)\n")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("problem", "photos: 3 found, 5 expected"),
        ("system", "nowhere/at all: No such file or directory"),
        ("tensorflow", "TensorFlow: run/events; No space left on device [Op:Write]"),
        (
            "memory",
            "not enough memory (Unable to allocate 4. TiB). Use smaller batches or "
            "images (--batch_size, --image_size), or a machine with more memory",
        ),
    ],
)
def test_named_problems_are_one_line(program, kind, message):
    done = processes.run_command(program, kind)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {message}\n"


@pytest.mark.parametrize(
    "flag", ["--number=13", "--number=-1", "--number=x", "--nmber=1"]
)
def test_a_wrong_flag_gives_one_line_and_exit_code_2(program, flag):
    done = processes.run_command(program, "work", flag)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert flag in line


def test_bugs_keep_their_traceback(program):
    done = processes.run_command(program, "bug")
    assert done.returncode == 1
    assert "KeyError" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_problem(program):
    done = subprocess.run(
        f"{sys.executable} {program} 'many lines' | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("a line\n", "")


@pytest.mark.parametrize(
    ("kind", "code", "closed"),
    [("work", 0, ">&-"), ("problem", 2, "2>&-"), ("work", 0, "<&- >&- 2>&-")],
)
def test_a_closed_stream_is_no_problem(program, kind, code, closed):
    command = f"{sys.executable} {program} {kind} {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_bytes_of_a_name_that_are_not_utf8_are_printed_as_escapes(program):
    done = processes.run_command(program, "work", "--word=caf\udce9 \u00e9")
    assert done.stdout == "3 caf\\xe9 \u00e9 ()\n"


def start(program, what):
    # A shell without job control lets what it starts with & ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, program, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout.readline() == "tick\n"
    return process


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("wait", signal.SIGINT),
        ("gracefully", signal.SIGTERM),
        ("at the end", signal.SIGINT),
    ],
)
def test_signals_have_their_exit_code(program, what, number):
    process = start(program, what)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert stderr.splitlines()[-1] == f"stopped by {number.name}"
    assert "Traceback" not in stderr
    # What is being saved is saved, although the signal came before.
    assert {"wait": "", "gracefully": "saved", "at the end": "done"}[what] in stdout
    # Progress is lines in a log file.
    assert "\r" not in stderr
    assert stderr.startswith("stopped" if what == "at the end" else "wait:   0%")


def test_a_signal_that_an_import_turns_into_an_error_is_still_a_signal(program):
    done = processes.run_command(program, "interrupted import")
    assert (done.returncode, done.stderr) == (130, "stopped by SIGINT\n")


def test_the_second_signal_does_not_wait(program):
    process = start(program, "at the end")
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "done" not in stdout


def test_a_terminal_gets_no_commands_from_names():
    """Neither colours nor a cursor that moves, nor text that runs backwards."""
    text = "\x1b[31mred\r\n\x9b2J a\u202eb\x00 \udc80 d\u00e9j\u00e0 \u5c71\tx"
    assert command_line.shown(text) == (
        "\\x1b[31mred\\r\n\\x9b2J a\\u202eb\\x00 \udc80 d\u00e9j\u00e0 \u5c71\\tx"
    )


def test_a_label_is_printable_on_one_line():
    assert command_line.as_label("\u00e0\nb\x1b\udcff") == "\u00e0\\nb\\x1b\\xff"


def test_an_interrupt_while_tensorflow_is_imported_is_one_line(program):
    """A module keras.py in its folder takes the place of Keras."""
    slow = "print('tick', flush=True)\nimport time\ntime.sleep(60)\n"
    program.with_name("keras.py").write_text(slow)
    process = start(program, "import")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (130, "stopped by SIGINT\n")


def test_columns_are_aligned_and_missing_cells_are_dashes():
    lines = command_line.table(("class", "n"), [("rose", 12), ("asters", None)])
    assert lines == ["class    n", "rose    12", "asters   -"]
    lines = command_line.table(("a", "kind", "n"), [("x", "b", 1)], left=2)
    assert lines == ["a  kind  n", "x  b     1"]
