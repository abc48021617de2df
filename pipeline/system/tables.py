"""Align cells of text in columns."""

import itertools
from collections.abc import Iterable, Sequence


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1
) -> list[str]:
    """Return the lines of a table whose first `left` columns are aligned to the left.

    None is shown as "-".
    """
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    cells.insert(0, list(header))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def align(column: int, cell: str) -> str:
        return f"{cell:{'<' if column < left else '>'}{widths[column]}}"

    return ["  ".join(map(align, itertools.count(), row)).rstrip() for row in cells]
