"""Find what a weight file holds that the identified network does not explain.

Input: the content of the file and the naming convention of the network. Output: names
of layers that only another network can have.
"""

import collections

from model.checkpoints import reading
from model.weights.layer_naming import LayerNaming

# Types of Caffe's layers that compute something of their own, without weights that are
# known. Of these, the known networks have LRN at most.
_CAFFE_TYPES = {
    *("LRN", "BatchNorm", "Scale", "Bias", "Eltwise", "Concat", "PReLU", "ELU"),
    *("Power", "Exp", "Log", "AbsVal", "BNLL", "MVN", "Sigmoid", "TanH", "Slice"),
    *("SPP", "Reduction", "Deconvolution", "Embed", "LSTM", "RNN", "Crop", "Tile"),
}


def find(checkpoint: reading.Checkpoint, naming: LayerNaming) -> list[str]:
    """List the layers of a file that belong to another network, with their kinds.

    A new final layer with any name is explained, and so are biases, numbers and copies
    of the network's weights. Further convolutions and normalisations are not, nor are
    layers that compute without weights, if the file lists its layers.

    Args:
        checkpoint: content of the file.
        naming: naming convention of the network that the file seems to belong to.
    """
    names = {
        naming.tensor_name(layer, variable)
        for layer in naming.layers
        for variable in naming.variables
    }
    dimensions: dict[str, list[int]] = collections.defaultdict(list)
    for name in sorted(checkpoint.tensors.keys() - names):
        layer, separator, _ = name.rpartition("/" if "/" in name else ".")
        if not separator:
            layer = name.rpartition("_")[0]
        # A tensor below another one is a copy, such as a moving average.
        if layer not in names and not name.startswith(naming.ignored_prefixes):
            dimensions[layer or name].append(checkpoint.tensors[name].ndim)
    unexplained = []
    for layer, ndims in dimensions.items():
        if max(ndims) > 2:
            unexplained.append(f"{layer} (a convolution)")
        elif ndims.count(1) > 1 and 2 not in ndims:
            unexplained.append(f"{layer} (a normalisation)")
    lines = [line.split() for line in checkpoint.layers]
    listed = [(line[0], line[-1]) for line in lines if len(line) == 2]
    if "Pooling" in {kind for _, kind in listed}:  # the list is complete
        unexplained += [
            f"{name} ({kind})"
            for name, kind in listed
            if kind in _CAFFE_TYPES - naming.caffe_types
        ]
    return unexplained
