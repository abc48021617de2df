"""Several views of each photo -> one answer: test-time augmentation."""

import dataclasses

import numpy as np

from model.loop import metrics
from pipeline.batches import crop_and_resize
from pipeline.batches.input_spec import InputSpec

NONE, FLIP, TEN_CROP = "none", "flip", "ten_crop"
CHOICES = (NONE, FLIP, TEN_CROP)


def of(tta: str, sizes: np.ndarray, spec: InputSpec) -> list[crop_and_resize.Views]:
    """The views that are averaged.

    Args:
        tta: "none" for the central window; "flip" for that and its mirror image;
            "ten_crop" for the central window and those in the corners, each with its
            mirror image.
        sizes: int [num_images, 2]: height, width of the stored images, in pixels.
        spec: of the network.

    Raises:
        ValueError: `tta` is none of these.

    Source: Krizhevsky et al. 2012, section 4.1.
    """
    if tta not in CHOICES:
        raise ValueError(f"--tta={tta}: expected {', '.join(CHOICES)}")
    if tta == NONE:
        return [crop_and_resize.central_views(sizes, spec)]
    if tta == FLIP:
        upright = [crop_and_resize.central_views(sizes, spec)]
    else:
        upright = list(crop_and_resize.cornered_views(sizes, spec))
    mirrored = [
        dataclasses.replace(one, mirrored=np.ones(len(sizes), np.bool_))
        for one in upright
    ]
    return upright + mirrored


class Mean:
    """Log-probabilities of several views, averaged: a geometric mean.

    The mean is again something to divide by a temperature: as one view's logits are,
    so each view's would be. (Krizhevsky et al. average probabilities.)
    """

    def __init__(self, num_views: int, shape: tuple[int, int]) -> None:
        """Begins with nothing.

        Args:
            num_views: that will come for each photo.
            shape: number of photos, number of classes.
        """
        self._num_views = num_views
        self._sum = np.zeros(shape, np.float64)
        self._count = np.zeros(shape[0], np.int64)

    def add(self, numbers: np.ndarray, logits: np.ndarray) -> None:
        """Adds one view of some photos.

        Args:
            numbers: int [batch], which photos; each at most once.
            logits: float32 [batch, num_classes].
        """
        # One view is kept to the bit.
        one = self._num_views == 1
        self._sum[numbers] += logits if one else metrics.log_softmax(logits)
        self._count[numbers] += 1

    @property
    def complete(self) -> bool:
        """Whether every photo was seen in each of its views, and in no other."""
        return bool((self._count == self._num_views).all())

    def logits(self) -> np.ndarray:
        """float32 [num_examples, num_classes]; as they were if there is one view."""
        return (self._sum / self._num_views).astype(np.float32)
