"""A judgement with mistakes and hostile class names, for the tests of its page."""

import pytest

from tests.support import evaluated_runs

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "red")


@pytest.fixture(scope="session")
def hostile_records(tmp_path_factory):
    records = evaluated_runs.misfiled_records(tmp_path_factory.mktemp("misfiled"))
    return evaluated_runs.renamed(records, HOSTILE)


@pytest.fixture(scope="session")
def hostile_judged(hostile_records, tmp_path_factory):
    """Of all 60 photos, by a network that has seen none of them."""
    directory = tmp_path_factory.mktemp("hostile") / "run"
    return evaluated_runs.judged(directory, hostile_records)
