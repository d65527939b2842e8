"""A kernel that writes beyond a tensor: the fault that compute-sanitizer must find."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 128


@triton.jit
def fill(x, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + place, place.to(tl.float32))


def write_beyond(device: str, elements: int = 1 << 12) -> None:
    """Twice as many elements as there are."""
    x = torch.zeros(elements, device=device)
    fill[(2 * elements // BLOCK,)](x, BLOCK=BLOCK)
    torch.cuda.synchronize()
