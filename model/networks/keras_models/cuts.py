"""Find where a Keras model can be cut in two, and connect its lower part again."""

import contextlib
from collections.abc import Iterable
from typing import Any

import keras


def positions(model: Any) -> list[str]:
    """Return the operations whose output alone is needed by those after them."""
    order = [o for o in model.operations if not isinstance(o, keras.layers.InputLayer)]
    producers = {
        id(tensor): number
        for number, operation in enumerate(order)
        for tensor in keras.tree.flatten(operation.output)
    }
    last_use = list(range(len(order)))
    for number, operation in enumerate(order):
        for tensor in keras.tree.flatten(operation.input):
            if id(tensor) in producers:
                last_use[producers[id(tensor)]] = number
    names, needed_until = [], 0
    for number, operation in enumerate(order):
        if needed_until <= number:
            names.append(operation.name)
        needed_until = max(needed_until, last_use[number])
    return names


def connect_what_fits(model: Any, names: Iterable[str], image: Any) -> tuple[str, Any]:
    """Connect a model again, to an input of another size, as far as its layers suit it.

    Return the last of the positions `names` that the new input reaches, and its output;
    "" and the input if it reaches none.
    """
    outputs: dict[str, Any] = {}

    def connect(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs[layer.name] = layer(*args, **kwargs)
        return outputs[layer.name]

    with contextlib.suppress(ValueError):
        model._run_through_graph(
            image,
            operation_fn=lambda layer: type(layer).from_config(layer.get_config()),
            call_fn=connect,
        )
    reached = ["", *filter(outputs.__contains__, names)]
    return reached[-1], outputs.get(reached[-1], image)
