"""Create figures of matplotlib that are saved as PNG."""

import logging
from typing import Any


def create(width: float, height: float, **options: Any) -> Any:
    """Return an empty figure.

    Args:
        width: width in inches.
        height: height in inches.
        options: arguments of matplotlib's Figure.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it reports fonts
    # Deferred, and without pyplot's state: matplotlib takes half a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure
