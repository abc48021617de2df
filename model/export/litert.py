"""A classifier -> a LiteRT (TensorFlow Lite) file for phones and small computers.

    image          uint8 [n, size_px, size_px, 3], RGB, upright, as the network sees it;
                   n is 1 unless the interpreter resizes it
    probabilities  float32 [n, num_classes], in label order

labels.txt, a class name on each line in label order, is packed into the file the way
that TensorFlow Lite's metadata tools pack it: as a ZIP archive at the end.
"""

import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from model.export import culprit, packages, quietly
from model.export.exportable import PROBABILITIES, Exportable
from model.networks import head

FORMAT = "--format=litert"  # what errors are about
LABELS = "labels.txt"
_SIGNATURE = "serving_default"
Quantize = Literal["none", "float16", "int8"]
# What computes standard deviations: in steps of 1/256 of a channel's range nothing is
# left of a channel that is near one value almost everywhere.
_OF_DEVIATIONS = ["ADD", "MEAN", "MUL", "RSQRT", "SQUARED_DIFFERENCE", "SUB"]


def check_packages() -> None:
    """Refuses if something is not installed.

    Raises:
        errors.ExportError: says what.
    """
    packages.require(FORMAT, "ai_edge_litert")


def write(
    classifier: Exportable,
    path: Path,
    quantize: Quantize = "none",
    calibration: Sequence[np.ndarray] = (),
) -> None:
    """Writes the file.

    Args:
        classifier: to be written.
        path: of the file.
        quantize: "float16" stores the weights so; "int8" stores weights and computes
            in whole numbers, but for the first and last steps, and for the standard
            deviations that a head may see.
        calibration: for "int8", uint8 [size_px, size_px, 3], training photos as the
            network sees them: their range is that of the whole numbers.

    Raises:
        errors.ExportError: LiteRT has nothing for one of the layers; names it.
    """
    size_px = classifier.spec.size_px
    signature = tf.TensorSpec([None, size_px, size_px, 3], tf.uint8, "image")

    def classify(image: Any) -> dict[str, Any]:
        found = classifier.model(tf.cast(image, tf.float32), training=False)
        return {PROBABILITIES: found}

    def samples() -> Iterator[dict[str, np.ndarray]]:
        for pixels in calibration:
            yield {"image": pixels[None]}

    try:
        content = _convert(classify, [signature], classifier.model, quantize, samples)
    except Exception as error:  # of any kind: the converter's own, or of its parts
        raise culprit.find(FORMAT, error, classifier, _convert_model) from error
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        lines = b"".join(name + b"\n" for name in classifier.name_bytes)
        archive.writestr(LABELS, lines)


def _convert(
    function: Any,
    signature: list[Any],
    model: Any,
    quantize: Quantize = "none",
    samples: Callable[[], Iterator[dict[str, np.ndarray]]] | None = None,
) -> bytes:
    """The file of a function of tensors; the model is what it computes with."""
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    graph = tf.function(function, input_signature=signature, autograph=False)
    with tempfile.TemporaryDirectory() as scratch, quietly.quietly():
        tf.saved_model.save(module, scratch, signatures={_SIGNATURE: graph})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            scratch, signature_keys=[_SIGNATURE]
        )
        # The default, stated because it matters: what these lack is an error, and not
        # left to TensorFlow's own kernels ("Flex"), which small computers lack.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = samples
            if any(one.name.startswith(head.SPREAD_PREFIX) for one in model.layers):
                return _partly_in_float32(converter)
        return bytes(converter.convert())


def _partly_in_float32(converter: Any) -> bytes:
    """In int8 but for what computes deviations, by TensorFlow's own way to leave out.

    Its debugger, which it is part of, also takes photos to compare by; here are none.
    """
    tools = tf.lite.experimental
    options = tools.QuantizationDebugOptions(denylisted_ops=_OF_DEVIATIONS)
    partly = tools.QuantizationDebugger(
        converter=converter, debug_dataset=lambda: iter(()), debug_options=options
    )
    return bytes(partly.get_nondebug_quantized_model())


def _convert_model(model: Any) -> bytes:
    signature = [tf.TensorSpec(x.shape, x.dtype, x.name) for x in model.inputs]

    def layer(*inputs: Any) -> dict[str, Any]:
        return {"output": model(list(inputs), training=False)}

    return _convert(layer, signature, model)
