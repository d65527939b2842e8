"""Conditioning loss: KL(N(mu, sigma²) ‖ N(0, 1)), as a mean over batch and channels, as the authors compute it."""

from __future__ import annotations

from torch import Tensor

from dmgan_fast.contract import require_tensors
from dmgan_fast.errors import InputError
from dmgan_fast.layouts import at_least_float32


def conditioning_loss(mu: Tensor, logvar: Tensor) -> Tensor:
    """``-mean(1 + logvar - mu² - exp(logvar)) / 2`` of ``mu, logvar [B, C]``; a scalar.

    Raises:
        InputError: if shapes, dtypes or devices differ.
    """
    require_tensors("conditioning_loss", mu=mu, logvar=logvar)
    if mu.shape != logvar.shape:
        raise InputError(
            f"conditioning_loss: logvar must have the shape of mu {list(mu.shape)}, got {list(logvar.shape)}"
        )
    if mu.dtype != logvar.dtype or mu.device != logvar.device:
        raise InputError(
            f"conditioning_loss: logvar is {logvar.dtype} on {logvar.device}, mu is {mu.dtype} on {mu.device}"
        )
    mu, logvar = at_least_float32(mu), at_least_float32(logvar)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()
