"""Run a command: exit codes, one-line errors, results on stdout, progress on stderr.

Exit codes: 0 for success; 1 for a bug, with its traceback; 2 for what the user can fix
(flags, data, weights, a run), with one line on stderr; 128 + signal when stopped.
"""

import codecs
import contextlib
import errno
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import tqdm

from pipeline.system import config_flags, file_system, flag_help, program_name
from pipeline.system.errors import UsageError, UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_MAX_ERROR = 2000  # characters; texts from files can be of any length

# Control characters except the newline, and marks that reverse the writing direction.
_UNSHOWN = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


class Stopped(SystemExit):
    """Ctrl-C or SIGTERM has stopped the command; unwinding leaves nothing half-written.

    `in_order` means that it was raised where `graceful` allows it, not at any moment.
    """

    def __init__(self, signal_number: int, *, in_order: bool = False) -> None:
        super().__init__(128 + signal_number)
        self.signal = signal.Signals(signal_number)
        self.in_order = in_order


_ESCAPED = "graft_escaped"  # Python's name of the error handler below


def _escape(error: Any) -> tuple[str | bytes, int]:
    r"""Escape what cannot be encoded; a byte that is not UTF-8 becomes "\xff"."""
    text = error.object[error.start : error.end].encode("ascii", "backslashreplace")
    return text.decode().replace(r"\udc", r"\x"), error.end


codecs.register_error(_ESCAPED, _escape)
_held_back: list[int] | None = None  # signals within `graceful`; None outside of it
_last_signal = 0
_process = ""  # "process 2 of 3: " where several do the same work


def run(
    main: Callable[[dict[str, Any]], None],
    *kinds: "type[DataclassInstance]",
    passes_on: str = "",
    in_buckets: Collection[str] = (),
) -> None:
    """Run a command and turn what it raises into an exit code.

    `main` is a function of {name: value}, the flags and arguments that the user typed;
    the docstring of its module is the head of the help. `kinds` are dataclasses with
    these as fields. Unknown flags, which may be another program's, are passed to `main`
    under the name `passes_on`; "" refuses them. Places in buckets are copied to the
    cache, except those of settings in `in_buckets`.
    """
    from pipeline.system.remote import mirror  # which imports this module

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    _prepare_streams()
    stderr = sys.stderr
    doc = sys.modules[main.__module__].__doc__ or ""
    try:
        typed = read_words(sys.argv[1:], doc, kinds, passes_on)
        if isinstance(typed, str):
            say(typed)
        else:
            try:
                with mirror.copied_back():
                    main(mirror.localized(typed, {passes_on, *in_buckets}))
            finally:
                sys.stderr = stderr  # see `name_process`
        sys.stdout.flush()
        if "tensorflow" in sys.modules:  # freeing its memory would take 1 s
            _end(0)
    except UsageError as error:
        log(f"error: {_process}{error}")
        sys.exit(2)
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)  # SIGPIPE, which Windows lacks
    except _system_errors() as error:
        _fail(_describe(error))
    except (Stopped, Exception) as error:  # C++ code turns Stopped into another error
        stop = error.signal if isinstance(error, Stopped) else _last_signal
        if not stop:
            raise
        log(f"{_process}stopped by {signal.Signals(stop).name}")
        _end(128 + stop)


def _prepare_streams() -> None:
    """Open streams that the user has closed, as by 2>&-; let them print any name."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            os.set_inheritable(descriptor, True)  # worker processes redirect it
            setattr(sys, name, os.fdopen(descriptor, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPED)


def read_words(
    words: Sequence[str],
    doc: str,
    kinds: "Sequence[type[DataclassInstance]]",
    passes_on: str = "",
) -> dict[str, Any] | str:
    """Return {name: value} of a command line, or the help that it asks for.

    `words` follow the program's name, and `doc` is the head of the help; see `run`.
    """
    arguments = config_flags.arguments_of(*kinds)
    settings = config_flags.settings_of(*kinds)
    flags = {name: known for name, known in settings.items() if known.is_flag}
    asked = {word.lstrip("-") for word in words if word.startswith("-")}
    if asked & {"help", "helpfull", "h", "?"}:
        return flag_help.screen(doc, arguments, flags, full="helpfull" in asked)
    values, unknown, words = config_flags.parse(words, flags)
    for word in unknown:
        if not passes_on or config_flags.meant(word, flags, cutoff=0.8):
            raise UsageError(config_flags.unknown_flag(word, flags))
    if passes_on:
        values[passes_on] = tuple(unknown)
    example = next(iter(re.findall(r"^ {4,}(python .*)", doc, re.MULTILINE)), "")
    return values | config_flags.assign(words, arguments, example)


def _stop(signal_number: int, _: FrameType | None) -> None:
    global _last_signal
    _last_signal = signal_number
    if _held_back is None or _held_back:
        raise Stopped(signal_number)
    _held_back.append(signal_number)


@contextlib.contextmanager
def graceful() -> Iterator[None]:
    """Let signals take effect only when a progress bar moves, or at the end.

    At any other moment they could leave half a result, or become another error within
    TensorFlow. A second signal takes effect at once.
    """
    global _held_back
    _held_back = []
    try:
        yield
        check_signals()
    finally:
        _held_back = None


def check_signals() -> None:
    """Raise Stopped if `graceful` has held back a signal."""
    if _held_back:
        raise Stopped(_held_back[0], in_order=True)


def _end(code: int) -> NoReturn:
    """End the process at once, without waiting for threads that a server keeps busy."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # no one reads it any more
            stream.flush()
    os._exit(code)


def _fail(message: str) -> NoReturn:
    line = " ".join(message.split())
    log(f"error: {_process}{line[:_MAX_ERROR]}" + "..." * (len(line) > _MAX_ERROR))
    _end(2)


def _system_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the machine's limits, and TensorFlow's if it is imported."""
    # An import that was interrupted leaves a module without its names.
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)
    return (OSError, MemoryError, *([errors.OpError] if errors else []))


def _describe(error: Exception) -> str:
    # TensorFlow begins with the name of an operation, between braces.
    problem = re.sub(r"^(\{\{.*?\}\} ?)+", "", str(error))
    is_tensorflow = type(error).__name__ == "ResourceExhaustedError"
    if isinstance(error, MemoryError) or is_tensorflow:
        return (
            f"not enough memory ({problem:.300}). Use smaller batches or images "
            "(--batch_size, --image_size), or a machine with more memory"
        )
    if not isinstance(error, OSError):
        return f"TensorFlow: {problem}"
    text = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        text += ". Free some, or choose another place"
    if error.filename is None and error.errno == errno.ENOENT:  # os.getcwd
        return "the current folder was removed. Go to another one"
    if error.filename is None:
        return text
    if error.errno in (errno.EEXIST, errno.ENOTDIR):  # such as a link to nothing
        text += ". Expected a folder there, or nothing"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        text += ". Change the permissions, or choose another place"
    return f"{os.fsdecode(error.filename)}: {text}"


def say(*texts: str) -> None:
    """Write lines of results to stdout, at once: lines of the log may follow."""
    sys.stdout.writelines(f"{shown(text)}\n" for text in texts)
    sys.stdout.flush()


def shown(text: str) -> str:
    """Return text that is safe to print: file names can hold commands of a terminal."""
    text = file_system.named(program_name.as_called(text))
    return _UNSHOWN.sub(lambda match: ascii(match[0])[1:-1], text)


def as_utf8(text: str) -> str:
    r"""Return text for a file in UTF-8: the byte 0xff of a name becomes "\xff"."""
    return file_system.named(text).encode("utf-8", _ESCAPED).decode("utf-8")


def one_line(text: str) -> str:
    """Return text on one line: names of files can contain line breaks."""
    return text.replace("\n", "\\n")


def as_label(text: str) -> str:
    """Return text for a picture or a page: printable, on one line, in UTF-8."""
    return as_utf8(one_line(shown(text)))


def available_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def name_process(name: str, *, speaks: bool) -> None:
    """Name this process in its errors; one that does not speak logs nothing else."""
    global _process
    _process = f"{name}: "
    if not speaks:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")


def log(text: str) -> None:
    """Write a message to stderr, so that stdout has only results."""
    sys.stderr.write(shown(text) + "\n")


def note(text: str) -> None:
    """Log on one line what was guessed, or what the user may not expect."""
    log(f"note: {as_utf8(one_line(text))}")


def warn(text: str) -> None:
    """Log on one line what may be wrong."""
    log(f"warning: {as_utf8(one_line(text))}")


def first_few(texts: Collection[str], separator: str = ", ") -> str:
    """Return the first five texts, and "..." if there are more."""
    shown = separator.join(itertools.islice(texts, 5))
    return shown + " ..." * (len(texts) > 5)


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1
) -> list[str]:
    """Return the lines of a table whose first `left` columns are aligned to the left.

    None is shown as "-".
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    cells.insert(0, list(header))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def align(column: int, cell: str) -> str:
        return f"{cell:{'<' if column < left else '>'}{widths[column]}}"

    return ["  ".join(map(align, itertools.count(), row)).rstrip() for row in cells]


def _shows_bars(stream: Any) -> bool:
    """Return whether a line can be written over: on a terminal or in a notebook."""
    return stream.isatty() or "ipykernel" in sys.modules


class _Progress(tqdm.tqdm):  # type: ignore[type-arg]
    """Show a bar on a terminal, or lines in a log file, and check for signals."""

    def update(self, n: float | None = 1) -> bool | None:
        moved = super().update(n)
        check_signals()
        return moved

    def log(self, line: str) -> None:
        """Write a line above the bar."""
        if _shows_bars(sys.stderr):
            self.write(shown(line), file=sys.stderr)
        else:
            log(line)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        if _shows_bars(file):
            return tqdm.tqdm.status_printer(file)

        def print_line(text: str) -> None:
            if line := text.strip():
                file.write(line + "\n")

        return print_line


def progress(
    total: int | None, unit: str, description: str, **options: Any
) -> _Progress:
    """Return a progress bar on stderr with options of tqdm; in log files, lines."""
    pause_s = 0.1 if _shows_bars(sys.stderr) else 10.0
    return _Progress(
        total=total, unit=unit, desc=description, mininterval=pause_s, **options
    )
