"""Find the names that Keras gave to the variables of a TF2 checkpoint.

Input: the checkpoint's object graph. Output: {checkpoint key: full name}.
Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from model.checkpoints import protobuf_fields

_MAX_FIELDS = 4_000_000  # beyond any model
_NODES, _ATTRIBUTES, _FULL_NAME, _CHECKPOINT_KEY = 1, 2, 2, 3


def full_names(graph: protobuf_fields.Wire) -> dict[str, str]:
    """Return {checkpoint key: full name} of the variables that have a full name."""
    names: dict[str, str] = {}
    num_fields = 0
    for node in graph.fields(0, len(graph.data)):
        if node.number != _NODES or node.kind != protobuf_fields.BYTES:
            continue
        for part in graph.fields(node.start, node.end):
            num_fields += 1
            if num_fields > _MAX_FIELDS:
                raise graph.corrupt("an object graph beyond any model's", part.start)
            if part.number == _ATTRIBUTES and part.kind == protobuf_fields.BYTES:
                texts = {
                    field.number: graph.text(field)
                    for field in graph.fields(part.start, part.end)
                    if field.kind == protobuf_fields.BYTES
                }
                if texts.get(_FULL_NAME) and texts.get(_CHECKPOINT_KEY):
                    names[texts[_CHECKPOINT_KEY]] = texts[_FULL_NAME]
    return names
