"""A run -> one Keras model from pixels to calibrated probabilities, all in float32."""

import dataclasses
import json
from typing import Any

import keras

from model.runs import finished_run
from pipeline.batches import preprocess

PROBABILITIES = "probabilities"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exportable:
    """What every format is made from.

    Attributes:
        model: keras.Model of built-in layers, float32 [n, size_px, size_px, 3], RGB,
            0..255 -> float32 [n, num_classes], each row summing to 1.
        spec: of its input.
        resize_min: of classifier.Classifier.
        class_names: in label order.
        about: what a file that has room for it shall say of itself.
    """

    model: Any
    spec: preprocess.InputSpec
    resize_min: int
    class_names: tuple[str, ...]
    about: dict[str, str]

    @property
    def name_bytes(self) -> list[bytes]:
        """Class names as UTF-8; bytes that are none stay as they are."""
        return [name.encode(errors="surrogateescape") for name in self.class_names]


def of_run(finished: finished_run.FinishedRun) -> Exportable:
    """Builds it from a run's weights and temperature.

    Raises:
        run.RunError: the run's files are damaged.
    """
    logits = finished.load_model()
    scaled = keras.layers.Rescaling(
        1 / finished.temperature, name="temperature", dtype="float32"
    )(logits.output)
    output = keras.layers.Softmax(name=PROBABILITIES, dtype="float32")(scaled)
    spec = finished.spec
    about = {
        "class_names": json.dumps(finished.class_names),  # ASCII, whatever they are
        "graft_run": finished.directory.name,
        "network": str(finished.config["network"]),
        "input": _input_in_words(spec),
        "temperature": repr(finished.temperature),
    }
    return Exportable(
        model=keras.Model(logits.input, output, name="classifier"),
        spec=spec,
        resize_min=finished.resize_min,
        class_names=finished.class_names,
        about=about,
    )


def _input_in_words(spec: preprocess.InputSpec) -> str:
    share = spec.size_px / spec.short_side_px
    window = "square window" if spec.resize == "crop" else "window"
    side = "the short side" if spec.resize == "crop" else "each side"
    return (
        f"upright RGB, 0 to 255; the network sees the central {window} of {share:.6g} "
        f"of {side}, resized to {spec.size_px} x {spec.size_px}"
    )
