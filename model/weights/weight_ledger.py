"""List what became of every tensor of a weight file and every variable of a model."""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

from model.weights import model_variables

# Restored into a variable; a new variable; a tensor without a variable; a tensor of the
# wrong shape or type; left out by --skip.
Status = Literal["restored", "new", "unused", "mismatched", "skipped"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger: a tensor of the file, a variable such as conv1/kernel."""

    status: Status
    variable: str = ""  # "" for a tensor without a variable
    shape: tuple[int, ...] = ()
    tensor: str = ""  # "" for a variable without a tensor
    file_shape: tuple[int, ...] = ()
    file_dtype: str = ""


def complete(file_entries: Iterable[Entry], model: Any) -> list[Entry]:
    """Return the whole ledger: a file's tensors, and the trained model's new variables.

    The file has no entries if the start is random.
    """
    shapes = {
        name: (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
        for name, parts in model_variables.by_name(model).items()
    }
    entries = []
    for entry in file_entries:
        if entry.status == "restored" and entry.variable not in shapes:
            # The file has it, but the model ends below that layer.
            entry = dataclasses.replace(entry, status="unused", variable="", shape=())
        entries.append(entry)
    restored = {entry.variable for entry in entries if entry.status == "restored"}
    entries += [
        Entry(status="new", variable=name, shape=shape)
        for name, shape in shapes.items()
        if name not in restored
    ]
    return entries
