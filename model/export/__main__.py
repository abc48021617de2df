"""Export a run for other programs: its whole classifier, or its weights alone.

    python -m model.export --format=onnx --out=flowers.onnx
    python -m model.export --weights=flowers.safetensors

A classifier includes preprocessing, calibrated probabilities and class names. It is
only kept if the file, loaded without Graft, gives the same probabilities as the run.
"""

import pipeline.start  # noqa: F401 # isort: skip
from typing import Any

from model.export.export_settings import Config
from pipeline.system import command_line, config_flags


def main(typed: dict[str, Any]) -> None:
    """Export as the flags say."""
    config = config_flags.build(Config, typed)
    # Only now, so that wrong flags are refused at once.
    import pipeline.system.tensorflow_import  # noqa: F401 # isort: split
    from model.export import exporting

    if config.format:
        command_line.say(exporting.as_text(exporting.export_classifier(config)))
        return
    for name, shape in exporting.export_weights(config).items():
        command_line.say(f"{name}  {list(shape)}")
    command_line.say(f"written: {config.weights}")


if __name__ == "__main__":
    command_line.run(main, Config, in_buckets=["out"])
