"""An up-block in tiles: what it keeps, autocast, bad input."""

import pytest
import torch

from dmgan_fast import functional
from dmgan_fast.errors import BackendError, InputError
from tests.ops.tiled import C, I, block


def test_only_the_input_is_kept_for_backward():
    tensors, running, options = block("upsample", torch.float32, size=(2, 16, 16))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        functional.tiled_glu(**tensors, **running, **options, training=True)
    of_pictures = [t for t in kept if t.dim() == 4 and t.shape[1] != I]
    assert not of_pictures, [t.shape for t in of_pictures]
    assert any(t is tensors["x"] or t.data_ptr() == tensors["x"].data_ptr() for t in kept)


def test_under_autocast_the_tiles_are_half_and_the_parameters_gradients_are_not():
    tensors, running, options = block("upsample", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = functional.tiled_glu(**tensors, **running, **options, training=True)
    assert y.dtype == torch.bfloat16
    grads = torch.autograd.grad(y.float().sum(), list(tensors.values()))
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


def test_second_derivatives_are_refused():
    tensors, running, options = block("glu", torch.float32)
    y, _ = functional.tiled_glu(**tensors, **running, **options, training=True)
    (grad,) = torch.autograd.grad(y.square().sum(), [tensors["x"]], create_graph=True)
    with pytest.raises(BackendError, match="second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 3}, r"rows must be at least 4 .* got 3"),
        ({"head_weight": torch.ones(3, 7, 3, 3)}, r"head_weight must have shape \[O, 10, 3, 3\], got \[3, 7, 3, 3\]"),
        ({"head_weight": torch.ones(3, C, 3, 3)}, "there is no mean of y"),
        ({"conv_weight": torch.ones(5, I, 3, 3)}, r"weight must have shape \[5\], got \[20\]"),
        ({"conv_weight": torch.ones(5, I, 3, 3), "weight": None, "bias": None}, "running_mean must have shape"),
        ({"training": False, "running_mean": None}, "evaluation needs running_mean"),
        ({"x": torch.ones(1, I, 1, 1)}, "one value per channel has no variance"),
    ],
)
def test_bad_input_is_named(change, message):
    tensors, running, options = block("glu", torch.float32)
    with pytest.raises(InputError, match=f"tiled_glu: .*{message}"):
        functional.tiled_glu(**(tensors | running | options | {"training": True} | change))


@pytest.mark.parametrize("rows", [4, 5, 64])
def test_no_number_comes_from_the_host(rows, monkeypatch):
    """Copying one waits for the device, and a CUDA graph can't hold it."""
    tensors, running, options = block("glu")
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("a tensor was made on the host"))
    outputs = functional.tiled_glu(**tensors, **running, **options, rows=rows, training=True)
    torch.autograd.grad(outputs[0].sum(), list(tensors.values()))
