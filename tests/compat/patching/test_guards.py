"""Where a fast forward does not fit, the own one runs."""

import copy

import pytest
import torch
from torch import nn

from dmgan_fast.compat import patch
from tests.compat import standins
from tests.compat.patched import built, inputs
from tests.compat.standins import DMGAN, AttnGAN


def test_hooks_inside_of_fused_blocks_run():
    model = built(DMGAN, torch.float32)
    seen = []
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    first, *others = [dict(model.named_modules())[name] for name in norms]
    first.register_forward_hook(lambda *_: seen.append(first))
    patch(model)
    for norm in others:
        norm.register_forward_hook(lambda module, *_: seen.append(module))
    model.second.reading.register_forward_hook(lambda module, *_: seen.append(module))
    model(*inputs(torch.float32))
    assert {id(m) for m in seen} == {id(m) for m in (first, *others, model.second.reading)}


@pytest.mark.parametrize("given", ["one picture", "no pictures", "another dtype"])
def test_what_the_fast_form_does_not_take_is_the_models_own_business(given):
    plain = built(lambda: standins.keep_block(4, 4), torch.float32)
    fast = copy.deepcopy(plain)
    patch(fast)
    x = {
        "one picture": torch.randn(4, 8, 8),
        "no pictures": torch.randn(0, 4, 8, 8),
        "another dtype": torch.randn(2, 4, 8, 8).double(),
    }[given]
    raised = []
    for model in (plain, fast):
        try:
            raised.append((None, model(x)))
        except Exception as failure:
            raised.append((type(failure), str(failure)))
    assert raised[0][0] is raised[1][0]
    if raised[0][0] is None:
        torch.testing.assert_close(raised[0][1], raised[1][1])


def test_exports_of_a_patched_model_hold_plain_operators():
    model = built(AttnGAN, torch.float32).eval()
    patch(model)
    traced = torch.jit.trace(model, inputs(torch.float32), check_trace=False)
    assert "dmgan_fast" not in str(traced.inlined_graph)
    program = torch.export.export(built_and_patched_head(), (torch.randn(1, 4, 8, 8),))
    assert "dmgan_fast" not in str(program.graph)


def built_and_patched_head():
    head = built(lambda: standins.Head(4), torch.float32).eval()
    patch(head)
    return head


def test_patched_models_run_under_vmap_and_compile():
    model = built(lambda: nn.Sequential(standins.up_block(4, 4), standins.conv3x3(4, 3)), torch.float32).eval()
    x = torch.randn(3, 2, 4, 8, 8)
    expected = torch.stack([model(each) for each in x])
    patch(model)
    torch.testing.assert_close(torch.vmap(model)(x), expected, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x[0]), expected[0], rtol=1e-4, atol=1e-5)
