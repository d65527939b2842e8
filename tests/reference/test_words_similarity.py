"""Similarity of words and regions, as the paper writes it."""

import torch

from dmgan_fast import reference


def test_similarity_equals_the_equations_written_as_loops(golden):
    arrays = golden("losses_s0")
    regions, words = arrays["in/img_features"].double()[:3], arrays["in/words_emb"].double()
    lengths = arrays["in/cap_lens"]
    found = reference.words_similarity(regions, words, lengths, gamma1=4.0, gamma2=5.0)
    for i, region in enumerate(regions.flatten(2)):
        for j, caption in enumerate(words):
            caption = caption[:, : lengths[j]]
            attention = (4.0 * (caption.t() @ region).softmax(0)).softmax(1)
            cosine = torch.cosine_similarity(region @ attention.t(), caption, 0)
            torch.testing.assert_close(found[i, j], (5.0 * cosine).logsumexp(0), rtol=1e-12, atol=0)
