import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.system import sandbox
from tests import conftest

MODULE = "tests.pipeline.system.sandbox_child"


def child(*arguments, **options):
    return contextlib.closing(
        sandbox.Child(MODULE, *arguments, task="test", environment={}, **options)
    )


@pytest.fixture(scope="module")
def echo():
    with child() as started:
        yield started


def ask(process, request, data=b"", timeout_s=30):
    """The first answer, its time limit left out."""
    process.send(request, data, timeout_s=timeout_s)
    answer, content = process.receive()
    return {**answer, "timeout_s": None}, content


def wait_for_end(pid):
    stat = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 30
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("data", [b"", b"12", bytes(range(256)) * 100_000])
def test_a_request_has_as_many_answers_as_the_child_gives(echo, data):
    request = {"text": "é\udc80\n", "numbers": [1, 2.5, None]}
    answer, content = ask(echo, request, data)
    assert (answer, content) == ({**request, "timeout_s": None}, data)
    assert echo.receive() == ({"second": True}, data[::-1])


def test_what_the_child_prints_is_no_answer(echo):
    answer, content = ask(echo, {"work": "print"}, b"data")
    assert (answer["work"], content) == ("print", b"data")
    echo.receive()


def test_a_crash_costs_one_request(echo):
    echo.wait_until_ready()
    pid = echo.pid
    with pytest.raises(sandbox.ChildEnded) as caught:
        ask(echo, {"work": "crash"})
    assert caught.type is sandbox.ChildEnded
    assert ask(echo, {}, b"data")[1] == b"data"
    assert echo.pid != pid
    echo.receive()


@pytest.mark.parametrize(
    ("work", "timeout_s"),
    [("sleep", 0.3), ("spin", 0.3), ("spin with little CPU time", 60)],
)
def test_a_hang_costs_one_request(echo, work, timeout_s):
    with pytest.raises(sandbox.OutOfTime):
        ask(echo, {"work": work}, timeout_s=timeout_s)
    assert ask(echo, {}, b"data")[1] == b"data"
    echo.receive()


def test_a_time_limit_ends_with_its_request(echo):
    ask(echo, {}, timeout_s=0.3)
    echo.receive()
    pid = echo.pid
    time.sleep(0.5)
    ask(echo, {})
    echo.receive()
    assert echo.pid == pid


def test_memory_is_limited():
    with child() as process:
        assert ask(process, {"work": "take memory"})[0]["error"] == "memory"


def test_a_signal_to_the_parent_leaves_no_answer_behind(echo):
    def interrupt(*_):
        raise KeyboardInterrupt

    echo.wait_until_ready()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        with pytest.raises(KeyboardInterrupt):
            ask(echo, {"work": "sleep"})
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ask(echo, {"number": 2})[0]["number"] == 2
    echo.receive()


def test_the_time_of_a_request_starts_when_the_child_is_ready():
    with child("1.2") as process:
        assert ask(process, {}, b"data", timeout_s=1)[1] == b"data"


@pytest.mark.parametrize(
    ("argument", "limit_s", "message"),
    [("fail", 60, "to test failed"), ("60", 0.5, "to test took too long")],
)
def test_a_child_that_does_not_start_is_named(argument, limit_s, message):
    with child(argument, start_timeout_s=limit_s) as process:
        for _ in range(2):
            with pytest.raises(sandbox.NotStarted, match=message):
                process.send({}, timeout_s=30)


def test_children_start_at_the_same_time():
    with child("1.2") as first, child("1.2") as second:
        begin = time.monotonic()
        for process in (first, second):
            process.start()
        for process in (first, second):
            process.wait_until_ready()
        assert time.monotonic() - begin < 2.4


@pytest.mark.parametrize("argument", ["0", "60"], ids=["working", "starting"])
def test_closing_ends_a_child_at_work(argument):
    with child(argument) as process:
        process.start()
        pid = process.pid
        threading.Timer(0.5, process.close).start()
        with pytest.raises(sandbox.ChildEnded):
            ask(process, {"work": "sleep"})
        wait_for_end(pid)
        with pytest.raises(sandbox.ChildEnded):
            ask(process, {})
        assert not process.pid


@pytest.mark.parametrize("work", ["echo", "spin"])
def test_a_child_ends_with_a_parent_that_is_killed(work):
    program = f"""
import os, signal
from pipeline.system import sandbox
child = sandbox.Child("{MODULE}", task="test", environment={{}})
child.send({{"work": "{work}"}}, timeout_s=1)
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=conftest.ROOT,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    wait_for_end(int(done.stdout))


def test_modules_of_the_working_folder_are_not_imported(tmp_path, monkeypatch):
    for name in ("json", "signal", "tests"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    with child() as process:
        assert ask(process, {}, b"data")[1] == b"data"
