import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pipeline.system import sandbox
from tests.support import files, processes

MODULE = "tests.pipeline.system.sandbox_child"


def child(*arguments, **options):
    return contextlib.closing(
        sandbox.Child(
            MODULE, *map(str, arguments), task="test", environment={}, **options
        )
    )


@pytest.fixture(scope="module")
def echo():
    with child() as started:
        yield started


def ask(process, work="", data=b"", timeout_s=30, **request):
    """Return the first answer and its data, and take the second."""
    process.send({"work": work, **request}, data, timeout_s=timeout_s)
    answer, content = process.receive()
    assert process.receive() == ({"second": True}, data[::-1])
    return answer, content


@pytest.mark.parametrize("work", ["", "print"])
@pytest.mark.parametrize("data", [b"", b"12", bytes(range(256)) * 100_000], ids=len)
def test_requests_and_answers_come_over_unchanged(echo, work, data):
    """And what a library prints is no answer."""
    request = {"text": "é\udc80\n", "numbers": [1, 2.5, None]}
    answer, content = ask(echo, work, data, **request)
    assert content == data
    assert answer.items() >= request.items()


def test_a_crash_costs_one_request(echo):
    pid = ask(echo)[0]["pid"]
    with pytest.raises(sandbox.ChildEnded) as caught:
        ask(echo, "crash")
    assert caught.type is sandbox.ChildEnded
    assert ask(echo)[0]["pid"] != pid


def test_a_child_that_is_killed_before_it_reads_a_request_is_replaced(echo):
    pid = ask(echo)[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, [pid, signal.SIGKILL]).start()
    assert ask(echo, number=3)[0].items() > {"number": 3}.items()


@pytest.mark.parametrize(
    ("work", "timeout_s"), [("spin", 0.3), ("spin with little CPU time", 60)]
)
def test_a_hang_costs_one_request(echo, work, timeout_s):
    with pytest.raises(sandbox.OutOfTime):
        ask(echo, work, timeout_s=timeout_s)
    assert ask(echo, data=b"data")[1] == b"data"


def test_a_time_limit_ends_with_its_request(echo):
    pid = ask(echo, timeout_s=0.3)[0]["pid"]
    time.sleep(0.5)
    assert ask(echo)[0]["pid"] == pid


def test_memory_is_limited():
    with child() as process:
        assert ask(process, "take memory")[0]["error"] == "memory"


def test_a_signal_to_the_parent_leaves_no_answer_behind(echo):
    def interrupt(*_):
        raise KeyboardInterrupt

    echo.wait_until_ready()
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        with pytest.raises(KeyboardInterrupt):
            ask(echo, "sleep")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ask(echo, number=2)[0]["number"] == 2


@pytest.mark.parametrize(
    ("argument", "limit_s", "message"),
    [("fail", 60, "to test failed"), ("60", 0.5, "to test took too long")],
)
def test_a_child_that_does_not_start_is_named(argument, limit_s, message):
    with child(argument, start_timeout_s=limit_s) as process:
        for _ in range(2):
            with pytest.raises(sandbox.NotStarted, match=message):
                process.send({}, timeout_s=30)


def test_children_start_at_the_same_time_and_on_their_own(tmp_path):
    """Each waits for the other, and longer than a request may take."""
    with child("3", tmp_path) as first, child("3", tmp_path) as second:
        first.start()
        second.start()
        for process in (first, second):
            assert ask(process, data=b"data", timeout_s=2.9)[1] == b"data"


@pytest.mark.parametrize("argument", ["0", "60"], ids=["working", "starting"])
def test_closing_ends_a_child_at_work(argument):
    with child(argument) as process:
        threading.Timer(0.5, process.close).start()
        for _ in range(2):
            with pytest.raises(sandbox.ChildEnded):
                ask(process, "sleep")


@pytest.mark.parametrize("work", ["", "spin"], ids=["idle", "working"])
def test_a_child_ends_with_a_parent_that_is_killed(work):
    program = f"""
import os, signal
from pipeline.system import sandbox
child = sandbox.Child("{MODULE}", task="test", environment={{}})
child.send({{}}, timeout_s=1)
print(child.receive()[0]["pid"], flush=True)
child.receive()
child.send({{"work": "{work}"}}, timeout_s=1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=files.ROOT,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    processes.wait_for_end(int(done.stdout))


def test_neither_the_working_folder_nor_what_is_printed_at_the_start_matters(
    tmp_path, monkeypatch
):
    for name in ("json", "signal", "tests"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    (tmp_path / "site").mkdir()
    text = "print('hello ' * 9, flush=True)"
    (tmp_path / "site" / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    with child() as process:
        assert ask(process, data=b"data")[1] == b"data"
