"""Memory reading: alpha = softmax_i(h_j . k_i), o = sum_i alpha_i v_i, g = sigmoid(w [h, o] + b), h' = g o + (1 - g) h.

One pass over h: the [N, T] weights stay in registers. With w = [w_h, w_o], w_h is one more key that nobody reads: its
logit is the gate's w_h . h, and in backward the gate's gradient flows through it as through any logit. Since w_o . o =
(V^T w_o) . alpha and grad . o = (V^T grad) . alpha, gates and softmax gradients need no o. Sums over pixels go through
fixed blocks in a fixed order, so results repeat bit by bit. Captions that don't fit registers are left to PyTorch
(``_long_captions.py``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmgan_fast.kernels import _long_captions
from dmgan_fast.kernels._common import dot_precision, pixel_strides, program_in_2d, program_in_3d, warps_of
from dmgan_fast.layouts import empty_map

MAX_KEYS = 32  # of a tile: words, and w_h if there is a gate; captions have 18 words, or a few more
MAX_CHANNEL_BLOCK = 128  # channels of one tile: those of h fit for every published model; more come in blocks
PROGRAM_PIXELS = 64  # of the backward, where every program stores sums [C, T], about as many bytes as its h
ADD_ROWS, ADD_COLUMNS = 32, 64  # tile of the kernel that adds the partial sums

# Axes: b samples, p pixels, c channels, t words. Tiles: BP pixels by BC channels or BT words. Pixels come first, as the
# queries of an attention do: each warp then owns whole rows, and the softmax never leaves it.


@triton.jit
def _pixel_block(features, c, stride_c, live, C: tl.constexpr):
    """Channels c of the pixels at the addresses ``features``: [BP, BC]."""
    address = features[:, None] + c.to(tl.int64)[None, :] * stride_c  # [BP, BC]
    return tl.load(address, mask=live[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def _value_block(value, c, t, words, C: tl.constexpr):
    """Channels c of the words t of a sample: [BC, BT]."""
    return tl.load(value + c[:, None] * words + t[None, :], mask=(c < C)[:, None] & (t < words)[None, :], other=0.0)


@triton.jit
def _key_block(key, gate_weight, c, t, words, C: tl.constexpr):
    """Channels c of the keys of the words t, and of w_h at t = T: [BC, BT]."""
    block = _value_block(key, c, t, words, C)  # [BC, BT]
    if gate_weight is not None:
        weight_h = tl.load(gate_weight + c, mask=c < C, other=0.0).to(block.dtype)  # [BC]
        block = tl.where((t == words)[None, :], weight_h[:, None], block)
    return block


@triton.jit
def _gate_value(value, gate_weight, t, words, C: tl.constexpr, BC: tl.constexpr, BT: tl.constexpr):
    """V^T w_o [BT]: what each word adds to the gate when it is read."""
    total = tl.zeros([BT], tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        weight_o = tl.load(gate_weight + C + c, mask=c < C, other=0.0)  # [BC]
        total += tl.sum(weight_o[:, None] * _value_block(value, c, t, words, C).to(tl.float32), 0)
    return total


@triton.jit
def _readable(mask, sample, p, t, live, batch, words, pixels, OFFICIAL: tl.constexpr):
    """Whether pixel p reads word t: [1, BT], or [BP, BT] in the authors' rows ``(b * N + p) % B``."""
    real = (t < words)[None, :]  # [1, BT]
    if mask is None:
        readable = real
    elif OFFICIAL:
        row = (sample * pixels + p) % batch  # [BP]
        readable = tl.load(mask + row[:, None] * words + t[None, :], mask=live[:, None] & real, other=True) == 0
    else:
        readable = tl.load(mask + sample * words + t[None, :], mask=real, other=True) == 0
    return readable


@triton.jit(do_not_specialize=("batch", "words"))
def _forward_kernel(
    h, key, value, gate_weight, gate_bias, mask, out, lse, attention, gate,
    h_stride_b, h_stride_c, h_stride_p, out_stride_b, out_stride_c, out_stride_p, batch, words, pixels,
    OFFICIAL: tl.constexpr, C: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, BT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Program: a tile of pixels of one sample."""
    tile, sample = program_in_2d(tl.cdiv(pixels, BP))
    p = tile * BP + tl.arange(0, BP)
    t = tl.arange(0, BT)
    live = p < pixels
    h += sample * h_stride_b + p.to(tl.int64) * h_stride_p  # [BP]
    out += sample * out_stride_b + p.to(tl.int64) * out_stride_p  # [BP]
    key += sample * C * words
    value += sample * C * words

    logits = tl.zeros([BP, BT], tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        key_block = _key_block(key, gate_weight, c, t, words, C)  # [BC, BT]
        logits = tl.dot(_pixel_block(h, c, h_stride_c, live, C), key_block, logits, input_precision=PRECISION)
    readable = _readable(mask, sample, p, t, live, batch, words, pixels, OFFICIAL)  # [BP, BT]
    top = tl.max(tl.where(readable, logits, float("-inf")), 1)  # [BP]
    top = tl.where(top == float("-inf"), 0.0, top)  # nothing to read
    scores = tl.where(readable, tl.exp(logits - top[:, None]), 0.0)  # [BP, BT]
    total = tl.sum(scores, 1)  # [BP]
    scale = 1.0 / tl.where(total == 0, 1.0, total)  # [BP]
    tl.store(lse + sample * pixels + p, top + tl.log(total), mask=live)
    if gate_weight is not None:
        gate_h = tl.sum(tl.where((t == words)[None, :], logits, 0.0), 1)  # [BP]
        gate_read = tl.sum(scores * _gate_value(value, gate_weight, t, words, C, BC, BT)[None, :], 1)  # [BP]
        g = tl.sigmoid(gate_h + gate_read * scale + tl.load(gate_bias))  # [BP]
        if gate is not None:
            tl.store(gate + sample * pixels + p, g.to(gate.dtype.element_ty), mask=live)

    alpha = (scores * scale[:, None]).to(value.dtype.element_ty)  # [BP, BT]
    if attention is not None:
        address = attention + (sample * words + t[None, :]) * pixels + p[:, None]  # [BP, BT]
        tl.store(address, alpha, mask=live[:, None] & (t < words)[None, :])
    for c0 in tl.static_range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        read = tl.dot(alpha, tl.trans(_value_block(value, c, t, words, C)), input_precision=PRECISION)  # [BP, BC]
        if gate_weight is not None:
            h_block = _pixel_block(h, c, h_stride_c, live, C).to(tl.float32)  # [BP, BC]
            read = g[:, None] * read + (1 - g)[:, None] * h_block
        address = out[:, None] + c.to(tl.int64)[None, :] * out_stride_c  # [BP, BC]
        tl.store(address, read.to(out.dtype.element_ty), mask=live[:, None] & (c < C)[None, :])


@triton.jit
def _weigh(
    grad_out, g_stride_c, h, h_stride_c, key, value, key_block, value_block, gate_weight, lse, readable,
    t, live, words, C: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, BT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """alpha and grad_out . v [BP, BT], w_h . h and grad_out . h [BP]."""
    logits = tl.zeros([BP, BT], tl.float32)
    grad_read = tl.zeros([BP, BT], tl.float32)
    grad_dot_h = tl.zeros([BP], tl.float32)
    for c0 in range(0, C, BC):
        c = c0 + tl.arange(0, BC)
        if BC < C:
            key_block = _key_block(key, gate_weight, c, t, words, C)  # [BC, BT]
            value_block = _value_block(value, c, t, words, C)  # [BC, BT]
        h_block = _pixel_block(h, c, h_stride_c, live, C)  # [BP, BC]
        grad_block = _pixel_block(grad_out, c, g_stride_c, live, C)  # [BP, BC]
        logits = tl.dot(h_block, key_block, logits, input_precision=PRECISION)
        grad_read = tl.dot(grad_block, value_block, grad_read, input_precision=PRECISION)
        grad_dot_h += tl.sum(h_block.to(tl.float32) * grad_block.to(tl.float32), 1)
    alpha = tl.where(readable, tl.exp(logits - lse[:, None]), 0.0)
    total = tl.sum(alpha, 1)  # 1 but for the rounding of lse, which matters to the gradient of a softmax
    alpha /= tl.where(total == 0, 1.0, total)[:, None]
    return alpha, grad_read, tl.sum(tl.where((t == words)[None, :], logits, 0.0), 1), grad_dot_h


@triton.jit
def _store_sums(sums, block, c, t, words, C: tl.constexpr):
    """Stores [BC, BT] as channels c of the words t."""
    real = (c < C)[:, None] & (t < words)[None, :]
    tl.store(sums + c[:, None] * words + t[None, :], block, mask=real)


@triton.jit(do_not_specialize=("batch", "words"))
def _backward_kernel(
    grad_out, grad_attention, grad_gate, h, key, value, gate_weight, gate_bias, mask, lse, grad_h,
    key_sums, value_sums, weight_sums, bias_sums,
    g_stride_b, g_stride_c, g_stride_p, h_stride_b, h_stride_c, h_stride_p, dh_stride_b, dh_stride_c, dh_stride_p,
    batch, words, pixels, OFFICIAL: tl.constexpr, TILES: tl.constexpr,
    C: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, BT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program: TILES tiles of pixels of one sample, and BC of the channels of grad_h and of the sums."""
    programs = tl.cdiv(pixels, BP * TILES)  # of a sample's channel block
    program, channel_block, sample = program_in_3d(programs, tl.cdiv(C, BC))
    grad_out += sample * g_stride_b
    h += sample * h_stride_b
    grad_h += sample * dh_stride_b
    key += sample * C * words
    value += sample * C * words
    row = program * batch + sample

    c = tl.arange(0, BC)
    if BC < C:  # else all tiles have the same channels, and are loaded once
        c += channel_block * BC
    t = tl.arange(0, BT)
    key_block = _key_block(key, gate_weight, c, t, words, C)  # [BC, BT]
    value_block = _value_block(value, c, t, words, C)  # [BC, BT]
    key_sum = tl.zeros([BC, BT], tl.float32)
    value_sum = tl.zeros([BC, BT], tl.float32)
    if gate_weight is not None:
        bias = tl.load(gate_bias)
        gate_value = _gate_value(value, gate_weight, t, words, C, BC, BT)  # [BT]
        z_sum = tl.zeros([BT], tl.float32)
        bias_sum = tl.zeros([BP], tl.float32)

    for tile in range(TILES):
        p = (program * TILES + tile) * BP + tl.arange(0, BP)
        live = p < pixels
        n = sample * pixels + p  # [BP]
        grad_pixel = grad_out + p.to(tl.int64) * g_stride_p  # [BP]
        h_pixel = h + p.to(tl.int64) * h_stride_p  # [BP]
        lse_pixel = tl.load(lse + n, mask=live, other=float("inf"))  # [BP]
        readable = _readable(mask, sample, p, t, live, batch, words, pixels, OFFICIAL)  # [BP, BT]
        alpha, grad_alpha, gate_h, grad_dot_h = _weigh(
            grad_pixel, g_stride_c, h_pixel, h_stride_c, key, value, key_block, value_block, gate_weight, lse_pixel,
            readable, t, live, words, C, BP, BC, BT, PRECISION,
        )  # fmt: skip
        read_alpha = alpha  # [BP, BT]
        if gate_weight is not None:
            g = tl.sigmoid(gate_h + tl.sum(alpha * gate_value[None, :], 1) + bias)  # [BP]
            grad_g = tl.sum(alpha * grad_alpha, 1) - grad_dot_h  # [BP]
            if grad_gate is not None:
                grad_g += tl.load(grad_gate + n, mask=live, other=0.0).to(tl.float32)
            grad_z = grad_g * g * (1 - g)  # [BP], of the sigmoid's argument
            grad_alpha = g[:, None] * grad_alpha + grad_z[:, None] * gate_value[None, :]  # [BP, BT]
            read_alpha = g[:, None] * alpha  # [BP, BT]
            z_sum += tl.sum(alpha * grad_z[:, None], 0)
            bias_sum += grad_z
        if grad_attention is not None:
            address = grad_attention + (sample * words + t[None, :]) * pixels + p[:, None]  # [BP, BT]
            grad_alpha += tl.load(address, mask=live[:, None] & (t < words)[None, :], other=0.0).to(tl.float32)
        grad_logits = alpha * (grad_alpha - tl.sum(alpha * grad_alpha, 1)[:, None])  # [BP, BT]
        if gate_weight is not None:
            grad_logits = tl.where((t == words)[None, :], grad_z[:, None], grad_logits)
        grad_logits = grad_logits.to(key.dtype.element_ty)
        read_alpha = read_alpha.to(value.dtype.element_ty)

        h_block = _pixel_block(h_pixel, c, h_stride_c, live, C)  # [BP, BC]
        grad_block = _pixel_block(grad_pixel, c, g_stride_c, live, C)  # [BP, BC]
        # Stored before the sums are added to: so fewer registers are live.
        grad_h_block = tl.dot(grad_logits, tl.trans(key_block), input_precision=PRECISION)  # [BP, BC]
        if gate_weight is not None:
            grad_h_block += (1 - g)[:, None] * grad_block.to(tl.float32)
        address = grad_h + p.to(tl.int64)[:, None] * dh_stride_p + c.to(tl.int64)[None, :] * dh_stride_c  # [BP, BC]
        tl.store(address, grad_h_block.to(grad_h.dtype.element_ty), mask=live[:, None] & (c < C)[None, :])
        key_sum = tl.dot(tl.trans(h_block), grad_logits, key_sum, input_precision=PRECISION)
        value_sum = tl.dot(tl.trans(grad_block), read_alpha, value_sum, input_precision=PRECISION)

    # The gradient of w_h is that of a key, and of w_o V z: z is what the gate's argument got through each word.
    if gate_weight is not None:
        weight_o = tl.load(gate_weight + C + c, mask=c < C, other=0.0)  # [BC]
        value_sum += weight_o[:, None] * z_sum[None, :]
        weight_sums += row * 2 * C + c  # [BC]
        tl.store(weight_sums, tl.sum(tl.where((t == words)[None, :], key_sum, 0.0), 1), mask=c < C)
        tl.store(weight_sums + C, tl.sum(value_block.to(tl.float32) * z_sum[None, :], 1), mask=c < C)
        if channel_block == 0:
            tl.store(bias_sums + row, tl.sum(bias_sum, 0))
    _store_sums(key_sums + row * C * words, key_sum, c, t, words, C)
    _store_sums(value_sums + row * C * words, value_sum, c, t, words, C)


@triton.jit
def _add_rows(parts, out, rows, columns, BR: tl.constexpr, BK: tl.constexpr):
    column = tl.program_id(0).to(tl.int64) * BK + tl.arange(0, BK)
    total = tl.zeros([BK], tl.float32)
    for r0 in range(0, rows, BR):
        r = r0 + tl.arange(0, BR)
        address = parts + r.to(tl.int64)[:, None] * columns + column[None, :]  # [BR, BK]
        total += tl.sum(tl.load(address, mask=(r < rows)[:, None] & (column < columns)[None, :], other=0.0), 0)
    tl.store(out + column, total.to(out.dtype.element_ty), mask=column < columns)


@triton.jit
def _add_kernel(parts_1, out_1, columns_1, parts_2, out_2, columns_2, rows, BR: tl.constexpr, BK: tl.constexpr):
    """Sums over the rows of two matrices, always in the same order."""
    if tl.program_id(1) == 0:
        _add_rows(parts_1, out_1, rows, columns_1, BR, BK)
    else:
        _add_rows(parts_2, out_2, rows, columns_2, BR, BK)


class _Tiles(NamedTuple):
    BP: int
    BC: int
    BT: int
    num_warps: int

    @classmethod
    def of(cls, h: Tensor, keys: int, backward: bool) -> _Tiles:
        """Tiles that spill nothing if channels come in sixteens (tests/kernels/test_offline.py). ``keys``: words, with
        w_h if gated.
        """
        channels = h.shape[1]
        BT = 16 if keys <= 16 else MAX_KEYS
        BC = min(max(16, triton.next_power_of_2(channels)), MAX_CHANNEL_BLOCK)
        if channels > MAX_CHANNEL_BLOCK:
            BC = 32
        if h.dtype != torch.float32:
            BP, threads = 64, 128 if channels <= 64 else 256
        else:  # exact products hold their operands in registers
            BP, threads = 16 if backward or channels > 64 else 64, 256
        return cls(BP, BC, BT, warps_of(threads))


def memory_read_forward(
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None,
    official: bool,
    want_attention: bool,
    want_gate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h' and lse; the attention map and the gate if wanted, else empty."""
    batch, channels, height, width = h.shape
    words, pixels = key.shape[2], height * width
    keys = words + (gate_weight is not None)
    if keys > MAX_KEYS:
        return _long_captions.forward(
            h, key, value, gate_weight, gate_bias, padding_mask, official, want_attention, want_gate
        )
    tiles = _Tiles.of(h, keys, backward=False)
    out = empty_map(h, *h.shape[1:])
    lse = torch.empty((batch, pixels), dtype=torch.float32, device=h.device)
    attention = torch.empty((batch, words, height, width) if want_attention else 0, dtype=h.dtype, device=h.device)
    gate = torch.empty((batch, 1, height, width) if want_gate else 0, dtype=h.dtype, device=h.device)
    _forward_kernel[(triton.cdiv(pixels, tiles.BP) * batch,)](
        h, key, value, gate_weight, gate_bias, padding_mask, out, lse,
        attention if want_attention else None, gate if want_gate else None,
        *pixel_strides(h), *pixel_strides(out), batch, words, pixels,
        OFFICIAL=official, C=channels, PRECISION=dot_precision(), **tiles._asdict(),
    )  # fmt: skip
    return out, lse, attention, gate


def memory_read_backward(
    grad_out: Tensor,
    grad_attention: Tensor | None,
    grad_gate: Tensor | None,
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None,
    lse: Tensor,
    official: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of h, key, value, gate_weight and gate_bias; the last two are empty without a gate."""
    batch, channels, height, width = h.shape
    words, pixels = key.shape[2], height * width
    gated = gate_weight is not None
    if words + gated > MAX_KEYS:
        return _long_captions.backward(
            grad_out, grad_attention, grad_gate, h, key, value, gate_weight, gate_bias, padding_mask, lse, official
        )
    tiles = _Tiles.of(h, words + gated, backward=True)
    per_program = PROGRAM_PIXELS // tiles.BP if channels <= 64 else 1  # wider tiles leave no registers for the loop
    programs = triton.cdiv(pixels, tiles.BP * per_program)  # of a sample

    def floats(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=h.device)

    grad_h, grad_key, grad_value = empty_map(h, *h.shape[1:]), torch.empty_like(key), torch.empty_like(value)
    grad_weight, grad_bias = (floats(2 * channels), floats(1)) if gated else (floats(0), floats(0))
    key_sums, value_sums = floats(programs, *key.shape), floats(programs, *value.shape)
    weight_sums, bias_sums = floats(programs * batch, grad_weight.numel()), floats(programs * batch, grad_bias.numel())
    _backward_kernel[(programs * triton.cdiv(channels, tiles.BC) * batch,)](
        grad_out, grad_attention, grad_gate, h, key, value, gate_weight, gate_bias, padding_mask, lse, grad_h,
        key_sums, value_sums, weight_sums, bias_sums,
        *pixel_strides(grad_out), *pixel_strides(h), *pixel_strides(grad_h), batch, words, pixels,
        OFFICIAL=official, TILES=per_program, C=channels, PRECISION=dot_precision(), **tiles._asdict(),
    )  # fmt: skip
    _add(key_sums, grad_key, value_sums, grad_value, rows=programs)
    if gated:
        _add(weight_sums, grad_weight, bias_sums, grad_bias, rows=programs * batch)
    return grad_h, grad_key, grad_value, grad_weight, grad_bias


def _add(parts_1: Tensor, out_1: Tensor, parts_2: Tensor, out_2: Tensor, rows: int) -> None:
    columns = max(out_1.numel(), out_2.numel())
    _add_kernel[(triton.cdiv(columns, ADD_COLUMNS), 2)](
        parts_1, out_1, out_1.numel(), parts_2, out_2, out_2.numel(), rows, BR=ADD_ROWS, BK=ADD_COLUMNS
    )
