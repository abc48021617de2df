"""Set the environment of the tests and define the fixtures that many of them use.

What the fixtures are made of stands in tests/support.
"""

import contextlib
import os
import shutil
import signal
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# NumPy's other threads only wait for each other: the tests of two processes share the
# processors, and multiply small matrices. Before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # a GPU is shared
# Plain Keras, in other processes, is to multiply as Graft does on a GPU: in float32.
os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
# Test servers run here; a proxy that this machine may use cannot reach them.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
# Measured precisions, keys and fonts are kept here, and not among the user's own.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="graft-tests-")

import hypothesis
import pytest

from model.evaluation import strangers
from model.loop.inputs import near_copies
from model.networks import registry
from model.runs import pictures
from model.training import settings, staged_training, train_run
from model.training.repeats import out_of_fold
from model.weights import naming_conventions
from pipeline.records import manifest
from pipeline.system.remote import mirror
from tests.support import conversions, drawn_photos, http_server, networks
from tests.support import stores as stores_of_tests

hypothesis.settings.register_profile("busy", deadline=None)  # as a machine may be
hypothesis.settings.load_profile("busy")
_CACHE = os.environ["XDG_CACHE_HOME"]


def pytest_unconfigure():
    shutil.rmtree(_CACHE, ignore_errors=True)


@pytest.fixture
def photos(tmp_path):
    return drawn_photos.write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def shared_records(tmp_path_factory):
    """Records of three classes with 20 photos each; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("shared")
    drawn_photos.write_photos(folder / "photos", per_class=20)
    conversions.convert(folder / "photos", folder / "records")
    return folder / "records"


@pytest.fixture
def found(shared_records):
    return manifest.read(shared_records)


@pytest.fixture
def server():
    running = http_server.Server()
    yield running
    running.close()


@pytest.fixture
def closed_url():
    """An address where nobody listens."""
    running = http_server.Server()
    running.close()
    return running.url


@pytest.fixture
def tiny(monkeypatch):
    """A network "tiny" in the tables, and its naming: tiny/conv1/weights and so on."""
    network, naming = networks.tiny()
    namings = (*naming_conventions.NAMINGS, naming)
    monkeypatch.setitem(registry.NETWORKS, "tiny", network)
    monkeypatch.setattr(naming_conventions, "NAMINGS", namings)
    return network


@pytest.fixture
def tiny_config(tiny, shared_records, tmp_path):
    """Settings of a training of the tiny network, which takes a second."""
    return settings.Config(
        ckpt=networks.write_tiny(tmp_path / "w.safetensors", networks.tiny_arrays()),
        data=str(shared_records),
        run_dir=str(tmp_path / "runs" / "run"),
        epochs=2,
        batch_size=16,
        learning_rate=1e-2,
        precision="float32",
        views=1,
    )


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the pictures of a training, a fifth of the time of a small one."""

    def draw_nothing(_, path):
        path.write_bytes(b"")

    network = staged_training.StagedTraining
    monkeypatch.setattr(network, "draw_first_batch", draw_nothing)
    monkeypatch.setattr(pictures, "draw_curves", draw_nothing)


@pytest.fixture
def undoubted(monkeypatch):
    """Leave out the search for doubtful labels, which ends a training."""
    monkeypatch.setattr(out_of_fold, "write_doubts", lambda network: None)


@pytest.fixture
def only_trained(undrawn, undoubted, monkeypatch):
    """Leave out what a training does besides: half of the time of a small one.

    For tests of weights and figures; pictures, doubts, near copies and strangers have
    trainings of their own.
    """
    monkeypatch.setattr(near_copies, "search", lambda *arguments: {})
    monkeypatch.setattr(strangers, "write", lambda *arguments: None)


@pytest.fixture(scope="session")
def weights_cache(tmp_path_factory):
    """A folder for XDG_CACHE_HOME where `alexnet` are random convolutions."""
    folder = tmp_path_factory.mktemp("cache")
    networks.write_random_weights(folder / "graft")
    return folder


@pytest.fixture(scope="session")
def shared_run(shared_records, weights_cache, tmp_path_factory):
    """A finished run on `shared_records`; not to be changed by a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(weights_cache))
        config = settings.Config(
            ckpt="alexnet",
            data=str(shared_records),
            run_dir=str(tmp_path_factory.mktemp("runs") / "shared"),
            epochs=4,
            batch_size=8,
            learning_rate=1e-3,
        )
        return train_run.train(config)


@pytest.fixture(scope="session")
def stores():
    """Environments of buckets, as stores.SERVERS provides them."""
    with contextlib.ExitStack() as stack:
        yield {
            scheme: stack.enter_context(serve())
            for scheme, serve in stores_of_tests.SERVERS.items()
        }


@pytest.fixture
def new_bucket(stores, monkeypatch, tmp_path):
    """A function from a scheme, such as "s3", to the address of a new bucket."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for environment in stores.values():
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
    with mirror.copied_back():
        yield stores_of_tests.new_bucket


@pytest.fixture
def impatient():
    """Fail a test that waits, for instance for the end of a pipe."""

    def fail(*_):
        raise AssertionError("waited for a minute")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
