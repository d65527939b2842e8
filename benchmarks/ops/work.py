"""Floating point operations and bytes that each op cannot do without: every input read once, every result written once.

Products of the cheapest exact form PyTorch's own kernels offer are counted (9 a pixel for conv3x3, 16 for the
up-sampling convolution), 2 operations each; backward takes twice the forward's. What stays in cache between passes
costs nothing.
"""

from __future__ import annotations

Work = dict[str, tuple[float, float]]  # direction → operations, bytes


def _both(flops: float, forward: float, both: float) -> Work:
    return {"forward": (flops, forward), "forward+backward": (3 * flops, both)}


def memory_path(batch: int, channels: int, words: int, pixels: int, width: int = 4) -> Work:
    """h → h'; backward reads h and the gradient and writes one. Words are small beside pixels."""
    map_bytes = batch * channels * pixels * width
    return _both(4.0 * batch * channels * (words + 1) * pixels, 2 * map_bytes, 5 * map_bytes)


def batch_norm_glu(batch: int, channels: int, pixels: int, width: int = 4) -> Work:
    """x of ``channels`` → half; backward reads x and the gradient and writes x's."""
    map_bytes = batch * channels * pixels * width
    return _both(6.0 * batch * channels * pixels, 1.5 * map_bytes, 4 * map_bytes)


def batch_norm_skip(batch: int, channels: int, pixels: int, width: int = 4) -> Work:
    """x and a skip → as many; backward reads x and the gradient, which is the skip's too, and writes x's."""
    map_bytes = batch * channels * pixels * width
    return _both(5.0 * batch * channels * pixels, 3 * map_bytes, 6 * map_bytes)


def conv3x3(batch: int, inputs: int, outputs: int, pixels: int, width: int = 4) -> Work:
    """x → y of the same resolution."""
    x, y, weight = batch * inputs * pixels * width, batch * outputs * pixels * width, 9 * inputs * outputs * width
    return _both(18.0 * batch * inputs * outputs * pixels, x + y + weight, 3 * x + 2 * y + 3 * weight)


def conv4x4_stride2(batch: int, inputs: int, outputs: int, pixels: int, width: int = 4) -> Work:
    """``pixels`` of y, four times as many of x."""
    x, y, weight = 4 * batch * inputs * pixels * width, batch * outputs * pixels * width, 16 * inputs * outputs * width
    return _both(32.0 * batch * inputs * outputs * pixels, x + y + weight, 3 * x + 2 * y + 3 * weight)


def upsample_conv3x3(batch: int, inputs: int, outputs: int, pixels: int, width: int = 4) -> Work:
    """``pixels`` of x, four times as many of y."""
    x, y = batch * inputs * pixels * width, 4 * batch * outputs * pixels * width
    weight = 9 * inputs * outputs * width
    return _both(32.0 * batch * inputs * outputs * pixels, x + y + weight, 3 * x + 2 * y + 3 * weight)


def words_similarity(batch: int, words: int, channels: int, regions: int, width: int = 4) -> Work:
    """Two products for each of B² pairs."""
    tensors = batch * channels * (regions + words) * width
    return _both(4.0 * batch**2 * words * channels * regions, tensors, 3 * tensors)
