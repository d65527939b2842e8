"""words_similarity and padding."""

import pytest
import torch

from dmgan_fast.ops import _backends
from tests.ops.arguments import LENGTHS, call, padding, similarity_arguments


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv(_backends.VARIABLE, raising=False)


def test_similarity_does_not_depend_on_padding():
    a = similarity_arguments()
    found = call("words_similarity", a)
    a["words"] = a["words"].masked_fill(padding()[:, None], 100.0)
    assert torch.equal(call("words_similarity", a), found)
    for j, length in enumerate(LENGTHS):
        alone = a | {"words": a["words"][j : j + 1, :, :length], "lengths": torch.tensor([length])}
        torch.testing.assert_close(call("words_similarity", alone)[:, 0], found[:, j])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_caption_without_words_matches_nothing_and_has_no_gradient(backend):
    a = {name: x.float() if name in ("regions", "words") else x for name, x in similarity_arguments().items()}
    a["lengths"] = torch.tensor([0, *LENGTHS[1:]])
    for name in ("regions", "words"):
        a[name].requires_grad_()
    found = call("words_similarity", a, backend=backend)
    assert (found[:, 0] == -torch.inf).all()
    found.exp().sum().backward()
    assert (a["words"].grad[0] == 0).all()
    assert all(a[name].grad.isfinite().all() for name in ("regions", "words"))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_cosine_of_one_channel_has_no_gradient(backend):
    """It is 1 or -1. What is left of parts that nearly cancel would be enlarged by 1 / |c|."""
    a = {name: x[:, :1].float() if name in ("regions", "words") else x for name, x in similarity_arguments().items()}
    for name in ("regions", "words"):
        a[name].requires_grad_()
    call("words_similarity", a, backend=backend).sum().backward()
    assert all(a[name].grad.abs().max() < 1e-6 for name in ("regions", "words"))
