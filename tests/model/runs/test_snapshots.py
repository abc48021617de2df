import os
import signal

import numpy as np
import pytest

from model.runs import run_folder, snapshots


def arrays(number):
    random = np.random.default_rng(number)
    return {"a/b": random.normal(size=(50, 3)), "n": np.array(number)}


def assert_latest(folder, number):
    latest, expected = snapshots.read_latest(folder), arrays(number)
    assert latest.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(latest[name], array)


@pytest.fixture
def folder(tmp_path):
    for number in range(1, 5):
        snapshots.write(tmp_path, number, arrays(number), keep=3)
    return tmp_path


def test_the_last_snapshots_are_kept(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        f"step-0000000{number}.npz" for number in (2, 3, 4)
    ]
    assert_latest(folder, 4)


def test_an_empty_or_missing_folder_has_no_latest_snapshot(tmp_path):
    assert snapshots.read_latest(tmp_path) is None
    assert snapshots.read_latest(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "pickle"])
def test_a_damaged_snapshot_is_skipped_and_renamed(folder, capsys, damage):
    path = folder / "step-00000004.npz"
    data = path.read_bytes()
    half = len(data) // 2
    if damage == "pickle":
        np.savez(path, a=np.array([{}], object))
    else:
        flipped = bytes((data[half] ^ 1,))
        contents = {
            "cut": data[:half],
            "flip": data[:half] + flipped + data[half + 1 :],
            "empty": b"",
            "text": b"no snapshot",
        }
        path.write_bytes(contents[damage])
    assert_latest(folder, 3)
    stderr = capsys.readouterr().err
    assert "step-00000004.npz is damaged" in stderr
    assert "snapshot before it" in stderr
    # It does not count as one of the newest, so that new ones are kept.
    snapshots.write(folder, 4, arrays(4), keep=1)
    assert_latest(folder, 4)


def test_there_is_no_latest_when_all_are_damaged(folder, capsys):
    for path in folder.iterdir():
        path.write_bytes(b"")
    assert snapshots.read_latest(folder) is None
    assert "all snapshots are damaged" in capsys.readouterr().err
    snapshots.write(folder, 1, arrays(1), keep=1)
    assert_latest(folder, 1)


def test_a_failed_write_leaves_the_old_snapshots(folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    before = sorted(folder.iterdir())
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        snapshots.write(folder, 5, arrays(5), keep=1)
    assert sorted(folder.iterdir()) == before


def test_one_process_at_a_time_trains_a_run(tmp_path):
    with snapshots.locked(tmp_path):
        assert (tmp_path / run_folder.CHECKPOINTS).is_dir()
        with (
            pytest.raises(run_folder.RunError, match="another process is training"),
            snapshots.locked(tmp_path),
        ):
            pass
    with snapshots.locked(tmp_path):
        pass


def test_incomplete_files_of_a_killed_process_are_removed(tmp_path):
    folder = tmp_path / run_folder.CHECKPOINTS
    with snapshots.locked(tmp_path):
        snapshots.write(folder, 1, arrays(1), keep=2)
    left = (folder / ".step-00000002.npz.7.partial", tmp_path / ".m.7.partial.keras")
    for path in left:
        path.write_bytes(b"half")
    with snapshots.locked(tmp_path):
        assert not any(path.exists() for path in left)
        assert_latest(folder, 1)


class TestClock:
    def test_a_snapshot_is_due_by_steps(self):
        clock = snapshots.Clock(minutes=60, steps=3)
        assert [step for step in range(1, 11) if clock.is_due(step)] == [3, 6, 9]

    def test_a_snapshot_is_due_by_time(self, monkeypatch):
        monkeypatch.setattr(snapshots.time, "monotonic", lambda: 0.0)
        clock = snapshots.Clock(minutes=1, steps=0)
        due = []
        for now_s in range(200):
            monkeypatch.setattr(snapshots.time, "monotonic", lambda s=now_s: s)
            due += [now_s] * clock.is_due(step=now_s)
        assert due == [60, 120, 180]

    def test_a_signal_requests_a_snapshot(self):
        before = signal.getsignal(signal.SIGUSR1)
        clock = snapshots.Clock(minutes=60, steps=0)
        with clock.listening():
            assert not clock.is_due(1)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert clock.is_due(2)
            assert not clock.is_due(3)
        assert signal.getsignal(signal.SIGUSR1) == before
