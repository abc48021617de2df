import sys

import numpy as np
import pytest

from model.export import exportable, run_exported_file, verify_file
from model.predict import photo_batches
from pipeline.images import record_image
from pipeline.records import manifest
from tests.support import exports, small_runs


@pytest.fixture(scope="session")
def small_run(shared_records, tmp_path_factory):
    """Not to be changed by a test, except that things may be exported into it."""
    found = manifest.read(shared_records)
    folder = tmp_path_factory.mktemp("exporting") / "small"
    run = small_runs.write_run(folder, found, small_runs.colour_model())
    exports.add_stranger_scores(run)
    return run


@pytest.fixture(scope="session")
def expected(small_run):
    """A function that classifies an image file with the run's own model."""
    model = exportable.load_run(small_run).model
    network_input = photo_batches.NetworkInput(small_runs.SPEC)

    def classify(data):
        view = network_input(record_image.encode_for_record(data))
        return model(view[None].astype(np.float32), training=False).numpy()[0]

    return classify


@pytest.fixture
def proof_here(monkeypatch):
    """Prove a file in this process, for a fresh one takes seconds to start.

    The files of `exported` are proven in a fresh one.
    """

    def run(request_path, *_):
        monkeypatch.setattr(sys, "argv", ["", str(request_path)])
        run_exported_file.main()

    monkeypatch.setattr(verify_file, "_run", run)


@pytest.fixture(scope="session")
def exported(small_run, tmp_path_factory):
    """A function that exports to a format, once a session: it takes seconds."""
    done = {}

    def export_once(form):
        if form not in done:
            name = "a.keras" if form == "keras" else "a"
            path = tmp_path_factory.mktemp(form) / name
            done[form] = exports.export(small_run, form, path)
        return done[form]

    return export_once
