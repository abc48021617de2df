"""A judgement with mistakes and hostile class names, for the tests of its page."""

import pytest

from tests.model import judgements

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "red")


@pytest.fixture(scope="session")
def hostile_records(tmp_path_factory):
    records = judgements.misfiled_records(tmp_path_factory.mktemp("misfiled"))
    return judgements.renamed(records, HOSTILE)


@pytest.fixture(scope="session")
def hostile_judged(hostile_records, tmp_path_factory):
    """Of all 60 photos, by a network that has seen none of them."""
    directory = tmp_path_factory.mktemp("hostile") / "run"
    return judgements.judged(directory, hostile_records)
