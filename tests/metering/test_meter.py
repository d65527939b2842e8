"""Bytes by kind, their peak, and operations, of what runs on tensors without data."""

import torch
from torch import nn
from torch.profiler import record_function

from dmgan_fast.metering.meter import Meter

FLOAT = 4  # sizes are whole blocks of a GPU's allocator


def test_a_linear_model_costs_what_its_tensors_do():
    meter = Meter("cuda")
    with meter:
        model = nn.Linear(320, 64, bias=False)
        x = torch.empty(8, 320)
        meter.mark(model.parameters(), "weights")
        meter.mark([x], "batch")
    meter.reset()
    with meter.watching([model]):
        with record_function("forward"):
            y = model(x)
        with record_function("backward"):
            y.sum().backward()
    assert meter.flops["forward"] == 2 * 8 * 320 * 64
    assert meter.flops["backward"] == 2 * 8 * 320 * 64, "no gradient of the inputs"
    now = meter.now
    assert (now["weights"], now["batch"], now["gradients"]) == (20480 * FLOAT, 2560 * FLOAT, 20480 * FLOAT)
    assert meter.peak.total() >= now.total()


def test_what_is_freed_no_longer_counts_but_stays_in_the_peak():
    meter = Meter("cuda")
    with meter:
        x = torch.empty(1024)
        y = x * 2
        view = y[:10]
        both = 2048 * FLOAT
        assert meter.now.total() == both, "views are no memory of their own"
        del y
        assert meter.now.total() == both, "the view holds it"
        del view
    assert (meter.now.total(), meter.peak.total()) == (1024 * FLOAT, both)


def test_what_is_kept_for_backward_is_told_from_what_is_temporary():
    meter = Meter("cuda")
    with meter:
        weight = nn.Parameter(torch.empty(128))
        meter.mark([weight], "weights")
    with meter.watching([]):
        y = (weight * 2).sigmoid()
        kept = meter.now["saved"]
        del y
    assert kept == 128 * FLOAT, "the result of the sigmoid, and nothing for the product with a number"
