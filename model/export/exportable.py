"""Build one float32 Keras model of a run, from pixels to calibrated probabilities."""

import dataclasses
from typing import Any

import keras

from model.networks import head
from model.runs import finished_run
from model.weights import weight_file
from pipeline.batches.input_spec import InputSpec
from pipeline.system import command_line

PROBABILITIES = "probabilities"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exportable:
    """A classifier that every format is written from.

    Attributes:
        model: keras.Model of built-in layers: float32 [n, size_px, size_px, 3], RGB,
            0..255 -> float32 [n, num_classes], where each row sums to 1.
        resize_min: longest short side that conversion keeps, in pixels; 0: any.
        white_level: number that is white in 16-bit pictures; 0: 65535.
        metadata: {name: text} for formats that can store it; Graft needs it to read a
            Keras file again.
    """

    model: Any
    spec: InputSpec
    resize_min: int
    white_level: int
    class_names: tuple[str, ...]
    metadata: dict[str, str]

    @property
    def encoded_names(self) -> list[bytes]:
        """Return the class names as UTF-8; bytes that are not UTF-8 stay unchanged."""
        return [name.encode(errors="surrogateescape") for name in self.class_names]

    @property
    def labels(self) -> bytes:
        """Return the content of labels.txt: one class name a line, in label order."""
        return b"".join(name + b"\n" for name in self.encoded_names)


def load_run(run: finished_run.FinishedRun) -> Exportable:
    """Build the classifier from a run's weights and temperature."""
    logits = run.load_model()
    scaled = keras.layers.Rescaling(
        1 / run.temperature, name=head.TEMPERATURE_LAYER, dtype="float32"
    )(logits.output)
    output = keras.layers.Softmax(name=PROBABILITIES, dtype="float32")(scaled)
    return Exportable(
        model=keras.Model(logits.input, output, name=logits.name),
        spec=run.spec,
        resize_min=run.resize_min,
        white_level=run.white_level,
        class_names=run.class_names,
        metadata=describe(run),
    )


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
