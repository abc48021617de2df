"""A classifier -> a .keras file that loads in plain Keras, and labels.txt beside it.

image          float32 [n, size_px, size_px, 3], RGB, 0..255, upright, as the
               network sees it
probabilities  float32 [n, num_classes], in label order
"""

from pathlib import Path

from model.export.exportable import Exportable


def write(classifier: Exportable, path: Path) -> None:
    """Writes the model; the name ends in .keras."""
    classifier.model.save(path)


def labels(classifier: Exportable) -> bytes:
    """Content of labels.txt."""
    return b"".join(name + b"\n" for name in classifier.name_bytes)
