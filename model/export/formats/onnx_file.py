"""Write an ONNX file that takes upright images of any size.

    image          uint8 [n, height, width, 3], RGB
    probabilities  float32 [n, num_classes], in label order
    stranger_score float32 [n], if the run has such scores

The file's metadata hold `class_names`, a JSON list in label order, and the network,
input, temperature and run of the classifier.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model.export import converters, photo_graph
from model.export.exportable import Exportable

FORMAT = "--format=onnx"  # named in errors
_OPSET = 18


def write(classifier: Exportable, path: Path) -> None:
    """Write the file; raise DataError if ONNX has no operation for a layer."""
    import onnx

    signature = tf.TensorSpec([None, None, None, 3], tf.uint8, "image")

    def classify(image: Any) -> dict[str, Any]:
        views = photo_graph.portable_view_of_images(image, classifier.spec)
        return classifier.classify(tf.cast(views, tf.float32))

    with converters.naming_failing_layer(FORMAT, classifier, _convert):
        model = _convert(classify, [signature])
    # input_spec is left out, because a mean image would make it very long.
    metadata = {n: v for n, v in classifier.metadata.items() if n != "input_spec"}
    metadata["class_names"] = json.dumps(classifier.class_names)  # ASCII for any names
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def _convert(function: Any, signature: list[Any], _: Any = None) -> Any:
    """Return the ModelProto of a function of tensors."""
    import onnx
    import tf2onnx

    graph = tf.function(function, input_signature=signature, autograph=False)
    with converters.silence():
        model, _ = tf2onnx.convert.from_function(
            graph,
            input_signature=signature,
            opset=_OPSET,
            custom_op_handlers={"Erfc": (_replace_erfc, [])},
        )
    # tf2onnx keeps operations that it does not know.
    onnx.checker.check_model(model, full_check=True)
    return model


def _replace_erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Compute 1 - erf(x) in place of erfc(x), which tf2onnx lacks; GELU needs it."""
    node.type, node.domain = "Erf", ""
    output, one = node.output[0], graph.make_const(f"{name}_one", np.float32(1))
    users = graph.find_output_consumers(output)
    difference = graph.make_node("Sub", [one.output[0], output]).output[0]
    graph.copy_shape(output, difference)
    graph.copy_dtype(output, difference)
    graph.replace_all_inputs(output, difference, ops=users)
