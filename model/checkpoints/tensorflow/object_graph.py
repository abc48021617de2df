"""Read the graph of objects in a TF2 checkpoint: what its variables are called.

Source: tensorflow/core/protobuf/trackable_object_graph.proto.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from model.checkpoints.protobuf_fields import BYTES, Wire

LayerPaths = Mapping[tuple[str, ...], str]  # {attributes from the root on: layer}
NO_LAYERS: LayerPaths = {}
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

    A variable of one of `layers` is called "layer/attribute". Others are called by the
    last two parts of their full name in the graph: layer and variable.
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
    for field in graph.fields():
        if field.number != _NODES:
            continue
        children, key, full_name = dict[str, int](), "", ""
        for part in graph.fields(field):
            if part.number not in (_CHILDREN, _ATTRIBUTES):
                continue
            values = graph.by_number(part)
            texts = {n: graph.text(f) for n, f in values.items() if f.kind == BYTES}
            if part.number == _ATTRIBUTES:
                key = texts.get(_CHECKPOINT_KEY, "")
                full_name = texts.get(_FULL_NAME, "")
            else:
                index = values[_NODE_ID].value if _NODE_ID in values else 0
                children[texts.get(_LOCAL_NAME, "")] = index
        yield _Node(children, key, full_name)
