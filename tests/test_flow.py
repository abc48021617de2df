"""The commands of the README, run as a user would."""

import json
import re
import shutil

import pytest

import evaluate
import train
from pipeline.system.errors import UserError
from tests.support import files, processes

ENTRY = ("train.py", "evaluate.py", "pipeline", "model")


def readme_commands():
    """The tour: the first block of `python` commands."""
    text = (files.ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(
        r"```sh\n((?:\$ )?python -m pipeline\.download .*?)```", text, re.S
    )
    return [line for line in block.splitlines() if line.startswith("python ")]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the code, so that what the commands write lies elsewhere."""
    folder = tmp_path_factory.mktemp("house")
    for name in ENTRY:
        source = files.ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.mark.slow
def test_the_tour_of_the_readme(house, weights_cache):
    """All four commands with default flags, on the weights that tests have."""
    commands = readme_commands()
    assert [line.split()[1:3] for line in commands] == [
        ["-m", "pipeline.download"],
        ["-m", "pipeline.convert"],
        ["train.py", "--ckpt=alexnet"],
        ["evaluate.py"],
    ]
    for line in commands:
        words = line.split("#")[0].split()[1:]
        done = processes.run_command(*words, cwd=house, cache=weights_cache)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    head = json.loads((house / "tfrecords" / "manifest.json").read_text())
    assert len(head["class_names"]) == 5
    assert head["files"]["total"] == head["files"]["copied"] >= 500
    latest = house / "runs" / "latest"
    figures = json.loads((latest / "evaluation" / "test.json").read_text())
    counts = [row["test"] for row in head["counts"].values()]
    assert figures["num_examples"] == sum(counts)
    lines = (latest / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert losses[-1] < 0.9 * losses[0]  # even on means of convolutions drawn by lot
    assert f"{figures['accuracy']:.4f}" in done.stdout
    again = processes.run_command("-m", "pipeline.convert", "flowers/", cwd=house)
    assert again.returncode == 0
    assert "nothing changed" in again.stdout


@pytest.mark.parametrize(
    ("main", "advice"),
    [(train.main, "pipeline.convert"), (evaluate.main, "python train.py")],
    ids=["train", "evaluate"],
)
def test_without_what_they_need_nothing_is_written(tmp_path, monkeypatch, main, advice):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=advice):
        main({})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        pytest.param(("train.py",), "pipeline.convert", marks=pytest.mark.slow),
        pytest.param(("evaluate.py",), "python train.py", marks=pytest.mark.slow),
        (("-m", "pipeline.convert", "flowers/"), "no such folder"),
    ],
    ids=["train", "evaluate", "convert"],
)
def test_without_what_they_need_commands_say_what_to_do(tmp_path, words, advice):
    for name in ENTRY:
        (tmp_path / name).symlink_to(files.ROOT / name)
    done = processes.run_command(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    *notes, line = done.stderr.splitlines()
    assert all(note.startswith("note: no --ckpt") for note in notes)
    assert line.startswith("error: ")
    assert advice in line
    assert {path.name for path in tmp_path.iterdir()} == set(ENTRY)
