import os
import signal

import numpy as np
import pytest

from model.runs import run_folder, snapshots


def arrays(number):
    random = np.random.default_rng(number)
    return {"a/b": random.normal(size=(50, 3)), "n": np.array(number)}


def same(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], expected[name]) for name in expected
    )


@pytest.fixture
def folder(tmp_path):
    for number in range(1, 5):
        snapshots.write(tmp_path, number, arrays(number), keep=3)
    return tmp_path


def test_the_last_snapshots_are_kept(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        f"step-0000000{number}.npz" for number in (2, 3, 4)
    ]
    assert same(snapshots.read_latest(folder), arrays(4))


def test_an_empty_folder_has_no_latest_snapshot(tmp_path):
    assert snapshots.read_latest(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "pickle"])
def test_a_damaged_snapshot_is_skipped_and_renamed(folder, capsys, damage):
    path = folder / "step-00000004.npz"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "pickle":
        np.savez(path, a=np.array([{}], object))
        data = path.read_bytes()
    else:
        data = b"" if damage == "empty" else b"nothing of the kind"
    path.write_bytes(data)
    assert same(snapshots.read_latest(folder), arrays(3))
    said = capsys.readouterr().err
    assert "step-00000004.npz is damaged" in said
    assert "snapshot before it" in said
    # It does not keep the new ones from staying, whose numbers may be lower.
    snapshots.write(folder, 4, arrays(4), keep=1)
    assert same(snapshots.read_latest(folder), arrays(4))


def test_there_is_no_latest_when_all_are_damaged(folder, capsys):
    for path in folder.iterdir():
        path.write_bytes(b"")
    assert snapshots.read_latest(folder) is None
    assert "all snapshots are damaged" in capsys.readouterr().err
    snapshots.write(folder, 1, arrays(1), keep=1)
    assert same(snapshots.read_latest(folder), arrays(1))


def test_a_failed_write_leaves_the_old_snapshots(folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    before = sorted(folder.iterdir())
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        snapshots.write(folder, 5, arrays(5), keep=1)
    assert sorted(folder.iterdir()) == before


def test_one_process_at_a_time_trains_a_run(tmp_path):
    with snapshots.locked(tmp_path) as folder:
        assert folder.is_dir()
        with (
            pytest.raises(run_folder.RunError, match="another process is training"),
            snapshots.locked(tmp_path),
        ):
            pass
    with snapshots.locked(tmp_path):
        pass


def test_incomplete_files_of_a_killed_process_are_removed(tmp_path):
    with snapshots.locked(tmp_path) as folder:
        snapshots.write(folder, 1, arrays(1), keep=2)
    left = (folder / ".step-00000002.npz.7.partial", tmp_path / ".m.7.partial.keras")
    for path in left:
        path.write_bytes(b"half")
    with snapshots.locked(tmp_path):
        assert not any(path.exists() for path in left)
        assert same(snapshots.read_latest(folder), arrays(1))


class TestClock:
    def test_a_snapshot_is_due_by_steps(self):
        clock = snapshots.Clock(minutes=60, steps=3)
        assert [step for step in range(1, 11) if clock.is_due(step)] == [3, 6, 9]

    def test_a_snapshot_is_due_by_time(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(snapshots.time, "monotonic", lambda: now[0])
        clock = snapshots.Clock(minutes=1, steps=0)
        due = []
        for step in range(200):
            now[0] = float(step)
            due.append(clock.is_due(step))
        assert [step for step, is_due in enumerate(due) if is_due] == [60, 120, 180]

    def test_a_signal_requests_a_snapshot(self):
        before = signal.getsignal(signal.SIGUSR1)
        clock = snapshots.Clock(minutes=60, steps=0)
        with clock.listening():
            assert not clock.is_due(1)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert clock.is_due(2)
            assert not clock.is_due(3)
        assert signal.getsignal(signal.SIGUSR1) == before
