"""Matching of every image with every caption: s = softmax over words of R^T w, a = softmax over regions of gamma1 s,
c_t = R a_t, score = log sum_t exp(gamma2 cos(c_t, w_t)) over the caption's words.

Everything is a matrix product over channels, words or regions with a softmax. Of both softmaxes only peak
and sum are stored, so one map of logits serves them, for a few captions at a time: memory stays linear in the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmgan_fast.kernels._common import dot_precision, program_in_2d, program_in_3d

# Axes: b images, k captions of one group, d channels D, t words T, n regions N; BD, BT, BN tiles of them.
# Buffers of a group are indexed by the pair b * captions + k. b and pairs are 64 bits wide.
CAPTIONS = 16  # of a group: fills a large GPU at any batch; logits of 16 captions are as large as the regions
COSINE_EPS = tl.constexpr(1e-8)  # the clamp of the product of norms


# --------------------------------------------------------------------------------------------------------------- tiles


@triton.jit
def _regions_tile(regions, b, d, n, D, N):
    """``[BD, BN]``"""
    mask = (d < D)[:, None] & (n < N)[None, :]  # [BD, BN]
    return tl.load(regions + b * D * N + d[:, None] * N + n[None, :], mask, other=0.0)


@triton.jit
def _words_tile(words, k, d, t, D, T):
    """``[BD, BT]``"""
    return tl.load(words + k * D * T + d[:, None] * T + t[None, :], (d < D)[:, None] & (t < T)[None, :], other=0.0)


@triton.jit
def _context_tile(context, pair, t, d, D, T):
    """``[BT, BD]`` of context ``[pairs, T, D]``."""
    mask = (t < T)[:, None] & (d < D)[None, :]  # [BT, BD]
    return tl.load(context + pair * T * D + t[:, None] * D + d[None, :], mask, other=0.0)


@triton.jit
def _map_tile(maps, pair, t, n, T, N):
    """Pointers ``[BT, BN]`` into ``[pairs, T, N]``, and which lie inside."""
    return maps + pair * T * N + t[:, None] * N + n[None, :], (t < T)[:, None] & (n < N)[None, :]


@triton.jit
def _load_map(maps, pair, t, n, T, N):
    pointer, mask = _map_tile(maps, pair, t, n, T, N)  # [BT, BN]
    return tl.load(pointer, mask, other=0.0)


@triton.jit
def _store_peak_and_sum(sums, pair, i, size, peak, total, mask):
    """Into ``sums [pairs, 2, size]``."""
    tl.store(sums + pair * 2 * size + i, peak, mask)
    tl.store(sums + (pair * 2 + 1) * size + i, total, mask)


@triton.jit
def _peak_and_sum(sums, pair, i, size):
    peak = tl.load(sums + pair * 2 * size + i, i < size, other=0.0)
    return peak, tl.load(sums + (pair * 2 + 1) * size + i, i < size, other=1.0)


@triton.jit
def _over_words(logits, word_sums, pair, t, n, length, T, N):
    """s ``[BT, BN]``: softmax over the caption's words; zero for padding."""
    pointer, mask = _map_tile(logits, pair, t, n, T, N)  # [BT, BN]
    live = mask & (t < length)[:, None]  # [BT, BN]
    peak, total = _peak_and_sum(word_sums, pair, n, N)  # [BN]
    return tl.where(live, tl.exp(tl.load(pointer, live, other=0.0) - peak[None, :]) / total[None, :], 0.0)


@triton.jit
def _over_regions(s, region_sums, pair, t, n, length, gamma1, T, N):
    """a ``[BT, BN]``: softmax over regions of gamma1 s; zero for padding."""
    peak, total = _peak_and_sum(region_sums, pair, t, T)  # [BT]
    return tl.where((t < length)[:, None] & (n < N)[None, :], tl.exp(gamma1 * s - peak[:, None]) / total[:, None], 0.0)


@triton.jit
def _grow(peak, total, values, axis: tl.constexpr):
    """Running maximum and sum of exponentials after ``values``; and by how much the sum so far was scaled."""
    new_peak = tl.maximum(peak, tl.max(values, axis))
    anchor = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    scale = tl.exp(peak - anchor)
    exponentials = tl.exp(values - tl.expand_dims(anchor, axis))
    return new_peak, total * scale + tl.sum(exponentials, axis), scale, exponentials


# ------------------------------------------------------------------------------------------------------------- forward


@triton.jit
def _logits_kernel(
    regions, words, lengths, logits, word_sums, captions, D, T, N,
    BD: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits R^T w; their peak over the caption's words and the sum of exponentials around it."""
    region_block, k, b = program_in_3d(tl.cdiv(N, BN), captions)
    n = region_block * BN + tl.arange(0, BN)
    pair = b * captions + k
    length = tl.load(lengths + k)
    peak = tl.full([BN], float("-inf"), tl.float32)
    total = tl.zeros([BN], tl.float32)
    for first_word in range(0, T, BT):
        t = first_word + tl.arange(0, BT)
        product = tl.zeros([BT, BN], tl.float32)
        for first in range(0, D, BD):
            d = first + tl.arange(0, BD)
            word_tile = tl.trans(_words_tile(words, k, d, t, D, T))  # [BT, BD]
            product = tl.dot(word_tile, _regions_tile(regions, b, d, n, D, N), product, input_precision=PRECISION)
        pointer, mask = _map_tile(logits, pair, t, n, T, N)  # [BT, BN]
        tl.store(pointer, product, mask)
        peak, total, _, _ = _grow(peak, total, tl.where((t < length)[:, None], product, float("-inf")), 0)
    _store_peak_and_sum(word_sums, pair, n, N, peak, total, n < N)


@triton.jit
def _context_kernel(
    regions, lengths, logits, word_sums, context, region_sums, gamma1, captions, D, T, N,
    BD: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Context c = R a in one pass over the regions; peak and sum of a's softmax."""
    word_tiles = tl.cdiv(T, BT)
    block, k, b = program_in_3d(word_tiles * tl.cdiv(D, BD), captions)
    d = block // word_tiles * BD + tl.arange(0, BD)
    t = block % word_tiles * BT + tl.arange(0, BT)
    pair = b * captions + k
    length = tl.load(lengths + k)
    peak = tl.full([BT], float("-inf"), tl.float32)
    total = tl.zeros([BT], tl.float32)
    read = tl.zeros([BT, BD], tl.float32)
    for first in range(0, N, BN):
        n = first + tl.arange(0, BN)
        s = _over_words(logits, word_sums, pair, t, n, length, T, N)  # [BT, BN]
        peak, total, scale, weights = _grow(peak, total, tl.where((n < N)[None, :], gamma1 * s, float("-inf")), 1)
        region_tile = tl.trans(_regions_tile(regions, b, d, n, D, N))  # [BN, BD]
        weights = weights.to(regions.dtype.element_ty)  # [BT, BN]
        read = tl.dot(weights, region_tile, read * scale[:, None], input_precision=PRECISION)  # [BT, BD]
    pointer = context + pair * T * D + t[:, None] * D + d[None, :]  # [BT, BD]
    tl.store(pointer, read / total[:, None], (t < T)[:, None] & (d < D)[None, :])
    _store_peak_and_sum(region_sums, pair, t, T, peak, total, (t < T) & (block < word_tiles))


@triton.jit
def _cosine(words, context, k, pair, t, D, T, BT: tl.constexpr, BD: tl.constexpr):
    """c . w and the squared norms of c and w, ``[BT]`` each."""
    product = tl.zeros([BT], tl.float32)
    context_square = tl.zeros([BT], tl.float32)
    word_square = tl.zeros([BT], tl.float32)
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        c = _context_tile(context, pair, t, d, D, T)  # [BT, BD]
        w = tl.trans(_words_tile(words, k, d, t, D, T).to(tl.float32))  # [BT, BD]
        product += tl.sum(c * w, 1)
        context_square += tl.sum(c * c, 1)
        word_square += tl.sum(w * w, 1)
    return product, context_square, word_square


@triton.jit
def _score_kernel(
    words, lengths, context, scores, scores_stride, gamma2, captions, D, T, BD: tl.constexpr, BT: tl.constexpr
):  # fmt: skip
    """Logarithm of the sum over the caption's words of exp(gamma2 cos(c, w)); -inf for a caption of padding."""
    k, b = program_in_2d(captions)
    length = tl.load(lengths + k)
    peak = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    for first_word in range(0, T, BT):
        t = first_word + tl.arange(0, BT)
        product, context_square, word_square = _cosine(words, context, k, b * captions + k, t, D, T, BT, BD)  # [BT]
        norms = tl.maximum(tl.sqrt_rn(context_square) * tl.sqrt_rn(word_square), COSINE_EPS)  # [BT]
        matched = tl.where(t < length, gamma2 * (product / norms), float("-inf"))  # [BT]
        peak, total, _, _ = _grow(peak, total, matched[None, :], 1)
    tl.store(scores + b * scores_stride + k + tl.arange(0, 1), peak + tl.log(total))


# ------------------------------------------------------------------------------------------------------------ backward


@triton.jit
def _cosine_backward_kernel(
    grad, scores, scores_stride, words, lengths, context, slopes, gamma2, captions, D, T,
    BD: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """``slopes [pairs, 4, T]``: dc = cross w + along_c c, dw = cross c + along_w w, and c . dc."""
    k, b = program_in_2d(captions)
    pair = b * captions + k
    length = tl.load(lengths + k)
    score = tl.load(scores + b * scores_stride + k)
    slope = gamma2 * tl.load(grad + b * scores_stride + k)
    for first_word in range(0, T, BT):
        t = first_word + tl.arange(0, BT)
        product, context_square, word_square = _cosine(words, context, k, pair, t, D, T, BT, BD)  # [BT]
        norms = tl.sqrt_rn(context_square) * tl.sqrt_rn(word_square)  # [BT]
        clamped = tl.maximum(norms, COSINE_EPS)  # [BT]
        cosine = product / clamped  # [BT]
        grad_cosine = tl.where(t < length, slope * tl.exp(gamma2 * cosine - score), 0.0)  # [BT]
        cross = grad_cosine / clamped  # [BT]
        # Where the clamp holds, the cosine is not normalised and norms pass no gradient.
        through_norms = tl.where(norms >= COSINE_EPS, grad_cosine * cosine, 0.0)  # [BT]
        along_context = tl.where(norms >= COSINE_EPS, -through_norms / context_square, 0.0)  # [BT]
        along_word = tl.where(norms >= COSINE_EPS, -through_norms / word_square, 0.0)  # [BT]
        pointer = slopes + pair * 4 * T + t  # [BT]
        tl.store(pointer, cross, t < T)
        tl.store(pointer + T, along_context, t < T)
        tl.store(pointer + 2 * T, along_word, t < T)
        tl.store(pointer + 3 * T, grad_cosine * cosine - through_norms, t < T)


@triton.jit
def _grad_context_tile(words, context, slopes, k, pair, t, d, D, T):
    """dc ``[BT, BD]`` in the words' dtype."""
    cross = tl.load(slopes + pair * 4 * T + t, t < T, other=0.0)[:, None]  # [BT, 1]
    along_context = tl.load(slopes + (pair * 4 + 1) * T + t, t < T, other=0.0)[:, None]  # [BT, 1]
    w = tl.trans(_words_tile(words, k, d, t, D, T).to(tl.float32))  # [BT, BD]
    return (cross * w + along_context * _context_tile(context, pair, t, d, D, T)).to(words.dtype.element_ty)


@triton.jit
def _attention_backward_kernel(
    regions, words, lengths, logits, word_sums, region_sums, context, slopes, grad_s, grad_s_mean, gamma1, captions,
    D, T, N, BD: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of s and its mean over words, weighted by s. As sum_n a da = c . dc, no pass over the regions is due."""
    region_block, k, b = program_in_3d(tl.cdiv(N, BN), captions)
    n = region_block * BN + tl.arange(0, BN)
    pair = b * captions + k
    length = tl.load(lengths + k)
    mean = tl.zeros([BN], tl.float32)
    for first_word in range(0, T, BT):
        t = first_word + tl.arange(0, BT)
        grad_a = tl.zeros([BT, BN], tl.float32)
        for first in range(0, D, BD):
            d = first + tl.arange(0, BD)
            grad_context = _grad_context_tile(words, context, slopes, k, pair, t, d, D, T)  # [BT, BD]
            region_tile = _regions_tile(regions, b, d, n, D, N)  # [BD, BN]
            grad_a = tl.dot(grad_context, region_tile, grad_a, input_precision=PRECISION)  # [BT, BN]
        s = _over_words(logits, word_sums, pair, t, n, length, T, N)  # [BT, BN]
        a = _over_regions(s, region_sums, pair, t, n, length, gamma1, T, N)  # [BT, BN]
        along = tl.load(slopes + (pair * 4 + 3) * T + t, t < T, other=0.0)[:, None]  # [BT, 1]
        ds = gamma1 * a * (grad_a - along)  # [BT, BN]
        pointer, mask = _map_tile(grad_s, pair, t, n, T, N)  # [BT, BN]
        tl.store(pointer, ds, mask)
        mean += tl.sum(s * ds, 0)  # [BN]
    tl.store(grad_s_mean + pair * N + n, mean, n < N)


@triton.jit
def _softmax_backward_kernel(
    lengths, logits, word_sums, region_sums, grad_s, grad_s_mean, gamma1, captions, T, N,
    BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """In place: the gradient of s becomes that of the logits, and the logits become a."""
    region_block, k, b = program_in_3d(tl.cdiv(N, BN), captions)
    n = region_block * BN + tl.arange(0, BN)
    pair = b * captions + k
    length = tl.load(lengths + k)
    mean = tl.load(grad_s_mean + pair * N + n, n < N, other=0.0)  # [BN]
    for first_word in range(0, T, BT):
        t = first_word + tl.arange(0, BT)
        s = _over_words(logits, word_sums, pair, t, n, length, T, N)  # [BT, BN]
        a = _over_regions(s, region_sums, pair, t, n, length, gamma1, T, N)  # [BT, BN]
        pointer, mask = _map_tile(logits, pair, t, n, T, N)  # [BT, BN]
        tl.store(pointer, a, mask)
        pointer, mask = _map_tile(grad_s, pair, t, n, T, N)  # [BT, BN]
        tl.store(pointer, s * (tl.load(pointer, mask, other=0.0) - mean[None, :]), mask)


@triton.jit
def _grad_regions_kernel(
    words, attention, context, slopes, grad_logits, grad_regions, captions, D, T, N,
    BD: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds to ``grad_regions [B, D, N]``, float32, what comes of a group's captions: w dlogits + dc a."""
    region_block, channel_block, b = program_in_3d(tl.cdiv(N, BN), tl.cdiv(D, BD))
    n = region_block * BN + tl.arange(0, BN)
    d = channel_block * BD + tl.arange(0, BD)
    total = tl.zeros([BD, BN], tl.float32)
    word_tiles = tl.cdiv(T, BT)
    for step in range(captions * word_tiles):
        k = step // word_tiles
        t = step % word_tiles * BT + tl.arange(0, BT)
        pair = b * captions + k
        dlogits = _load_map(grad_logits, pair, t, n, T, N).to(words.dtype.element_ty)  # [BT, BN]
        total = tl.dot(_words_tile(words, k, d, t, D, T), dlogits, total, input_precision=PRECISION)  # [BD, BN]
        a = _load_map(attention, pair, t, n, T, N).to(words.dtype.element_ty)  # [BT, BN]
        grad_context = tl.trans(_grad_context_tile(words, context, slopes, k, pair, t, d, D, T))  # [BD, BT]
        total = tl.dot(grad_context, a, total, input_precision=PRECISION)  # [BD, BN]
    pointer = grad_regions + b * D * N + d[:, None] * N + n[None, :]  # [BD, BN]
    mask = (d < D)[:, None] & (n < N)[None, :]  # [BD, BN]
    tl.store(pointer, tl.load(pointer, mask, other=0.0) + total, mask)


@triton.jit
def _grad_words_kernel(
    regions, words, context, slopes, grad_logits, grad_words, images, captions, D, T, N,
    BD: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum over the images of R dlogits and of the cosine's own gradient."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    k = tl.program_id(2)
    total = tl.zeros([BT, BD], tl.float32)
    word_tile = tl.trans(_words_tile(words, k, d, t, D, T).to(tl.float32))  # [BT, BD]
    for b in range(images):
        pair = tl.cast(b, tl.int64) * captions + k
        cross = tl.load(slopes + pair * 4 * T + t, t < T, other=0.0)[:, None]  # [BT, 1]
        along_word = tl.load(slopes + (pair * 4 + 2) * T + t, t < T, other=0.0)[:, None]  # [BT, 1]
        total += cross * _context_tile(context, pair, t, d, D, T) + along_word * word_tile  # [BT, BD]
    region_tiles = tl.cdiv(N, BN)
    for step in range(images * region_tiles):
        image = tl.cast(step // region_tiles, tl.int64)
        n = step % region_tiles * BN + tl.arange(0, BN)
        dlogits = _load_map(grad_logits, image * captions + k, t, n, T, N).to(regions.dtype.element_ty)  # [BT, BN]
        region_tile = tl.trans(_regions_tile(regions, image, d, n, D, N))  # [BN, BD]
        total = tl.dot(dlogits, region_tile, total, input_precision=PRECISION)  # [BT, BD]
    pointer = grad_words + k * D * T + d[None, :] * T + t[:, None]  # [BT, BD]
    tl.store(pointer, total.to(grad_words.dtype.element_ty), (d < D)[None, :] & (t < T)[:, None])


# ------------------------------------------------------------------------------------------------------------ launches


class _Tiles(NamedTuple):
    depth: int  # channels or regions that one product sums over
    wide: int  # channels or regions of a program
    words: int  # summed over or of a program, by kernel


TENSOR_CORE_TILES = _Tiles(depth=32, wide=64, words=32)  # captions have 25 words or fewer
EXACT_TILES = _Tiles(depth=16, wide=64, words=16)  # exact float32 products keep both operands in registers
LOGITS_WARPS = 8  # with 4, which is the default, sixteen bits spill on sm_90


class _Launch:
    """Sizes and options that all kernels of one group of captions share."""

    def __init__(self, regions: Tensor, words: Tensor) -> None:
        self.images, self.D, self.N = regions.shape
        self.captions, _, self.T = words.shape
        self.precision = dot_precision()
        exact = regions.dtype == torch.float32 and self.precision == "ieee"
        self.tiles = EXACT_TILES if exact else TENSOR_CORE_TILES
        self.sizes = self.captions, self.D, self.T, self.N
        self.word_tiles = triton.cdiv(self.T, self.tiles.words)
        self.channel_tiles = triton.cdiv(self.D, self.tiles.wide)
        self.region_tiles = triton.cdiv(self.N, self.tiles.wide)

    def options(self, *, channels: int, regions: int) -> dict[str, int | str]:
        """For a kernel whose tiles have so many channels and regions."""
        return {"BD": channels, "BT": self.tiles.words, "BN": regions, "PRECISION": self.precision}


def _buffer(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _contexts(
    launch: _Launch, regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logits ``[pairs, T, N]``; peaks and sums ``[pairs, 2, N]``, ``[pairs, 2, T]``; context ``[pairs, T, D]``."""
    captions, D, T, N = launch.sizes
    pairs = launch.images * captions
    logits, word_sums = _buffer(regions, pairs, T, N), _buffer(regions, pairs, 2, N)
    region_sums, context = _buffer(regions, pairs, 2, T), _buffer(regions, pairs, T, D)
    tiles = launch.tiles
    _logits_kernel[(launch.region_tiles * pairs,)](
        regions, words, lengths, logits, word_sums, *launch.sizes,
        **launch.options(channels=tiles.depth, regions=tiles.wide), num_warps=LOGITS_WARPS,
    )  # fmt: skip
    _context_kernel[(launch.channel_tiles * launch.word_tiles * pairs,)](
        regions, lengths, logits, word_sums, context, region_sums, gamma1, *launch.sizes,
        **launch.options(channels=tiles.wide, regions=tiles.depth),
    )  # fmt: skip
    return logits, word_sums, region_sums, context


def _groups(words: Tensor) -> list[slice]:
    return [slice(first, first + CAPTIONS) for first in range(0, len(words), CAPTIONS)]


def words_similarity_forward(regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float, gamma2: float) -> Tensor:
    """``regions [B, D, N]``, ``words [B', D, T]``, ``lengths [B']`` → scores ``[B, B']``."""
    scores = _buffer(regions, len(regions), len(words))
    for group in _groups(words):
        words_k, lengths_k, scores_k = words[group], lengths[group], scores[:, group]
        launch = _Launch(regions, words_k)
        *_, context = _contexts(launch, regions, words_k, lengths_k, gamma1)
        _score_kernel[(launch.captions * launch.images,)](
            words_k, lengths_k, context, scores_k, len(words), gamma2, launch.captions, launch.D, launch.T,
            BD=launch.tiles.wide, BT=launch.tiles.words,
        )  # fmt: skip
    return scores


def words_similarity_backward(
    grad: Tensor, scores: Tensor, regions: Tensor, words: Tensor, lengths: Tensor, gamma1: float, gamma2: float
) -> tuple[Tensor, Tensor]:
    """Gradients of regions and words."""
    grad_regions = torch.zeros(regions.shape, dtype=torch.float32, device=regions.device)
    grad_words = torch.empty_like(words)
    grad, scores = grad.contiguous(), scores.contiguous()
    for group in _groups(words):
        words_k, lengths_k = words[group], lengths[group]
        launch = _Launch(regions, words_k)
        tiles, (captions, D, T, N) = launch.tiles, launch.sizes
        pairs = launch.images * captions
        logits, word_sums, region_sums, context = _contexts(launch, regions, words_k, lengths_k, gamma1)
        slopes = _buffer(regions, pairs, 4, T)
        _cosine_backward_kernel[(pairs,)](
            grad[:, group], scores[:, group], len(words), words_k, lengths_k, context, slopes, gamma2, captions, D, T,
            BD=tiles.wide, BT=tiles.words,
        )  # fmt: skip
        grad_s, grad_s_mean = _buffer(regions, pairs, T, N), _buffer(regions, pairs, N)
        _attention_backward_kernel[(launch.region_tiles * pairs,)](
            regions, words_k, lengths_k, logits, word_sums, region_sums, context, slopes, grad_s, grad_s_mean, gamma1,
            *launch.sizes, **launch.options(channels=tiles.depth, regions=tiles.wide),
        )  # fmt: skip
        _softmax_backward_kernel[(launch.region_tiles * pairs,)](
            lengths_k, logits, word_sums, region_sums, grad_s, grad_s_mean, gamma1, captions, T, N,
            BT=tiles.words, BN=tiles.wide,
        )  # fmt: skip
        attention, grad_logits = logits, grad_s
        _grad_regions_kernel[(launch.region_tiles * launch.channel_tiles * launch.images,)](
            words_k, attention, context, slopes, grad_logits, grad_regions, *launch.sizes,
            **launch.options(channels=tiles.wide, regions=tiles.wide),
        )  # fmt: skip
        _grad_words_kernel[launch.word_tiles, launch.channel_tiles, captions](
            regions, words_k, context, slopes, grad_logits, grad_words[group], launch.images, *launch.sizes,
            **launch.options(channels=tiles.wide, regions=tiles.depth),
        )  # fmt: skip
    return grad_regions.to(regions.dtype), grad_words
