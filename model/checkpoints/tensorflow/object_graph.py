"""The object graph of a TF2 checkpoint -> what Keras calls the variables.

Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from model.checkpoints import wire

_MAX_FIELDS = 4_000_000  # beyond any model
_NODES, _ATTRIBUTES, _FULL_NAME, _CHECKPOINT_KEY = 1, 2, 2, 3


def full_names(graph: wire.Wire) -> dict[str, str]:
    """{checkpoint key: full name} of the variables that have one.

    Raises:
        errors.CorruptCheckpoint: not such a message.
    """
    found: dict[str, str] = {}
    fields = 0
    for node in graph.fields(0, len(graph.data)):
        if node.number != _NODES or node.kind != wire.BYTES:
            continue
        for part in graph.fields(node.start, node.end):
            fields += 1
            if fields > _MAX_FIELDS:
                raise graph.corrupt("an object graph beyond any model's", part.start)
            if part.number == _ATTRIBUTES and part.kind == wire.BYTES:
                texts = _texts(graph, part)
                if texts.get(_FULL_NAME) and texts.get(_CHECKPOINT_KEY):
                    found[texts[_CHECKPOINT_KEY]] = texts[_FULL_NAME]
    return found


def _texts(graph: wire.Wire, message: wire.Field) -> dict[int, str]:
    """The strings of a message, by number of the field."""
    fields = graph.fields(message.start, message.end)
    return {one.number: graph.text(one) for one in fields if one.kind == wire.BYTES}
