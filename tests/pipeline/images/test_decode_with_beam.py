import os
import sys

import cv2
import pytest

from pipeline.convert import conversion, convert_settings
from pipeline.images import decode_with_beam
from pipeline.records import manifest
from pipeline.system.errors import DataError
from tests.support import conversions, drawn_photos, files, processes

pytest.importorskip("apache_beam")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes, with a cut photo, a copy, a text and a large photo among them."""
    folder = tmp_path_factory.mktemp("beam") / "photos"
    drawn_photos.write_photos(folder, per_class=8, classes=("red", "blue"))
    first = (folder / "red" / "red000.jpg").read_bytes()
    (folder / "red" / "cut.jpg").write_bytes(first[: len(first) // 2])
    (folder / "red" / "copy.jpg").write_bytes(first)
    (folder / "blue" / "notes.txt").write_text("no photo")
    large = drawn_photos.draw_photo("blue", 9, 900, 1200)
    cv2.imwrite(str(folder / "blue" / "large.png"), large)
    return folder


@pytest.fixture(scope="module")
def expected(photos):
    """The data set as this machine's own processes make it."""
    out = photos.parent / "local"
    conversions.convert(photos, out)
    return files.folder_digest(out)


def command(source, out, *flags):
    words = ("-m", "pipeline.convert", source, f"--out={out}", *flags)
    return processes.run_command(*words)


@pytest.mark.slow
def test_several_processes_of_the_direct_runner_write_the_same_records(
    photos, expected, tmp_path
):
    words = (
        "--runner=DirectRunner",
        "--direct_num_workers=2",
        "--direct_running_mode=multi_processing",
    )
    done = command(photos, tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    assert all(
        line.startswith("convert: ") for line in done.stderr.splitlines() if line
    )
    assert "wrote 2 record files" in done.stdout
    assert files.folder_digest(tmp_path / "out") == expected
    again = command(photos, tmp_path / "out", *words)
    assert "nothing changed" in again.stdout, again.stderr


@pytest.mark.slow
def test_a_dask_cluster_writes_the_same_records(
    photos, expected, tmp_path, monkeypatch
):
    """Two processes that know Graft; the client is closed before the cluster."""
    distributed = pytest.importorskip("distributed")
    paths = [str(files.ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as cluster:
        address = f"--dask_client_address={cluster.scheduler_address}"
        done = command(photos, tmp_path / "out", "--runner=DaskRunner", address)
    assert done.returncode == 0, done.stderr
    assert all(
        line.startswith("convert: ") for line in done.stderr.splitlines() if line
    )
    assert files.folder_digest(tmp_path / "out") == expected


@pytest.mark.slow
def test_a_store_that_tensorflow_reaches_holds_the_same_records(
    photos, expected, tmp_path
):
    done = command(f"file://{photos}", f"file://{tmp_path}/out", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert files.folder_digest(tmp_path / "out") == expected


def test_many_small_blocks_write_the_same_records(
    photos, expected, tmp_path, monkeypatch
):
    """Each block is an element, whose files are named after it."""
    monkeypatch.setattr(decode_with_beam.Beam, "block_files", 5)
    config = convert_settings.Config(
        source=str(photos),
        out=str(tmp_path / "out"),
        runner="DirectRunner",
        beam_flags=("--direct_running_mode=in_memory",),
    )
    conversion.convert(config)
    assert files.folder_digest(tmp_path / "out") == expected
    assert manifest.read(tmp_path / "out").tally.files()["total"] == 20


def fail():
    raise OSError(28, "No space left on device")


def test_a_failing_job_is_an_error_that_names_the_runner():
    runner = decode_with_beam.Beam("DirectRunner", ())
    with pytest.raises(
        DataError, match=r"--runner=DirectRunner: the job failed .*No space left"
    ):
        runner.call([fail])


DIRECT, DASK = "--runner=DirectRunner", "--runner=DaskRunner"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--direct_num_workers=2"], "direct_num_workers=2: no such flag"),
        ([DIRECT, "--group_byy=x"], "Did you mean --group_by?"),
        (
            [DIRECT, "--direct_running_mode=multi", "--direct_num_workers=x"],
            "Beam says: argument --direct_running_mode: invalid",
        ),
        (
            [DIRECT, "--workers=2"],
            "--workers: has no effect with --runner=DirectRunner",
        ),
        ([DIRECT, "--direct_num_workers=2"], "alone. Add --direct_running_mode=multi"),
        ([DIRECT, "--num_workers=2"], "--num_workers: has no effect"),
        ([DASK, "--direct_num_workers=2"], "Expected one of --dask_client_address"),
        ([DASK, "--dask_npartition=2"], "--dask_npartition: has no effect"),
        (
            ["--runner=FlinkRunner", "--dask_npartitions=2"],
            "--dask_npartitions: has no",
        ),
    ],
)
def test_a_flag_that_does_nothing_is_refused(flags, message, photos, tmp_path):
    done = command(photos, tmp_path / "out", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_runner_without_beam_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(DataError, match="Apache Beam is not installed"):
        decode_with_beam.Beam("DirectRunner", [])
