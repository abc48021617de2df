"""Build one float32 Keras model of a run, and read photos that it was not trained on.

The model computes calibrated probabilities from pixels. The photos are the test split,
with the probabilities that evaluate.py stored.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from model.evaluation import run_evaluation, stored_logits, strangers
from model.evaluation.run_evaluation import EvaluationData
from model.loop import metrics
from model.networks import head
from model.predict import classifier
from model.runs import finished_run
from model.weights import weight_file
from pipeline.batches import image_batches
from pipeline.batches.input_spec import InputSpec
from pipeline.records import manifest
from pipeline.records.manifest_row import Row
from pipeline.system import command_line

PROBABILITIES = "probabilities"
STRANGER_SCORE = "stranger_score"
SCORES_ENDING = "-strangers.keras"  # ends the name of the file beside a .keras file
SPLIT = "test"
_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exportable:
    """A classifier that every format is written from."""

    # keras.Model of built-in layers: float32 [n, size_px, size_px, 3], RGB, 0..255 ->
    # float32 [n, num_classes], where each row sums to 1.
    model: Any
    spec: InputSpec
    resize_min: int  # longest short side that conversion keeps, in pixels; 0: any
    white_level: int  # number that is white in 16-bit pictures; 0: 65535
    class_names: tuple[str, ...]
    # {name: text} for formats that can store it; Graft needs it to read a Keras file.
    metadata: dict[str, str]
    # keras.Model of the same input -> {name: tensor}, with the stranger scores, float32
    # [n]; `model` itself if the run has no such scores.
    whole: Any
    # keras.Model that computes these scores from the output of the layer that its input
    # is named after; None if the run has no such scores.
    score_model: Any
    original: classifier.Classifier  # the run as model.predict loads it

    @property
    def encoded_names(self) -> list[bytes]:
        """Return the class names as UTF-8; bytes that are not UTF-8 stay unchanged."""
        return [name.encode(errors="surrogateescape") for name in self.class_names]

    @property
    def labels(self) -> bytes:
        """Return the content of labels.txt: one class name a line, in label order."""
        return b"".join(name + b"\n" for name in self.encoded_names)

    def classify(self, views: Any) -> dict[str, Any]:
        """Return {name: tensor} of float32 views, [n, size_px, size_px, 3]."""
        outputs = self.whole(views, training=False)
        return outputs if isinstance(outputs, dict) else {PROBABILITIES: outputs}


def load_run(run: finished_run.FinishedRun) -> Exportable:
    """Build the classifier from a run's weights, temperature and stranger scores."""
    loaded = classifier.load_run(str(run.directory))
    logits, scorer = loaded.model, loaded.stranger_scorer
    scaled = keras.layers.Rescaling(
        1 / run.temperature, name=head.TEMPERATURE_LAYER, dtype="float32"
    )(logits.output)
    output = keras.layers.Softmax(name=PROBABILITIES, dtype="float32")(scaled)
    model = whole = keras.Model(logits.input, output, name=logits.name)
    metadata, score_model = describe(run), None
    if scorer:
        score_model = _build_scorer(scorer, model)
        metadata["stranger_threshold"] = repr(strangers.THRESHOLD)
        score = score_model(model.get_layer(score_model.input.name).output)
        outputs = {PROBABILITIES: output, STRANGER_SCORE: score}
        whole = keras.Model(logits.input, outputs, name=logits.name)
    return Exportable(
        model=model,
        spec=run.spec,
        resize_min=run.resize_min,
        white_level=run.white_level,
        class_names=run.class_names,
        metadata=metadata,
        whole=whole,
        score_model=score_model,
        original=loaded,
    )


def _build_scorer(scorer: strangers.Scorer, model: Any) -> Any:
    """Build a keras.Model of built-in layers: features -> stranger scores, float32 [n].

    For x of length 1, Scorer's formula is linear in x, apart from |c directions|^2.
    """
    kinds, ops, mean = keras.layers, keras.ops, scorer.mean
    inputs: Any = head.input_tensor(model)
    names, shape = {layer.name for layer in model.layers}, inputs.shape[1:]
    name = head.POOL_LAYER if head.POOL_LAYER in names else head.FLATTEN_LAYER
    features = rows = keras.Input((math.prod(shape),), name=name)
    if mean.size < math.prod(shape):
        rows = kinds.GlobalAveragePooling2D()(kinds.Reshape(shape)(rows))
    vectors = kinds.UnitNormalization()(rows)
    directions = np.pad(scorer.directions, ((0, 0), (0, 1)))  # one, if there are none
    nearest = kinds.Dense(scorer.offsets.size, name="stranger_classes")
    within = kinds.Dense(directions.shape[1], name="stranger_directions")
    square = ops.min(nearest(vectors), 1) - ops.sum(ops.square(within(vectors)), 1)
    kernel = scorer.weights - 2 * scorer.scale * mean[:, None]
    offset = scorer.scale * (1 + mean @ mean) - mean @ scorer.weights
    nearest.set_weights([kernel, scorer.offsets + offset])
    within.set_weights([directions, -mean @ directions])
    score = ops.sqrt(ops.maximum(square, 0))
    return keras.Model(features, score, name=STRANGER_SCORE)


def describe(run: finished_run.FinishedRun) -> dict[str, str]:
    """Return the metadata that Graft needs to read an exported file like the run."""
    config = run.config
    metadata = weight_file.describe(config["network"], run.spec) | {
        "run": run.directory.name,
        "class_names": command_line.as_utf8("\n".join(run.class_names)),
        "input": _describe_input(run.spec, run.white_level),
        "temperature": repr(run.temperature),
        "resize_min": str(run.resize_min),
        "white_level": str(run.white_level),
    }
    places = [name for name in ("features", "pooling", "scaling") if name in config]
    return metadata | {name: str(config[name]) for name in places}


def _describe_input(spec: InputSpec, white_level: int) -> str:
    share = spec.size_px / spec.short_side_px
    window = "square window" if spec.keeps_aspect else "window"
    sides = {"crop": "the short side", "squash": "each side", "pad": "the long side"}
    filled = f", filled with the colour {spec.fill} beyond the image" * bool(spec.fill)
    deep = f" (of 16-bit pictures, {white_level} and more is 255)"
    return (
        f"upright RGB, 0 to 255{deep if white_level else ''}; the network sees the "
        f"central {window} of {share:.6g} of {sides[spec.resize]}{filled}, resized to "
        f"{spec.size_px} x {spec.size_px}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldoutPhotos:
    """The test photos of a run, with the probabilities that evaluate.py stored."""

    records: manifest.Manifest
    rows: tuple[Row, ...]
    labels: np.ndarray  # int64 [num_photos], 0-based
    probabilities: np.ndarray  # float64 [num_photos, num_classes], calibrated

    def accuracy(self, probabilities: np.ndarray) -> float:
        """Return the share of photos whose most probable class is right, 0..1."""
        return float((probabilities.argmax(axis=1) == self.labels).mean())


def load_heldout(run: finished_run.FinishedRun, data: str = "") -> HeldoutPhotos:
    """Load the test photos; evaluate the run on them first if that was not done."""
    records = run.read_records(data)
    manifest.check_files(records)
    path = stored_logits.find(run, SPLIT, records.digest)
    if path is None:
        command_line.log(
            f"{run.directory.name} was not evaluated with these weights yet; "
            f"evaluating it on its {SPLIT} photos"
        )
        photos = EvaluationData(records=records, split=SPLIT)
        evaluation = run_evaluation.evaluate_run(run, photos)
        path = evaluation.path.with_suffix(".npz")
    examples = stored_logits.read(path)
    rows = records.included(SPLIT)
    logits = examples.logits.astype(np.float64) / run.temperature
    return HeldoutPhotos(
        records=records,
        rows=rows,
        labels=examples.label,
        probabilities=np.exp(metrics.log_softmax(logits)),
    )


def fill_views(
    records: manifest.Manifest, rows: Sequence[Row], spec: InputSpec, views: np.ndarray
) -> None:
    """Fill uint8 [num_rows, size_px, size_px, 3] with photos as a network sees them."""
    for batch in image_batches.Images(records, rows, spec, batch_size=_BATCH_SIZE):
        views[batch["row"].numpy()] = batch["image"].numpy()
