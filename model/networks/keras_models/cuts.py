"""Find where a Keras model can be cut in two, and connect its lower part again."""

import bisect
from collections.abc import Mapping
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
                source = producers[id(tensor)]
                last_use[source] = max(last_use[source], number)
    names, needed_until = [], 0
    for number, operation in enumerate(order):
        if needed_until <= number:
            names.append(operation.name)
        needed_until = max(needed_until, last_use[number])
    return names


def connect_what_fits(
    model: Any, outputs: Mapping[str, Any], image: Any
) -> tuple[str, Any]:
    """Connect a model again, to an input of another size, as far as its layers suit it.

    `outputs` is {position: its output}, from the input on. Return the last position
    that the new input reaches, and its output; "" and the input if it reaches none.
    """
    names = [*outputs]

    def connect(number: int) -> Any:
        part = keras.Model(model.input, outputs[names[number]])
        return keras.models.clone_model(part, input_tensors=image).output

    def fails(number: int) -> bool:
        try:
            connect(number)
        except ValueError:
            return True
        return False

    count = bisect.bisect_left(range(len(names)), True, key=fails)
    return (names[count - 1], connect(count - 1)) if count else ("", image)
