"""Numbers that are none, looked for before they are saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmgan_fast.errors import NonFiniteLossError
from dmgan_fast.parallel.shards import held
from dmgan_fast.runs.snapshot import leaves


def require_finite(state: Any, step: int) -> None:
    """Raise ``NonFiniteLossError`` if a number in ``state`` is not finite: a gradient may be NaN where no loss is.

    Of what is sharded, this process looks at its part.
    """
    tensors = [(name, held(x)) for name, x in leaves(state) if isinstance(x, Tensor)]
    floats = [(name, x) for name, x in tensors if x.is_floating_point() and x.numel()]
    if not floats or bool(torch.stack([x.isfinite().all() for _, x in floats]).all()):
        return
    name = next(name for name, x in floats if not x.isfinite().all())
    raise NonFiniteLossError(
        f"{name} is not finite after step {step}: a gradient was NaN or infinite; no checkpoint is written of it, the "
        "last one is from before"
    )
