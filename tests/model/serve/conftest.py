import pytest

from model.predict import classifier
from model.serve import prediction_service, serve_settings
from tests.support import server_process


@pytest.fixture(scope="session")
def service(shared_run):
    """A service in this process that refuses photos of more than a million pixels."""
    started = prediction_service.Service(
        classifier.load_run(str(shared_run)),
        serve_settings.Config(max_megapixels=1, decode_timeout_s=30),
    )
    started.warm_up()
    yield started
    started.close()


@pytest.fixture(scope="session")
def server(shared_run):
    """A server in a process of its own."""
    with server_process.running(shared_run) as started:
        yield started
