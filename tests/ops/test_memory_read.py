"""memory_read, pixel by pixel."""

import pytest
import torch

from dmgan_fast.ops import _backends
from tests.ops.arguments import LENGTHS, B, H, T, W, call, padding, read_arguments


@pytest.fixture(autouse=True)
def seed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.delenv(_backends.VARIABLE, raising=False)


@pytest.mark.parametrize("mask_mode", ["paper", "official"])
def test_read_equals_the_paper_pixel_by_pixel(mask_mode):
    a = read_arguments()
    result, attention, gate = call("memory_read", a, mask_mode=mask_mode, return_attention=True, return_gate=True)
    for b in range(B):
        for n in range(H * W):
            row = b if mask_mode == "paper" else (b * H * W + n) % B
            seen = ~a["padding_mask"][row]
            pixel = a["h"][b].flatten(1)[:, n]
            alpha = torch.zeros(T).double()
            alpha[seen] = (a["key"][b].t() @ pixel)[seen].softmax(0)
            read = a["value"][b] @ alpha
            g = torch.sigmoid(a["gate_weight"] @ torch.cat((pixel, read)) + a["gate_bias"])
            torch.testing.assert_close(attention[b].flatten(1)[:, n], alpha)
            torch.testing.assert_close(gate[b].flatten(1)[:, n], g)
            torch.testing.assert_close(result[b].flatten(1)[:, n], g * read + (1 - g) * pixel)


def test_masked_words_get_no_weight_and_change_nothing():
    a = read_arguments()
    result, attention = call("memory_read", a, return_attention=True)
    assert (attention.flatten(2)[padding()] == 0).all()
    a["key"] = a["key"].masked_fill(padding()[:, None], 1e6)
    a["value"] = a["value"].masked_fill(padding()[:, None], -1e6)
    assert torch.equal(call("memory_read", a), result)


@pytest.mark.parametrize("sample", [1, 2])
def test_read_of_a_sample_does_not_depend_on_its_neighbours_in_paper_mode(sample):
    a = read_arguments()
    length = LENGTHS[sample]
    alone = {k: v[sample : sample + 1] if k in ("h", "key", "value", "padding_mask") else v for k, v in a.items()}
    alone |= {k: alone[k][..., :length] for k in ("key", "value", "padding_mask")}
    torch.testing.assert_close(call("memory_read", a)[sample], call("memory_read", alone)[0])
    official = call("memory_read", a, mask_mode="official")[sample]
    assert not torch.allclose(official, call("memory_read", alone, mask_mode="official")[0])


@pytest.mark.parametrize("mask_mode", ["paper", "official"])
def test_a_fully_masked_caption_reads_zero_with_finite_gradients(mask_mode):
    a = read_arguments()
    a["padding_mask"][1] = True
    a["gate_weight"] = a["gate_bias"] = None
    for name in ("h", "key", "value"):
        a[name].requires_grad_()
    result, attention = call("memory_read", a, mask_mode=mask_mode, return_attention=True)
    rows = torch.arange(B * H * W) % B if mask_mode == "official" else torch.arange(B).repeat_interleave(H * W)
    unread = (rows == 1).view(B, H, W)
    assert (result.movedim(1, 3)[unread] == 0).all()
    assert (attention.movedim(1, 3)[unread] == 0).all()
    assert (result.movedim(1, 3)[~unread] != 0).all()
    (result.square().sum() + attention.square().sum()).backward()
    assert all(a[name].grad.isfinite().all() for name in ("h", "key", "value"))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_masked_words_get_no_weight_at_a_pixel_of_nan_either(backend):
    a = {name: x.float() if x.is_floating_point() else x for name, x in read_arguments().items()}
    a["h"][:, 0, 0, 0] = torch.nan
    _, attention = call("memory_read", a, return_attention=True, backend=backend)
    at_nan, masked = attention[:, :, 0, 0], padding()
    assert (at_nan[masked] == 0).all()
    assert at_nan[~masked].isnan().all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_nan_gate_reaches_the_weights_of_a_caption_that_reads_zero(backend):
    a = {name: x[:1].float() if x.dim() > 2 else x.float() for name, x in read_arguments().items() if x.dim() != 2}
    a["padding_mask"] = torch.ones(1, T, dtype=torch.bool)
    a["gate_bias"] = torch.full_like(a["gate_bias"], torch.nan)
    a["gate_weight"].requires_grad_()
    call("memory_read", a, backend=backend).sum().backward()
    assert a["gate_weight"].grad.isnan().all()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_pixels_that_read_nothing_get_nan_only_from_a_key_of_nan(backend):
    a = {name: x.float() if x.is_floating_point() else x for name, x in read_arguments().items()}
    a["padding_mask"][1] = True
    a["key"][:, 0, 0] = torch.nan
    a["h"].requires_grad_()
    call("memory_read", a, mask_mode="official", backend=backend).sum().backward()
    unread = (torch.arange(B * H * W) % B == 1).view(B, H, W)
    gradient = a["h"].grad.movedim(1, 3)[unread]
    assert gradient[:, 0].isnan().all()
    assert gradient[:, 1:].isfinite().all()
