"""Write a LiteRT (TensorFlow Lite) file for phones and small computers.

    image          uint8 [n, size_px, size_px, 3], upright RGB, as the network sees it;
                   n is 1 unless the interpreter resizes it
    probabilities  float32 [n, num_classes], in label order
    stranger_score float32 [n], if the run has such scores

labels.txt, with one class name a line in label order, is packed into the file as a ZIP
archive at the end, where TensorFlow Lite's metadata tools put it.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated

from model.export import converters
from model.export.exportable import STRANGER_SCORE, Exportable
from model.networks import head
from pipeline.system import file_system

FORMAT = "--format=litert"  # named in errors
_SIGNATURE = "serving_default"
# The operations of standard deviations. In steps of 1/256 of a channel's range, a
# channel that is near one value almost everywhere would be lost.
_DEVIATION_OPERATIONS = ["ADD", "MEAN", "MUL", "RSQRT", "SQUARED_DIFFERENCE", "SUB"]


def write(
    classifier: Exportable,
    path: Path,
    quantize: str = "none",
    calibration: Sequence[np.ndarray] = (),
) -> None:
    """Write the file; raise DataError if LiteRT has no operation for a layer.

    The quantization "float16" stores the weights in float16. "int8" stores weights and
    computes in whole numbers, except for the first and last steps and for the standard
    deviations that a head may use. The range of the calibration photos, as the network
    sees them, scales these numbers.
    """
    size_px = classifier.spec.size_px
    signature = tf.TensorSpec([None, size_px, size_px, 3], tf.uint8, "image")

    def classify(image: Any) -> dict[str, Any]:
        return classifier.classify(tf.cast(image, tf.float32))

    model = classifier.whole
    with converters.naming_failing_layer(FORMAT, classifier, _convert):
        content = _convert(classify, [signature], model, quantize, calibration)
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", classifier.labels)


def _convert(
    function: Any,
    signature: list[Any],
    model: Any,
    quantize: str = "none",
    calibration: Sequence[np.ndarray] = (),
) -> bytes:
    """Return the file of a function of tensors that computes with a model."""
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    graph = tf.function(function, input_signature=signature, autograph=False)
    with file_system.scratch_folder() as scratch, converters.silence():
        tf.saved_model.save(module, str(scratch), signatures={_SIGNATURE: graph})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(scratch), signature_keys=[_SIGNATURE]
        )
        # This is the default, and it matters: an operation that LiteRT lacks is an
        # error instead of one of TensorFlow's own kernels ("Flex"), which small
        # computers do not have.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = lambda: (
                {"image": pixels[None]} for pixels in calibration
            )
            names = [layer.name for layer in model.layers]
            has_deviations = any(n.startswith(head.SPREAD_PREFIX) for n in names)
            operations = _DEVIATION_OPERATIONS if has_deviations else []
            if operations or STRANGER_SCORE in names:
                return _in_order(_convert_partly(converter, operations))
        return _in_order(converter.convert())


def _in_order(content: bytes) -> bytes:
    """Return a file whose outputs stand in the order of their names.

    Programs that take output 0 get the probabilities, whatever else the file computes.
    """
    changed = bytearray(content)
    model = schema_py_generated.Model.GetRootAs(changed)
    signature = model.SignatureDefs(0)
    outputs = map(signature.Outputs, range(signature.OutputsLength()))
    # The array shares the bytes of `changed`.
    model.Subgraphs(0).OutputsAsNumpy()[:] = [out.TensorIndex() for out in outputs]
    return bytes(changed)


def _convert_partly(converter: Any, in_float: list[str]) -> bytes:
    """Convert to int8, but keep some operations and the stranger score in float32.

    TensorFlow's quantization debugger is the way to exclude operations. It can also
    compare photos, so it is given an empty data set.
    """
    tools = tf.lite.experimental
    options = tools.QuantizationDebugOptions(denylisted_ops=[*in_float, "SQRT"])
    debugger = tools.QuantizationDebugger(
        converter=converter, debug_dataset=lambda: iter(()), debug_options=options
    )
    tensors = tf.lite.Interpreter(model_content=debugger.calibrated_model)
    names = [details["name"] for details in tensors.get_tensor_details()]
    options.denylisted_nodes = [name for name in names if STRANGER_SCORE in name]
    return bytes(debugger.get_nondebug_quantized_model())
