"""Read the graph of objects in a TF2 checkpoint: what its variables are called.

Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from model.checkpoints.protobuf_fields import BYTES, Field, Wire

LayerPaths = Mapping[tuple[str, ...], str]  # {attributes from the root on: layer}
NO_LAYERS: LayerPaths = {}
_MAX_PARTS = 4_000_000  # beyond any model's
# Numbers of fields: of the graph, of a node, of its children and of its attributes.
_NODES, _CHILDREN, _ATTRIBUTES = 1, 1, 2
_NODE_ID, _LOCAL_NAME, _FULL_NAME, _CHECKPOINT_KEY = 1, 2, 2, 3


class _Node(NamedTuple):
    """An object; `key` and `full_name` are those of a variable, or ""."""

    children: dict[str, int]  # {attribute: index of the node}
    key: str
    full_name: str


def variable_names(graph: Wire, layers: LayerPaths) -> dict[str, str]:
    """Return {checkpoint key: name} of the variables in a TrackableObjectGraph.

    A variable of one of `layers` is called "layer/attribute"; others by the end of the
    full name that the graph states, which is layer and variable.
    """
    nodes = list(_nodes(graph))
    names = {
        node.key: "/".join(node.full_name.split("/")[-2:])
        for node in nodes
        if node.key and node.full_name
    }
    nothing = _Node({}, "", "")
    by_index = dict(enumerate(nodes))
    for path, layer in layers.items():
        node = by_index.get(0, nothing)
        for attribute in path:
            node = by_index.get(node.children.get(attribute, -1), nothing)
        for attribute, index in node.children.items():
            if key := by_index.get(index, nothing).key:
                names[key] = f"{layer}/{attribute}"
    return names


def _nodes(graph: Wire) -> Iterator[_Node]:
    num_parts = 0
    for field in graph.fields():
        if field.number != _NODES:
            continue
        children, key, full_name = dict[str, int](), "", ""
        for part in graph.fields(field):
            num_parts += 1
            if num_parts > _MAX_PARTS:
                raise graph.corrupt("an object graph beyond any model's", part.start)
            if part.number == _CHILDREN:
                texts, index = _values(graph, part)
                children[texts.get(_LOCAL_NAME, "")] = index
            elif part.number == _ATTRIBUTES:
                texts, _ = _values(graph, part)
                key = texts.get(_CHECKPOINT_KEY, "")
                full_name = texts.get(_FULL_NAME, "")
        yield _Node(children, key, full_name)


def _values(graph: Wire, part: Field) -> tuple[dict[int, str], int]:
    """Return a child's or attribute's texts by field number, and the node's index."""
    texts, index = dict[int, str](), 0
    for field in graph.fields(part):
        if field.kind == BYTES:
            texts[field.number] = graph.text(field)
        elif field.number == _NODE_ID:
            index = field.value
    return texts, index
