"""Define the settings of model.export."""

import dataclasses
import functools

from pipeline.system import config_flags

FORMATS = ("saved_model", "onnx", "litert", "keras")
_setting = functools.partial(config_flags.setting, basic=True)
_run = functools.partial(_setting, group="Run")
_classifier = functools.partial(_setting, group="Whole classifier")
_weights = functools.partial(_setting, group="Weights alone")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of an export."""

    run_dir: str = _run(
        "runs/latest",
        "Run to export; runs/latest is the newest run, best the one with the lowest "
        "validation loss on the newest data.",
        value="FOLDER",
    )
    data: str = _run(
        "",
        "New folder of the run's records, if they were moved; their test photos check "
        "the file.",
        value="FOLDER",
    )
    weights: str = _weights(
        "",
        "File to write the weights to, by layer name: .safetensors, .weights.h5 (Keras "
        "3), other .h5 (older Keras) or .npy.",
        value="FILE",
    )
    format: str = _classifier(
        "",
        "Format of the classifier: saved_model for TensorFlow Serving, onnx for ONNX "
        "Runtime, litert for TensorFlow Lite, keras for Keras 3.",
        choices=("", *FORMATS),
        value="FORMAT",
    )
    out: str = _classifier(
        "",
        "File to write, or folder for saved_model; by default exported/ in the run's "
        "folder.",
        value="PATH",
    )
    quantize: str = _classifier(
        "none",
        "Makes a LiteRT file smaller: float16 stores weights in 16 bits, int8 also "
        "computes with 8-bit integers.",
        choices=("none", "float16", "int8"),
    )
    max_accuracy_loss: float = _classifier(
        0.02,
        "Accuracy, a number from 0 to 1, that --quantize may cost on the test photos; "
        "a larger loss is an error.",
        lower=0,
        upper=1,
    )

    def __post_init__(self) -> None:
        config_flags.check(self)
        if self.weights and self.format:
            raise ValueError("--weights and --format: expected only one of them")
        if self.quantize != "none" and self.format != "litert":
            raise ValueError(f"--quantize={self.quantize}: expected --format=litert")
        for name in ("out", "data"):
            if getattr(self, name) and not self.format:
                raise ValueError(f"--{name}: expected --format")
        if not (self.weights or self.format):
            raise ValueError(f"expected --format ({', '.join(FORMATS)}) or --weights")
