"""Run the commands where Python lacks what Linux has; see support/other_systems."""

import json
import zipfile

import pytest
import requests

from tests.support import drawn_photos, files, processes, server_process

PROGRAM = """
import json
import graft

graft.convert("photos", "records")
records = graft.convert("photos", "records")
graft.train(records.directory, ckpt="alexnet", epochs=2, run_dir="runs/a")
run = graft.load()
print(run.directory)
print(run.evaluate().accuracy)
print(json.dumps(run.predict("photos/red/red001.jpg").to_dict()))
"""


@pytest.mark.slow
def test_records_weights_and_answers_are_those_of_linux(tmp_path, weights_cache):
    """Photos, training on cached features, evaluation, prediction and the server."""
    folders = {}
    for name, path in (("here", files.ROOT), ("elsewhere", files.OTHER_SYSTEMS)):
        folder = folders[name] = tmp_path / name
        drawn_photos.write_photos(folder / "photos")
        options = {"cwd": folder, "cache": weights_cache, "PYTHONPATH": str(path)}
        done = processes.run_command("-c", PROGRAM, **options)
        assert done.returncode == 0, done.stderr
        (folder / "answers").write_text(done.stdout)
    assert (folders["here"] / "runs" / "latest").is_symlink()
    names = {path.name for path in (folders["elsewhere"] / "runs").iterdir()}
    assert names == {"a", "cache"}  # where no link can be made, "latest" is a
    for part in ("records", "runs/a/evaluation", "answers"):
        here, elsewhere = (folder / part for folder in folders.values())
        if part == "answers":
            expected = here.read_text().replace("latest", "a")
            expected = expected.replace(str(folders["here"]), str(folders["elsewhere"]))
            assert elsewhere.read_text() == expected
        else:
            assert digests(elsewhere) == digests(here)
    assert weights(folders["elsewhere"]) == weights(folders["here"])
    with server_process.running(
        "runs/latest",
        cwd=folders["elsewhere"],
        environment=processes.environment_of(
            weights_cache, PYTHONPATH=files.OTHER_SYSTEMS
        ),
    ) as server:
        photo = drawn_photos.encode_photo()
        answer = requests.post(server.url + "predict", data=photo, timeout=60).json()
        code, log = server.stop()
    printed = json.loads((folders["here"] / "answers").read_text().splitlines()[-1])
    assert answer["classes"][0]["class"] == printed["answer"]
    assert (code, log.splitlines()[-1]) == (130, "stopped by SIGINT")


def digests(folder):
    """Return the digests of a folder's files, except files with times or a device."""
    found = files.folder_digest(folder)
    return {name: found[name] for name in found if not name.endswith(("html", ".json"))}


def weights(folder):
    with zipfile.ZipFile(folder / "runs" / "a" / "model.keras") as archive:
        return archive.read("model.weights.h5")
