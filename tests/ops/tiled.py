"""Blocks of a generator, in tiles and without."""

import torch

I, C = 6, 10  # noqa: E741


def block(kind, dtype=torch.float64, size=(2, 9, 7), seed=0):
    """Tensors to differentiate, and what is passed as it is."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    batch, height, width = size
    tensors = {"x": normal(batch, I, height, width), "conv_weight": normal(2 * C, I, 3, 3) / 7}
    if "skip" in kind:
        tensors["skip"] = normal(batch, C if kind == "skip" else C // 2, height, width)
        tensors["conv_weight"] = tensors["conv_weight"][:C].clone()
    if kind == "head":
        tensors["head_weight"] = normal(3, C, 3, 3) / 9
    channels = len(tensors["conv_weight"])
    tensors |= {"weight": 1 + normal(channels) / 4, "bias": normal(channels)}
    wide = torch.promote_types(dtype, torch.float32)
    tensors = {k: v.to(wide if k in ("weight", "bias") else dtype).requires_grad_() for k, v in tensors.items()}
    running = {"running_mean": normal(channels).to(wide), "running_var": 1 + normal(channels).abs().to(wide)}
    if "skip" in kind:
        return tensors, running, {}
    return tensors, running, {"upsample": kind in ("upsample", "head"), "return_mean": kind != "head"}
