"""Forks of the memory, recognised by what they do."""

import copy

import pytest
import torch

from dmgan_fast.compat import patch
from tests.compat import standins
from tests.compat.patched import built, close, gradients, inputs, weighted, whats
from tests.compat.standins import WORDS


class PaperMask(standins.Reading):
    """Each picture its own mask, as forks have repaired it."""

    def forward(self, pixels, key, value):
        batch, _, height, width = pixels.shape
        scores = torch.einsum("bcn,bct->bnt", pixels.flatten(2), key)
        if self.mask is not None:
            scores = scores.masked_fill(self.mask[:, None], -torch.inf)
        weights = scores.softmax(2).transpose(1, 2)
        return torch.bmm(value, weights).view_as(pixels), weights.reshape(batch, -1, height, width)


@pytest.mark.parametrize("change", ["mask", "attached mean", "swapped names"])
def test_forks_of_the_memory_are_recognised_by_what_they_do(change):
    class Fork(standins.Memory):
        def forward(self, h_code, c_code, word_embs, mask, cap_lens):
            mean = self.pool(h_code).squeeze(3)
            mean = mean if change == "attached mean" else mean.detach()
            gate = torch.sigmoid(self.ga(word_embs.transpose(1, 2)) + self.gb(mean.transpose(1, 2))).transpose(1, 2)
            memory = self.from_words(word_embs) * gate + self.from_image(mean) * (1 - gate)
            self.reading.applyMask(mask)
            key, value = (self.v, self.k) if change == "swapped names" else (self.k, self.v)
            found, maps = self.reading(h_code, key(memory), value(memory))
            response = self.respond(torch.cat((h_code, found), 1))
            h = h_code * (1 - response) + response * found
            return self.up(self.series(torch.cat((h, h), 1))), maps

    def make():
        stage = Fork(4, WORDS, 8)
        stage.reading = PaperMask() if change == "mask" else stage.reading
        return stage

    plain = built(make)
    fast = copy.deepcopy(plain)
    assert "memory refinement, and cat(h, h) into the first residual block" in whats(patch(fast))
    found = []
    for model in (plain, fast):
        h = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
        _, _, words, mask = inputs()
        results = model(h, None, words, mask=mask, cap_lens=None)
        weighted(results).backward()
        found.append([*results, h.grad, gradients(model)])
    for one, other in zip(*found, strict=True):
        close(one, other)


def test_a_memory_that_does_something_else_is_left_alone_but_its_parts_are_not():
    class Fork(standins.Memory):
        def forward(self, h_code, c_code, word_embs, mask, cap_lens):
            out, maps = super().forward(h_code, c_code, word_embs, mask, cap_lens)
            return out, maps.square()

    class Vague(standins.Memory):
        def forward(self, *given):
            return super().forward(*given)

    for kind, reason in ((Fork, "its result differs"), (Vague, "names of its forward's arguments")):
        handle = patch(built(lambda kind=kind: kind(4, WORDS, 8)))
        (left,) = [e for e in handle.report().left if e.what == "memory refinement"]
        assert reason in left.reason
        assert whats(handle)["residual block"] == 2
