"""Classify photos with an exported file, in a process without Graft.

Run as `python -I run_exported_file.py REQUEST.json`. It imports only the standard
library, NumPy and the one package that a user of the file would have.

REQUEST.json is {"kind", "model", "labels", "scorer", "calls", "timed"}. "scorer" is the
file of stranger scores beside a .keras file, or "". Each of "calls" is {"signature",
"inputs", "outputs"}. "inputs" are names of files: .npy files hold a batch of images,
all others are photos. Each photo or image is classified alone, and two to four of them
again as a batch. "outputs" is the .npz to write: probabilities float64 [n, num_classes]
or, with stranger scores as the last column, [n, num_classes + 1]; indices int64 [n] of
their photos, class_names (as JSON), and seconds float64 [timed or fewer] of repeated
calls.
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

# Photos, or images of one size -> the rows of probabilities that `main` writes.
Classify = Callable[[list[Any]], Any]
Request = dict[str, Any]
_WARM_UP = 3  # calls
_MIN_TIMED = 5  # calls
_TIMING_S = 10.0  # no call begins later, once there are _MIN_TIMED
_MAX_BATCH = 4


@functools.cache
def _loaded(path: str) -> Any:
    import tensorflow as tf

    return tf.saved_model.load(path)


def _saved_model(request: Request, signature: str) -> tuple[Classify, list[str]]:
    import tensorflow as tf

    function = _loaded(request["model"]).signatures[signature]
    names: list[str] = []

    def classify(photos: list[Any]) -> Any:
        if isinstance(photos[0], bytes):
            outputs = function(image_bytes=tf.constant(photos))
        else:
            outputs = function(image=tf.constant(np.stack(photos), tf.float32))
        if not names:
            classes = outputs["classes"].numpy()[0]
            names.extend(name.decode(errors="surrogateescape") for name in classes)
        return _joined(outputs)

    return classify, names


def _onnx(request: Request, _: str) -> tuple[Classify, list[str]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        request["model"], providers=["CPUExecutionProvider"]
    )
    properties = session.get_modelmeta().custom_metadata_map
    names = [output.name for output in session.get_outputs()]

    def classify(photos: list[Any]) -> Any:
        values = session.run(names, {"image": np.stack(photos)})
        return _joined(dict(zip(names, values, strict=True)))

    return classify, json.loads(properties["class_names"])


def _litert(request: Request, _: str) -> tuple[Classify, list[str]]:
    from ai_edge_litert import interpreter

    has_affinity = hasattr(os, "sched_getaffinity")  # on Linux
    num_threads = len(os.sched_getaffinity(0)) if has_affinity else 1
    loaded = interpreter.Interpreter(request["model"], num_threads=num_threads)
    runner = loaded.get_signature_runner("serving_default")

    def classify(photos: list[Any]) -> Any:
        return _joined(runner(image=np.stack(photos)))

    with zipfile.ZipFile(request["model"]) as archive:
        return classify, _lines(archive.read("labels.txt"))


def _keras(request: Request, _: str) -> tuple[Classify, list[str]]:
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(request["model"])
    outputs = {"probabilities": model.output}
    if request["scorer"]:
        scorer = keras.saving.load_model(request["scorer"])
        features = model.get_layer(scorer.input.name).output
        outputs["stranger_score"] = scorer(features)
    whole = keras.Model(model.input, outputs)
    function = tf.function(lambda images: whole(images, training=False))

    def classify(photos: list[Any]) -> Any:
        return _joined(function(tf.constant(np.stack(photos), tf.float32)))

    return classify, _lines(Path(request["labels"]).read_bytes())


_KINDS = dict(saved_model=_saved_model, onnx=_onnx, litert=_litert, keras=_keras)


def _joined(outputs: dict[str, Any]) -> np.ndarray:
    """Return probabilities, and stranger scores, if any, as the last column."""
    names = [n for n in ("probabilities", "stranger_score") if n in outputs]
    return np.column_stack([np.asarray(outputs[name]) for name in names])


def _lines(content: bytes) -> list[str]:
    return content.decode(errors="surrogateescape").split("\n")[:-1]


def _inputs(names: list[str]) -> Iterator[Any]:
    for name in names:
        if name.endswith(".npy"):
            yield from np.load(name, mmap_mode="r")
        else:
            yield Path(name).read_bytes()


def time_calls(calls: Iterator[Callable[[], object]], count: int) -> list[float]:
    """Return seconds of `count` calls after untimed ones; fewer if they are slow."""
    seconds: list[float] = []
    begin = time.perf_counter()
    for call in itertools.islice(calls, _WARM_UP + count):
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        seconds.append(end - start)
        if end - begin > _TIMING_S and len(seconds) >= _WARM_UP + _MIN_TIMED:
            break
    return seconds[_WARM_UP:]


def choose_batch(inputs: Iterable[Any]) -> tuple[list[int], list[Any]]:
    """Return indices and pixels of up to 4 photos of one size, for one call.

    If no two photos have the same size, the batch holds one photo twice.
    """
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for index, photo in enumerate(inputs):
        group = groups.setdefault(getattr(photo, "shape", None), [])
        if len(group) < _MAX_BATCH:
            group.append((index, photo))
    largest = max(groups.values(), key=len)
    indices, photos = zip(*(largest if len(largest) > 1 else largest * 2), strict=True)
    return list(indices), list(photos)


def main() -> None:
    """Answer one request."""
    request = json.loads(Path(sys.argv[1]).read_bytes())
    for call in request["calls"]:
        classify, class_names = _KINDS[request["kind"]](request, call["signature"])
        alone = [classify([photo])[0] for photo in _inputs(call["inputs"])]
        indices, photos = choose_batch(_inputs(call["inputs"]))
        batch = classify(photos)
        endless = itertools.chain.from_iterable(
            map(_inputs, itertools.repeat(call["inputs"]))
        )
        calls = (functools.partial(classify, [photo]) for photo in endless)
        np.savez(
            call["outputs"],
            probabilities=np.array([*alone, *batch], np.float64),
            indices=np.array([*range(len(alone)), *indices], np.int64),
            class_names=np.array([json.dumps(name) for name in class_names]),
            seconds=np.array(time_calls(calls, request["timed"])),
        )


if __name__ == "__main__":
    main()
