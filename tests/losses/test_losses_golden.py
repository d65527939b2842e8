"""DAMSM and conditioning losses against results of the authors' own code."""

import pytest
import torch

from dmgan_fast import losses

# case -> (our loss, its two differentiable inputs, with class ids)
CASES = {
    "words_ids": (losses.words_loss, ("img_features", "words_emb"), True),
    "words_noids": (losses.words_loss, ("img_features", "words_emb"), False),
    "sent_ids": (losses.sentence_loss, ("cnn_code", "sent_emb"), True),
    "sent_noids": (losses.sentence_loss, ("cnn_code", "sent_emb"), False),
    "kl": (losses.conditioning_loss, ("mu", "logvar"), False),
}


def compute(golden, case, dtype):
    """Losses, and gradients of loss0 + 2 loss1, under the names of the golden arrays."""
    arrays = golden("losses_s0")
    loss, names, with_ids = CASES[case]
    leaves = [arrays[f"in/{name}"].to(dtype, copy=True).requires_grad_() for name in names]
    if case == "kl":
        value = loss(*leaves)
        value.backward()
        results = {"loss": value}
    else:
        lengths = [arrays["in/cap_lens"]] if case.startswith("words") else []
        class_ids = arrays["in/class_ids"] if with_ids else None
        both = loss(*leaves, *lengths, class_ids)
        (both[0] + 2 * both[1]).backward()
        results = {"loss0": both[0], "loss1": both[1]}
    return results | {f"grad_{name}": leaf.grad for name, leaf in zip(names, leaves, strict=True)}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_equal_the_authors(golden, case):
    arrays = golden("losses_s0")
    for name, tensor in compute(golden, case, torch.float64).items():
        truth = arrays[f"f64/{case}/{name}"]
        error = (tensor - truth).abs().max() / truth.abs().max()
        assert tensor.shape == truth.shape
        assert error <= 1e-9, f"{name}: relative error {error:.3e}"


@pytest.mark.parametrize("case", CASES)
def test_float32_is_within_twice_the_authors_error(golden, case):
    arrays = golden("losses_s0")
    for name, tensor in compute(golden, case, torch.float32).items():
        truth, theirs = arrays[f"f64/{case}/{name}"], arrays[f"f32/{case}/{name}"].double()
        ulp = torch.finfo(torch.float32).eps * truth.abs().max()
        error, bound = (tensor.double() - truth).abs().max(), 2 * (theirs - truth).abs().max()
        assert error <= bound.clamp(min=ulp), f"{name}: error {error:.3e}, allowed {bound:.3e}"
