"""The Triton kernels around the convolutions and of the words loss, interpreted: sanitized on odd shapes, as accurate
as eager PyTorch, the same bits on every run; and faults planted in their source are caught.
"""

import pytest
import torch

from tests.kernels.dense import LAYOUTS, check_batch_norm, check_upsample, check_words
from tests.kernels.interpreter import InterpreterError, mutant  # before anything imports Triton

from dmgan_fast.kernels import batch_norm_glu, upsample_conv3x3, words_similarity  # isort: skip

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of lanes that are masked off


def run_batch_norm(op):
    return check_batch_norm(op, (2, 10, 37, 33), torch.float32, LAYOUTS[1])


def run_upsample(op):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(op, "SPLIT_PIXELS", 32)
        return check_upsample(op, (2, 5, 7, 5, 7), torch.float32, LAYOUTS[0])


def run_words(op):
    return check_words(op, (2, 20, 18, 70), [18, 5, 1], torch.float32)


@pytest.mark.parametrize(
    ("run", "op"),
    [(run_batch_norm, batch_norm_glu), (run_upsample, upsample_conv3x3), (run_words, words_similarity)],
)
def test_every_run_gives_the_same_bits(run, op):
    for first, second in zip(run(op).values(), run(op).values(), strict=True):
        assert torch.equal(first, second)


# fault: old, new
BATCH_NORM_FAULTS = {
    "dropped mask of the variance": (
        "tl.where(mask, values.to(tl.float32) - pivot[:, None], 0.0)",
        "values.to(tl.float32) - pivot[:, None]",
    ),
    "block of another size": ("blocks.BP * TILES_PER_BLOCK, BR", "blocks.BP, BR"),
    "y stored one channel on": ("_tile(y, sample, channel, pixel", "_tile(y, sample, channel + 1, pixel"),
    "partial means of a sample in one place": ("y_parts + (sample * blocks + block) *", "y_parts + sample *"),
    "slope of the gate": ("dz_a * z_a * (1 - gate)", "dz_a * z_a"),
    "no gradient through the mean": ("dz - dz_mean - xhat", "dz - xhat"),
}
UPSAMPLE_FAULTS = {
    "dropped mask of the upper edge": ("(row >= 0) & ", ""),
    "dropped mask of the last pixel": ("q % 2, p < pixels, out_channels", "q % 2, p <= pixels, out_channels"),
    "column parities swapped": ("2 * column + q % 2", "2 * column + 1 - q % 2"),
    "tap on the wrong side": ("(parity + k + 1) // 2", "(parity + k) // 2"),
    "splits in one place": ("split.to(tl.int64) * TAPS + ", ""),
}
WORDS_FAULTS = {
    "dropped mask of padding": ("live = mask & (t < length)[:, None]", "live = mask"),
    "scale of the softmax over regions": ('gamma1 * s, float("-inf")', 's, float("-inf")'),
    "scores stored one caption on": ("scores_stride + k + tl", "scores_stride + k + 1 + tl"),
    "softmax backward without its mean": (" - mean[None, :])", ")"),
    "captions in one place": ("grad_words + k * D * T + d", "grad_words + d"),
}
FAULTS = [
    pytest.param(run, op, *change, id=fault)
    for run, op, faults in (
        (run_batch_norm, batch_norm_glu, BATCH_NORM_FAULTS),
        (run_upsample, upsample_conv3x3, UPSAMPLE_FAULTS),
        (run_words, words_similarity, WORDS_FAULTS),
    )
    for fault, change in faults.items()
]


@pytest.mark.parametrize(("run", "op", "old", "new"), FAULTS)
def test_planted_faults_are_caught(run, op, old, new, tmp_path):
    with pytest.raises((AssertionError, InterpreterError)):
        run(mutant(op, old, new, tmp_path))
