import json
import os
import shutil
import signal
import threading
import time

import pytest

from model.predict import (
    classifier,
    output_formats,
    predict_parts,
    predict_settings,
    predicting,
)
from pipeline.images import isolated_decoder
from pipeline.system import config_flags
from pipeline.system.errors import DataError, UsageError
from tests.support import conversions, drawn_photos, files, processes


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(predict_parts, "_PART_PHOTOS", 4)


@pytest.fixture
def decoded_here(monkeypatch):
    monkeypatch.setattr(isolated_decoder, "Decoders", conversions.Decoders)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Folder of three classes with 7 photos each, a cut photo and a text file."""
    folder = tmp_path_factory.mktemp("parts") / "photos"
    drawn_photos.write_photos(folder, per_class=7)
    first = min(folder.rglob("*.jpg"))
    (first.parent / "cut,\n.jpg").write_bytes(first.read_bytes()[:500])
    (first.parent / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture
def settings(source, shared_run, tmp_path):
    return {
        "photos": (str(source),),
        "run_dir": str(shared_run),
        "out": str(tmp_path / "out"),
        "batch_size": 4,
        "top": 2,
    }


@pytest.fixture(scope="module")
def expected(source, shared_run):
    """JSON lines of an ordinary prediction: for good photos, and for the others."""
    config = predict_settings.Config(photos=(str(source),), batch_size=4, top=2)
    found = list(predicting.predict(config, classifier.load_run(str(shared_run))))
    _, as_json = output_formats.writer("jsonl", top=2, num_similar=0)
    good = [as_json(prediction) for prediction in found if prediction.classes]
    return good, [as_json(prediction) for prediction in found if prediction.problem]


def predict(settings, **more):
    """Run a job, or its share; the one that ends last reports the cut photo."""
    predict_parts.predict(config_flags.build(predict_settings.Config, settings | more))


def lines(folder, name):
    return (folder / name).read_text().splitlines(keepends=True)


def check(folder, expected):
    good, bad = expected
    assert len(good) == 21
    assert lines(folder, "predictions.jsonl") == good
    problems = lines(folder, "problems.jsonl")
    assert [line for line in problems if "not_a_photo" not in line] == bad
    others = [json.loads(line) for line in problems if "not_a_photo" in line]
    assert [other["problem"] for other in others] == ["not an image of a known format"]


@pytest.mark.usefixtures("decoded_here")
class TestInThisProcess:
    def test_beams_direct_runner_predicts_as_one_process_without_a_download(
        self, settings, expected, tmp_path, monkeypatch, capfd
    ):
        pytest.importorskip("apache_beam")
        from apache_beam.runners.portability import prism_runner

        monkeypatch.setattr(prism_runner, "PrismRunner", None)
        with pytest.raises(DataError, match="1 of 22 photos could not be read"):
            predict(settings, runner="DirectRunner")
        check(tmp_path / "out", expected)
        heard = capfd.readouterr().err.splitlines()
        assert [line.split()[0] for line in heard] == ["6", "ignored:"]

    def test_shares_are_joined_by_the_process_that_ends_last(
        self, settings, expected, tmp_path, capsys
    ):
        predict(settings, shard="2/3")
        predict(settings, shard="1/3")
        assert "2 of 6 parts are missing" in capsys.readouterr().out
        assert not (tmp_path / "out" / "predictions.jsonl").exists()
        with pytest.raises(DataError, match="could not be read"):
            predict(settings, shard="3/3")
        check(tmp_path / "out", expected)

    def test_a_second_run_predicts_only_the_parts_that_are_missing(
        self, settings, expected, tmp_path, monkeypatch
    ):
        folder = tmp_path / "out"
        with pytest.raises(DataError, match="could not be read"):
            predict(settings)
        for name in ("predictions.jsonl", "part-00002.predictions.jsonl"):
            (folder / name).unlink()
        written = []
        before = predict_parts._write

        def write(job, part):
            written.append(part.number)
            return before(job, part)

        monkeypatch.setattr(predict_parts, "_write", write)
        for _ in range(2):
            with pytest.raises(DataError, match="could not be read"):
                predict(settings)
        assert written == [2]
        check(folder, expected)

    def test_a_part_that_lost_lines_is_named_and_not_joined(self, settings, tmp_path):
        folder = tmp_path / "out"
        with pytest.raises(DataError, match="could not be read"):
            predict(settings)
        part = folder / "part-00002.predictions.jsonl"
        text = part.read_text()
        for damaged in (text[:-9], "", text + text):
            (folder / "predictions.jsonl").unlink(missing_ok=True)
            part.write_text(damaged)
            with pytest.raises(DataError, match=r"part-00002.*damaged. Delete it, and"):
                predict(settings)
            assert not (folder / "predictions.jsonl").exists()

    def test_results_of_another_job_are_neither_used_nor_replaced(
        self, settings, source, tmp_path
    ):
        predict(settings, shard="1/6")
        before = files.folder_digest(tmp_path / "out")
        first = str(min(source.rglob("*.jpg")))
        for change in ({"photos": (first,)}, {"top": 3}, {"batch_size": 2}):
            with pytest.raises(DataError, match=r"job\.json: this folder is for other"):
                predict(settings | change)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "predictions.jsonl").write_text("mine")
        with pytest.raises(DataError, match="has other files"):
            predict(settings, out=str(tmp_path / "mine"))
        assert files.folder_digest(tmp_path / "out") == before

    def test_a_job_that_was_killed_while_it_began_is_written_whole(
        self, settings, tmp_path
    ):
        predict(settings, shard="1/6")
        facts = tmp_path / "out" / "job.json"
        whole = facts.read_bytes()
        for size in (0, 40):
            facts.write_bytes(whole[:size])
            predict(settings, shard="2/6")
            assert facts.read_bytes() == whole

    def test_a_run_that_was_trained_again_is_another_job(self, settings, tmp_path):
        run = shutil.copytree(settings["run_dir"], tmp_path / "run")
        predict(settings, run_dir=str(run), shard="1/6")
        (run / "strangers.npz").unlink()
        with pytest.raises(DataError, match="or another run"):
            predict(settings, run_dir=str(run))

    def test_a_folder_without_photos_leaves_nothing(self, settings, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="there are no photos"):
            predict(settings, photos=(str(tmp_path / "empty"),))
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"out": "", "runner": "DaskRunner"}, "expected --out=FOLDER, too"),
        ({"out": "", "shard": "1/2"}, "expected --out=FOLDER, too"),
        ({"runner": "DaskRunner", "shard": "1/2"}, "only one of them"),
        ({"shard": "3/2"}, "expected N/COUNT"),
        ({"shard": "two"}, "expected N/COUNT"),
        ({"explain": "why"}, "--out and --explain"),
        ({"suggest": 5}, "only one of them"),
        ({"sort_into": "sorted"}, "--out and --sort_into"),
        ({"every": "1s"}, "--out and --every"),
        ({"format": "csv"}, "--out: expected no --format=csv"),
        ({"out": "gs://bucket/out"}, "FOLDER on this machine"),
        ({"beam_flags": ("--dask_npartitions=2",)}, "no such flag"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        config_flags.build(
            predict_settings.Config, {"photos": ("a.jpg",), "out": "out", **flags}
        )


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_predicts_as_one_process(
    settings, expected, tmp_path, monkeypatch
):
    """Four processes with one thread; one is killed when two parts are there."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", str(files.ROOT))
    with distributed.LocalCluster(
        n_workers=4, threads_per_worker=1, dashboard_address=":0"
    ) as cluster:
        address = f"--dask_client_address={cluster.scheduler_address}"
        victim = cluster.workers[0].pid

        def kill():
            deadline = time.monotonic() + 300
            while len([*tmp_path.glob("out/part-*.predictions.jsonl")]) < 2:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(DataError, match="1 of 22 photos could not be read"):
            predict(settings, runner="DaskRunner", beam_flags=(address,))
        killer.join()
        assert not processes.is_running(victim)
    check(tmp_path / "out", expected)
