import itertools
import time

from model.exporting import replay


def test_calls_that_are_timed():
    pauses = itertools.chain([0.05] * 3, itertools.repeat(0.001))
    calls = (lambda: time.sleep(next(pauses)) for _ in itertools.count())
    found = replay.seconds_of(calls, 7)
    assert len(found) == 7
    assert min(found) >= 0.001
    assert sorted(found)[3] < 0.05  # the first ones do not count


def test_fewer_of_slow_ones(monkeypatch):
    now = itertools.count(0, 4)  # seconds pass between any two looks
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    assert replay.seconds_of(itertools.repeat(lambda: None), 100) == [4] * 5
