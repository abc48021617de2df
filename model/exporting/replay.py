"""An exported file and photos -> what it says of them; a process without Graft.

Run as `python -I replay.py REQUEST.json`, away from the project: nothing here but the
standard library, NumPy and the one package that a user of such a file would have.

REQUEST.json is {"kind", "model", "labels", "calls", "timed"}, and each of "calls" is
{"signature", "inputs", "answers"}. "inputs" are the names of files: .npy of a batch of
images, or photos of any other name; each photo or image is asked about alone. "answers"
is the .npz to write: probabilities float64 [n, num_classes], class_names (as JSON), and
seconds float64 [timed or fewer] of calls
made again.
"""

import functools
import itertools
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# One photo or image -> probabilities [num_classes].
Classify = Callable[[Any], Any]
Request = dict[str, Any]
_WARM_UP = 3  # calls
_LEAST = 5  # calls that are timed
_TIMING_S = 10.0  # after which no more are


@functools.cache
def _loaded(path: str) -> Any:
    import tensorflow as tf

    return tf.saved_model.load(path)


def _saved_model(request: Request, signature: str) -> tuple[Classify, list[str]]:
    import tensorflow as tf

    function = _loaded(request["model"]).signatures[signature]
    names: list[str] = []

    def classify(one: Any) -> Any:
        if isinstance(one, bytes):
            found = function(image_bytes=tf.constant([one]))
        else:
            found = function(image=tf.constant(one[None], tf.float32))
        if not names:
            names.extend(_decoded(name) for name in found["classes"].numpy()[0])
        return found["probabilities"].numpy()[0]

    return classify, names


def _onnx(request: Request, _: str) -> tuple[Classify, list[str]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        request["model"], providers=["CPUExecutionProvider"]
    )
    properties = session.get_modelmeta().custom_metadata_map

    def classify(one: Any) -> Any:
        return session.run(["probabilities"], {"image": one[None]})[0][0]

    return classify, json.loads(properties["class_names"])


def _litert(request: Request, _: str) -> tuple[Classify, list[str]]:
    from ai_edge_litert import interpreter

    loaded = interpreter.Interpreter(
        request["model"], num_threads=len(os.sched_getaffinity(0))
    )
    runner = loaded.get_signature_runner("serving_default")

    def classify(one: Any) -> Any:
        return runner(image=one[None])["probabilities"][0]

    with zipfile.ZipFile(request["model"]) as archive:
        return classify, _lines(archive.read("labels.txt"))


def _keras(request: Request, _: str) -> tuple[Classify, list[str]]:
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(request["model"])
    function = tf.function(lambda images: model(images, training=False))

    def classify(one: Any) -> Any:
        return function(tf.constant(one[None], tf.float32)).numpy()[0]

    return classify, _lines(Path(request["labels"]).read_bytes())


_KINDS = {
    "saved_model": _saved_model,
    "onnx": _onnx,
    "litert": _litert,
    "keras": _keras,
}


def _decoded(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _lines(content: bytes) -> list[str]:
    return [_decoded(line) for line in content.split(b"\n")[:-1]]


def _inputs(names: list[str]) -> Iterator[Any]:
    for name in names:
        if name.endswith(".npy"):
            yield from np.load(name, mmap_mode="r")
        else:
            yield Path(name).read_bytes()


def seconds_of(calls: Iterator[Callable[[], object]], count: int) -> list[float]:
    """Seconds of calls after some that do not count; fewer of slow ones."""
    found: list[float] = []
    begin = time.perf_counter()
    for call in itertools.islice(calls, _WARM_UP + count):
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        found.append(end - start)
        if end - begin > _TIMING_S and len(found) >= _WARM_UP + _LEAST:
            break
    return found[_WARM_UP:]


def _calls(classify: Classify, names: list[str]) -> Iterator[Callable[[], object]]:
    """One photo after the other, without end."""
    while True:
        yield from (functools.partial(classify, one) for one in _inputs(names))


def main() -> None:
    """Serves one request."""
    request = json.loads(Path(sys.argv[1]).read_bytes())
    for call in request["calls"]:
        classify, class_names = _KINDS[request["kind"]](request, call["signature"])
        found = [classify(one) for one in _inputs(call["inputs"])]
        calls = _calls(classify, call["inputs"])
        np.savez(
            call["answers"],
            probabilities=np.array(found, np.float64),
            class_names=np.array([json.dumps(name) for name in class_names]),
            seconds=np.array(seconds_of(calls, request["timed"])),
        )


if __name__ == "__main__":
    main()
