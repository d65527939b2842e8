"""Launches of a step on a GPU, counted without one."""

import pytest
import torch
from torch.nn import functional as F

from dmgan_fast import functional
from dmgan_fast.devices import planned_for
from dmgan_fast.metering.dataless import Dataless
from dmgan_fast.metering.launches import CHUNK, Launches, launches_over
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.training.planning import measure

# What a second step of birds' models with 10 images launches, and no more: docs/gpu.md says how it is counted.
BIRDS = {"bf16": 1197, "fp32": 1255}


def counted(run, *sizes):
    with Dataless():
        tensors = [torch.empty(size, requires_grad=True) for size in sizes]
    with Launches() as found:
        run(*tensors)
    return found


@pytest.mark.parametrize(
    ("sizes", "lists", "launches"),
    [
        ([8] * 110, 1, 1),  # tensors that a kernel takes of one list
        ([8] * 111, 1, 2),
        ([8] * 36, 4, 1),  # of Adam's four
        ([8] * 37, 4, 2),
        ([320 * CHUNK], 1, 1),  # chunks that it takes
        ([320 * CHUNK + 1], 1, 2),
        ([8, 320 * CHUNK, 8], 2, 2),
    ],
)
def test_kernels_over_lists_are_cut_as_pytorch_cuts_them(sizes, lists, launches):
    assert launches_over([[torch.empty(size, device="meta") for size in sizes]] * lists) == launches


def test_operators_count_by_the_kernels_they_launch():
    found = counted(lambda x, w, b: F.conv2d(x, w, b).sum().backward(), (2, 3, 8, 8), (4, 3, 3, 3), (4,))
    by_operator = found.by_operator()
    assert by_operator["aten.convolution"] == 2, "the bias comes after"
    assert by_operator["aten.convolution_backward"] == 3, "one for each gradient"
    assert "aten.expand" not in +by_operator, "a view launches nothing"
    assert found.total() == 2 + 3 + 2, "and a sum, and ones to begin with"


def test_our_ops_count_by_the_kernels_of_the_cuda_library():
    def norm(x, weight, bias):
        functional.batch_norm_glu(x, weight, bias, None, None, training=True)[0].sum().backward()

    by_operator = counted(norm, (2, 8, 4, 4), (8,), (8,)).by_operator()
    assert by_operator["dmgan_fast.batch_norm_glu"] == 3, "moments, their merge, the result"
    assert by_operator["dmgan_fast.batch_norm_glu_backward"] == 3, "sums, their merge, the gradient"
    by_words = counted(
        lambda regions, words: functional.words_similarity(
            regions, words, torch.ones(17, dtype=torch.long), gamma1=4.0, gamma2=5.0
        ),
        (17, 4, 3, 3),
        (17, 4, 5),
    ).by_operator()
    assert by_words["dmgan_fast.words_similarity"] == 12, "6 for each 16 captions"


def test_layouts_that_change_are_counted_where_they_do():
    def run(x, w):
        last = x.contiguous(memory_format=torch.channels_last)
        F.conv2d(last, w.contiguous(memory_format=torch.channels_last))
        F.conv2d(last, w)

    found = counted(run, (2, 3, 8, 8), (4, 3, 3, 3))
    assert +found.layouts_changed == {": convolution": 1}
    assert +found.relaid == {": clone": 2}


def second_step(precision, batch=10, **values):
    """Launches of a step after one that has made all it keeps."""
    config = build_config(TrainConfig, values={"step": {"precision": precision}} | values)
    with Dataless(), planned_for("cuda"):
        step = measure.models_of(config)
        inputs, noise = measure.batch_of(config, batch)
    found = Launches()
    with found:
        step(inputs, **noise)
    found.launches.clear()
    with found:
        step(inputs, **noise)
    return found


@pytest.mark.parametrize("precision", BIRDS)
def test_a_step_of_birds_launches_no_more_than_is_committed(precision):
    launches = second_step(precision).total()
    assert launches <= BIRDS[precision]
    assert launches > 0.9 * BIRDS[precision], "lower the bound with what it bounds"
