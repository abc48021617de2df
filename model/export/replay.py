"""An exported file and photos -> what it says of them; a process without Graft.

Run as `python -I replay.py REQUEST.json`, away from the project: nothing here but the
standard library, NumPy and the one package that a user of such a file would have.

REQUEST.json is {"kind", "model", "labels", "calls", "timed"}, and each of "calls" is
{"signature", "inputs", "answers"}. "inputs" are the names of files: .npy of a batch of
images, or photos of any other name; each photo or image is asked about alone, and then
some of them together. "answers" is the .npz to write: probabilities float64
[n, num_classes], class_names (as JSON), together int64 [2 to 4], the photos of the
batch, its probabilities as batch float64 [2 to 4, num_classes], and seconds float64
[timed or fewer] of calls made again.
"""

import functools
import itertools
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Photos, or images of one size -> probabilities [n, num_classes].
Classify = Callable[[list[Any]], Any]
Request = dict[str, Any]
_WARM_UP = 3  # calls
_LEAST = 5  # calls that are timed
_TIMING_S = 10.0  # after which no more are
_TOGETHER = 4


@functools.cache
def _loaded(path: str) -> Any:
    import tensorflow as tf

    return tf.saved_model.load(path)


def _saved_model(request: Request, signature: str) -> tuple[Classify, list[str]]:
    import tensorflow as tf

    function = _loaded(request["model"]).signatures[signature]
    names: list[str] = []

    def classify(some: list[Any]) -> Any:
        if isinstance(some[0], bytes):
            found = function(image_bytes=tf.constant(some))
        else:
            found = function(image=tf.constant(np.stack(some), tf.float32))
        if not names:
            names.extend(_decoded(name) for name in found["classes"].numpy()[0])
        return found["probabilities"].numpy()

    return classify, names


def _onnx(request: Request, _: str) -> tuple[Classify, list[str]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        request["model"], providers=["CPUExecutionProvider"]
    )
    properties = session.get_modelmeta().custom_metadata_map

    def classify(some: list[Any]) -> Any:
        return session.run(["probabilities"], {"image": np.stack(some)})[0]

    return classify, json.loads(properties["class_names"])


def _litert(request: Request, _: str) -> tuple[Classify, list[str]]:
    from ai_edge_litert import interpreter

    loaded = interpreter.Interpreter(
        request["model"], num_threads=len(os.sched_getaffinity(0))
    )
    runner = loaded.get_signature_runner("serving_default")

    def classify(some: list[Any]) -> Any:
        return runner(image=np.stack(some))["probabilities"]

    with zipfile.ZipFile(request["model"]) as archive:
        return classify, _lines(archive.read("labels.txt"))


def _keras(request: Request, _: str) -> tuple[Classify, list[str]]:
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(request["model"])
    function = tf.function(lambda images: model(images, training=False))

    def classify(some: list[Any]) -> Any:
        return function(tf.constant(np.stack(some), tf.float32)).numpy()

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
        yield from (functools.partial(classify, [one]) for one in _inputs(names))


def batch_of(inputs: Iterable[Any]) -> tuple[list[int], list[Any]]:
    """Which photos can be asked about together, and these: up to 4 of one size.

    A photo that has no other of its size is there twice.
    """
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for number, one in enumerate(inputs):
        group = groups.setdefault(getattr(one, "shape", None), [])
        if len(group) < _TOGETHER:
            group.append((number, one))
    most = max(groups.values(), key=len)
    numbers, some = zip(*(most if len(most) > 1 else most * 2), strict=True)
    return list(numbers), list(some)


def main() -> None:
    """Serves one request."""
    request = json.loads(Path(sys.argv[1]).read_bytes())
    for call in request["calls"]:
        classify, class_names = _KINDS[request["kind"]](request, call["signature"])
        found = [classify([one])[0] for one in _inputs(call["inputs"])]
        together, some = batch_of(_inputs(call["inputs"]))
        batch = classify(some)
        calls = _calls(classify, call["inputs"])
        np.savez(
            call["answers"],
            probabilities=np.array(found, np.float64),
            together=np.array(together, np.int64),
            batch=np.array(batch, np.float64),
            class_names=np.array([json.dumps(name) for name in class_names]),
            seconds=np.array(seconds_of(calls, request["timed"])),
        )


if __name__ == "__main__":
    main()
