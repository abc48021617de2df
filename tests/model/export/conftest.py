import pytest

from pipeline.records import manifest
from tests.support import small_runs


@pytest.fixture(scope="session")
def small_run(shared_records, tmp_path_factory):
    """Not to be changed by a test, except that things may be exported into it."""
    found = manifest.read(shared_records)
    folder = tmp_path_factory.mktemp("exporting") / "small"
    return small_runs.write_run(folder, found, small_runs.colour_model())
