"""What a device does at best, measured, and the share of it that a step reaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks import roofline
from benchmarks.common import Row, Target
from benchmarks.gpu.clock import by_events
from benchmarks.models import Setting
from benchmarks.precision import set_precision
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.planning.measure import measure_of

ROUNDS = 8
COPY, PRODUCT = 1 << 28, 8192  # elements; rows of a matrix
Share = Callable[[Row, int], Row]


def copy_rate(device: str, elements: int = COPY) -> float:
    """Bytes a second, read and written, of a large copy: the fastest run counts."""
    x = torch.randn(elements, device=device)
    y = torch.empty_like(x)
    return 2e3 * x.nbytes / min(by_events([lambda: y.copy_(x)] * ROUNDS, device))


def product_rate(target: Target, side: int = PRODUCT) -> float:
    """Operations a second of a large matrix product in the target's precision: the fastest run counts."""
    set_precision(target.precision)
    a, b = (torch.randn(side, side, device=target.device, dtype=target.dtype) for _ in range(2))
    return 2e3 * side**3 / min(by_events([lambda: a @ b] * ROUNDS, target.device))


def step_operations(setting: Setting, batch: int, device: str) -> int:
    """Operations of a step that keeps everything, as the planner counts them."""
    return measure_of(setting.train, device)(MemoryPolicy(), batch).flops


def shares(setting: Setting, target: Target, side: int = PRODUCT) -> Share:
    """Of a row of a step of so many images: images a second, and on a GPU operations a second as a share of the peak
    that a matrix product reaches there, and of its maker's."""
    on_gpu = target.device != "cpu"
    measured = product_rate(target, side) if on_gpu else None
    makers = roofline.makers_peak(torch.cuda.get_device_name(), target.precision) if on_gpu else None

    def share(row: Row, batch: int) -> Row:
        if "median_ms" not in row:
            return {}
        operations = step_operations(setting, batch, target.device) if on_gpu else None
        return rates(row["median_ms"], batch, operations, measured, makers)

    return share


def rates(milliseconds: float, batch: int, operations: int | None, measured: float | None, makers: float | None) -> Row:
    """``images_per_second``; with operations also these a second, and their shares of the peaks that are known."""
    row: Row = {"images_per_second": 1e3 * batch / milliseconds}
    if operations is not None:
        rate = 1e3 * operations / milliseconds
        row |= {"operations": operations, "operations_per_second": rate}
        row |= {"of_measured_peak": rate / measured} if measured else {}
        row |= {"of_makers_peak": rate / makers} if makers else {}
    return row


def rows_of(device: str, precisions: tuple[str, ...], tiny: bool) -> Iterator[Row]:
    """A copy, and products in each precision."""
    elements, side = (1 << 12, 64) if tiny else (COPY, PRODUCT)
    yield {"op": "peak", "case": "copy", "per_second": copy_rate(device, elements)}
    for precision in precisions:
        rate = product_rate(Target(device, precision), side)
        yield {"op": "peak", "case": "product", "precision": precision, "per_second": rate}
