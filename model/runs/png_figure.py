"""Create figures of matplotlib that are saved as PNG."""

import logging
from typing import Any


def create(width_inches: float, height_inches: float, **options: Any) -> Any:
    """Return an empty figure; `options` are other arguments of matplotlib's Figure."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it reports fonts
    # Deferred, and without pyplot's state: matplotlib takes half a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), **options)
    FigureCanvasAgg(figure)
    return figure
