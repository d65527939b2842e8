"""The dynamic memory, with gates and without."""

import pytest
import torch

from dmgan_fast.modules import DynamicMemory


def plain_memory(memory, h, words, mask):
    """Paper, section 3.1, a word and a pixel at a time would be the same."""
    w = {name: p.detach() for name, p in memory.named_parameters()}
    mean = h.mean((2, 3))
    m = torch.relu(torch.einsum("kd,bdt->bkt", w["word_weight"], words) + w["word_bias"][:, None])
    if "gate_word" in w:
        gate = torch.sigmoid(torch.einsum("d,bdt->bt", w["gate_word"], words) + (mean @ w["gate_image"])[:, None])[
            :, None
        ]
        m = gate * m + (1 - gate) * torch.relu(mean @ w["image_weight"].T + w["image_bias"])[:, :, None]
    key, value = (
        torch.relu(torch.einsum("ck,bkt->bct", w[f"{n}_weight"], m) + w[f"{n}_bias"][:, None]) for n in ("key", "value")
    )
    scores = torch.einsum("bcn,bct->bnt", h.flatten(2), key).masked_fill(mask[:, None], -torch.inf)
    read = torch.einsum("bnt,bct->bcn", scores.softmax(2), value).view_as(h)
    both = torch.cat((h, read), 1)
    if "response_weight" not in w:
        return both
    gate = torch.sigmoid(torch.einsum("c,bchw->bhw", w["response_weight"], both) + w["response_bias"])[:, None]
    return gate * read + (1 - gate) * h


@pytest.mark.parametrize(("writing", "response"), [(True, True), (True, False), (False, True), (False, False)])
def test_memory_without_gates_computes_its_formula(writing, response):
    torch.manual_seed(0)
    memory = DynamicMemory(4, 8, writing_gate=writing, response_gate=response).double()
    h, words = torch.randn(2, 4, 6, 5, dtype=torch.float64), torch.randn(2, 8, 3, dtype=torch.float64)
    mask = torch.tensor([[False, False, False], [False, False, True]])
    found, attention, gate = memory(h, words, mask, return_attention=True)
    expected = plain_memory(memory, h, words, mask)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert attention.shape == (2, 3, 6, 5)
    assert (gate is None) != response
    found.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in memory.parameters())


def test_writing_gates_are_those_that_write():
    torch.manual_seed(0)
    memory = DynamicMemory(4, 8).double()
    words, mean = torch.randn(2, 8, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    expected = torch.sigmoid(torch.einsum("d,bdt->bt", memory.gate_word, words) + (mean @ memory.gate_image)[:, None])
    assert torch.allclose(memory.writing_gates(words, mean), expected, rtol=1e-12)
