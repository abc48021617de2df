"""Average the predictions for several views of each photo."""

import dataclasses

import numpy as np

from model.loop import metrics
from pipeline.batches import crop_and_resize
from pipeline.batches.input_spec import InputSpec

NONE, FLIP, TEN_CROP = "none", "flip", "ten_crop"
CHOICES = (NONE, FLIP, TEN_CROP)


def views_of(
    tta: str, sizes: np.ndarray, spec: InputSpec
) -> list[crop_and_resize.Views]:
    """Return the views to average over.

    Args:
        tta: "none" for the central crop; "flip" for it and its mirror image; "ten_crop"
            for the central crop and those in the four corners, each with its mirror
            image.
        sizes: int [num_images, 2], height and width of the stored images, in pixels.
        spec: input specification of the network.

    Source: Krizhevsky et al. 2012, section 4.1.
    """
    if tta not in CHOICES:
        raise ValueError(f"--tta={tta}: expected {', '.join(CHOICES)}")
    upright = (
        list(crop_and_resize.cornered_views(sizes, spec))
        if tta == TEN_CROP
        else [crop_and_resize.central_views(sizes, spec)]
    )
    if tta == NONE:
        return upright
    all_mirrored = np.ones(len(sizes), np.bool_)
    return upright + [
        dataclasses.replace(view, mirrored=all_mirrored) for view in upright
    ]


class AveragedLogits:
    """Averages log-probabilities over views: a geometric mean of the probabilities.

    The average can be divided by a temperature like the logits of a single view.
    (Krizhevsky et al. average probabilities.)
    """

    def __init__(self, num_views: int, shape: tuple[int, int]) -> None:
        """Starts without any view; `shape` is the number of photos and of classes."""
        self._num_views = num_views
        self._sum = np.zeros(shape, np.float64)
        self._count = np.zeros(shape[0], np.int64)

    def add(self, numbers: np.ndarray, logits: np.ndarray) -> None:
        """Add a view of some photos: their indices, each once, and their logits."""
        # The logits of a single view stay as they are, to the bit.
        single = self._num_views == 1
        self._sum[numbers] += logits if single else metrics.log_softmax(logits)
        self._count[numbers] += 1

    def logits(self) -> np.ndarray:
        """Return the averages, float32 [num_examples, num_classes]."""
        if not (self._count == self._num_views).all():
            raise RuntimeError("not every photo was seen once in each view")
        return (self._sum / self._num_views).astype(np.float32)
