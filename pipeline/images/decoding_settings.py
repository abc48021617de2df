"""Define the settings of decoding photos, which convert and check share."""

import functools
from typing import Any

from pipeline.system import config_flags

# Pillow warns of decompression bombs at half of this number and refuses above it.
MAX_PIXELS = 178_956_970
RESIZE_MIN = 512  # pixels of the longest short side that conversion keeps
_DECODING = functools.partial(config_flags.setting, group="Decoding", basic=True)


def max_pixels() -> Any:
    """Return the field of the setting `max_pixels`."""
    return _DECODING(
        MAX_PIXELS,
        "Photos with more pixels are skipped without decoding them; the default is the "
        "limit of Pillow.",
        lower=1,
    )


def workers() -> Any:
    """Return the field of the setting `workers`."""
    return _DECODING(
        0, "Processes that decode photos; 0 starts one per processor.", lower=0
    )
