"""Parts of networks in NumPy, by the formulas of their papers and tools.

Images are [channels, height, width], kernels [out, in / groups, height, width] and
dense kernels [out, in]. Nothing here knows our code, except for what compares with it.
"""

import dataclasses

import numpy as np

from model.networks import registry


def sizes(text):
    """{name: its size} of text like "conv1 55x55x96, fc6 4096"."""
    pairs = (part.split() for part in text.split(","))
    return {name: tuple(map(int, size.split("x"))) for name, size in pairs}


def draw(random, shape, fan_in):
    """A float32 kernel that neither dampens nor amplifies.

    Of a large one, values come again after a prime number, which takes less time: no
    two rows or columns are the same.
    """
    count = min(int(np.prod(shape)), 1_299_709)
    values = random.standard_normal(count, np.float32)
    return np.resize(values * np.float32(np.sqrt(2 / fan_in)), shape)


def convolution(image, kernel, bias=0.0, *, stride=1, border=(0, 0), groups=1):
    """A convolution whose input has `border` zeros before and after, along each side.

    Each group of filters sees its own part of the channels.
    """
    filters, _, *size = kernel.shape
    padded = np.pad(image, ((0, 0), border, border))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, (1, 2))
    windows = windows[:, ::stride, ::stride]  # [in, y, x, kernel y, kernel x]
    outputs = [
        np.tensordot(part, channels, ([1, 2, 3], [0, 3, 4]))
        for part, channels in zip(
            np.split(kernel, groups), np.split(windows, groups), strict=True
        )
    ]
    return np.concatenate(outputs) + np.broadcast_to(bias, filters)[:, None, None]


def depthwise(image, kernel, *, stride, border):
    """A convolution with one filter, kernel[channel, 0], for each channel."""
    padded = np.pad(image, ((0, 0), border, border))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[2:], (1, 2))
    return np.einsum("cyxhw,chw->cyx", windows[:, ::stride, ::stride], kernel[:, 0])


def same_border(length, size, stride):
    """TensorFlow's SAME: ceil(length / stride) places, the odd zero at the end."""
    places = -(-length // stride)
    missing = max((places - 1) * stride + size - length, 0)
    return missing // 2, missing - missing // 2


def caffe_pool(image, size, stride, reduce):
    """Windows without a border of zeros; the last may reach out, and is cut there.

    The number of places is rounded up. An average is over the pixels inside.
    """
    channels, *lengths = image.shape
    places = [-(-(length - size) // stride) + 1 for length in lengths]
    pooled = np.empty((channels, *places), image.dtype)
    for y in range(places[0]):
        for x in range(places[1]):
            top, left = y * stride, x * stride
            window = image[:, top : top + size, left : left + size]
            pooled[:, y, x] = reduce(window, axis=(1, 2))
    return pooled


def pool(image, size, stride, reduce):
    """As `caffe_pool`, but only windows that lie inside."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), (1, 2))
    return reduce(windows[:, ::stride, ::stride], axis=(3, 4))


def local_response_norm(image, size=5, alpha=1e-4, beta=0.75):
    """Caffe's: alpha is divided by the number of channels in the sum."""
    normalised = np.empty_like(image)
    for channel in range(len(image)):
        first = max(channel - size // 2, 0)
        near = image[first : channel + size // 2 + 1]
        scale = 1 + alpha / size * np.square(near).sum(axis=0)
        normalised[channel] = image[channel] / scale**beta
    return normalised


def batch_norm(image, gamma, beta, mean, variance, epsilon):
    """Normalised by the moving mean and variance of each channel."""
    scale = gamma / np.sqrt(variance + epsilon)
    return image * scale[:, None, None] + (beta - mean * scale)[:, None, None]


def dense(vector, kernel, bias):
    """In the precision of the kernel, which may be large."""
    return kernel @ vector.astype(kernel.dtype) + bias


def relu(values):
    return np.maximum(values, 0)


def relu6(values):
    return np.clip(values, 0, 6)


def hwc(image):
    """[channels, height, width] -> [height, width, channels]."""
    return image.transpose(1, 2, 0)


def chw(image):
    """[height, width, channels] -> [channels, height, width]."""
    return image.transpose(2, 0, 1)


def every_step(network, spec):
    """A Keras model with {step: its output} for all steps of a network."""
    return network.build_part(spec, network.positions())


def check(model, image, expected, tolerance=1e-5):
    """Fail at the first step of `every_step` that differs by more than rounding.

    `image` is [height, width, 3]; `expected` is {step: output}, images as [channels,
    height, width]. The tolerance is a share of the largest output of the step.
    """
    outputs = model(image[None], training=False)
    for step, values in expected.items():
        values = hwc(values) if values.ndim == 3 else values
        largest = np.abs(values).max()
        assert largest > 0.1
        np.testing.assert_allclose(
            np.asarray(outputs[step])[0],
            values,
            rtol=0,
            atol=tolerance * largest,
            err_msg=f"step {step};",
        )


def num_parameters(name):
    """The number of weights that are trained, with the network's own classes."""
    network = registry.NETWORKS[name]
    return sum(
        int(np.prod(shape))
        for variables in network.variable_shapes(network.input_spec).values()
        for variable, shape in variables.items()
        if not variable.startswith("moving")
    )


def shapes(name, size_px):
    """{step: shape of its output, without the batch} for images of that size."""
    network = registry.NETWORKS[name]
    spec = dataclasses.replace(
        network.input_spec, size_px=size_px, short_side_px=size_px, mean_image=None
    )
    positions = network.positions()
    return {name: network.output_shape(spec, name)[1:] for name in positions}
