"""A classifier -> an ONNX file that takes upright images of any size.

    image          uint8 [n, height, width, 3], RGB
    probabilities  float32 [n, num_classes], in label order

The file's metadata hold `class_names`, a JSON list in label order, and what else the
classifier says of itself.
"""

from pathlib import Path
from typing import Any

import tensorflow as tf

from model.export import culprit, packages, photo_graph, quietly
from model.export.exportable import PROBABILITIES, Exportable

FORMAT = "--format=onnx"  # what errors are about
IMAGE = "image"
_OPSET = 18
_MODULES = ("onnx", "onnxruntime", "tf2onnx")


def check_packages() -> None:
    """Refuses if something is not installed.

    Raises:
        errors.ExportError: says what.
    """
    packages.require(FORMAT, *_MODULES)


def write(classifier: Exportable, path: Path) -> None:
    """Writes the file.

    Raises:
        errors.ExportError: ONNX has nothing for one of the layers; names it.
    """
    import onnx

    signature = tf.TensorSpec([None, None, None, 3], tf.uint8, IMAGE)

    def classify(image: Any) -> dict[str, Any]:
        views = photo_graph.portable_view_of_images(image, classifier.spec)
        found = classifier.model(tf.cast(views, tf.float32), training=False)
        return {PROBABILITIES: found}

    try:
        model = _convert(classify, [signature])
    except Exception as error:  # of any kind: its own, NumPy's, protobuf's
        raise culprit.find(FORMAT, error, classifier, _convert_model) from error
    onnx.helper.set_model_props(model, classifier.about)
    onnx.save(model, path)


def _convert(function: Any, signature: list[Any]) -> Any:
    """ModelProto of a function of tensors.

    It is checked, for tf2onnx leaves in what it does not know.
    """
    import onnx
    import tf2onnx

    graph = tf.function(function, input_signature=signature, autograph=False)
    with quietly.quietly():
        model, _ = tf2onnx.convert.from_function(
            graph, input_signature=signature, opset=_OPSET
        )
    onnx.checker.check_model(model, full_check=True)
    return model


def _convert_model(model: Any) -> Any:
    signature = [tf.TensorSpec(x.shape, x.dtype, x.name) for x in model.inputs]
    return _convert(lambda *inputs: model(list(inputs), training=False), signature)
