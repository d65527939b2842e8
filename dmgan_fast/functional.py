"""The ops as functions. Each takes ``backend="auto" | "cuda" | "triton" | "cpu" | "reference"``; without it,
the environment variable ``DMGAN_FAST_BACKEND`` decides, else ``"auto"``. A backend asked for by name either runs or
raises ``BackendError`` with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from dmgan_fast import ops

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def memory_write(
    words: Tensor,
    image_mean: Tensor,
    *,
    gate_word: Tensor,
    gate_image: Tensor,
    word_weight: Tensor,
    word_bias: Tensor,
    image_weight: Tensor,
    image_bias: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Write words into memory and project it to keys and values (paper, section 3.1.1).

    ``g_w = sigmoid(A w_i + B mean(h))``, ``m_i = g_w relu(M_w w_i) + (1 - g_w) relu(M_r mean(h))``,
    ``k_i = relu(K m_i)``, ``v_i = relu(V m_i)``.

    Args:
        words: ``[B, D, T]``.
        image_mean: ``[B, C]``, the mean of the image features over pixels.
        gate_word, gate_image: ``[D]`` and ``[C]``, the rows A and B of the writing gate.
        word_weight, word_bias: ``[2C, D]``, ``[2C]``.
        image_weight, image_bias: ``[2C, C]``, ``[2C]``.
        key_weight, key_bias, value_weight, value_bias: ``[C, 2C]``, ``[C]`` each.
        backend: see the module.

    Returns:
        key and value, ``[B, C, T]`` each.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    return ops.memory_write.memory_write(
        words,
        image_mean,
        gate_word=gate_word,
        gate_image=gate_image,
        word_weight=word_weight,
        word_bias=word_bias,
        image_weight=image_weight,
        image_bias=image_bias,
        key_weight=key_weight,
        key_bias=key_bias,
        value_weight=value_weight,
        value_bias=value_bias,
        backend=backend,
    )


def memory_read(
    h: Tensor,
    key: Tensor,
    value: Tensor,
    gate_weight: Tensor | None,
    gate_bias: Tensor | None,
    padding_mask: Tensor | None = None,
    *,
    mask_mode: str = "paper",
    return_attention: bool = False,
    return_gate: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Address the memory with every pixel, read it, and blend by the response gate (paper, sections 3.1.2, 3.1.3).

    ``alpha = softmax_i(h_j^T k_i)``, ``o_j = sum_i alpha_ij v_i``, ``g_r = sigmoid(w [h_j, o_j] + b)``,
    ``h'_j = g_r o_j + (1 - g_r) h_j``.

    Args:
        h: ``[B, C, H, W]``.
        key, value: ``[B, C, T]``.
        gate_weight: ``[2C]`` on ``[h, read]``; None: a plain attention read, as in AttnGAN.
        gate_bias: ``[1]``, or None with ``gate_weight=None``.
        padding_mask: ``[B, T]`` bool, True where a word is padding. A caption of padding only reads zero.
        mask_mode: ``"paper"`` masks sample b by its own row; ``"official"`` masks attention row ``b * N + n`` by row
            ``(b * N + n) mod B``, as the authors' code does.
        return_attention: also return the weights ``[B, T, H, W]``.
        return_gate: also return the response gate ``[B, 1, H, W]``.
        backend: see the module.

    Returns:
        ``h' [B, C, H, W]``, or a tuple with the maps asked for after it.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    return ops.memory_read.memory_read(
        h,
        key,
        value,
        gate_weight,
        gate_bias,
        padding_mask,
        mask_mode=mask_mode,
        return_attention=return_attention,
        return_gate=return_gate,
        backend=backend,
    )


def batch_norm_glu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    skip: Tensor | None = None,
    return_mean: bool = False,
    process_group: ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Batch norm, then a gated linear unit: ``y = a * sigmoid(b)`` for the halves ``[a, b]`` of ``z = BN(x)``.

    With ``skip`` it is ``y = z + skip`` instead, the end of a residual block.

    Args:
        x: ``[B, 2C, H, W]``; with ``skip``, any number of channels.
        weight, bias: ``[2C]`` each, or None.
        running_mean, running_var: ``[2C]`` each; in training updated in place as ``nn.BatchNorm2d`` does (unbiased
            variance), or None; needed in evaluation.
        training: normalise by the batch's statistics.
        momentum, eps: as in ``nn.BatchNorm2d``.
        skip: ``[B, K, H, W]`` with K dividing the channels of x; channel c takes skip's channel ``c % K``, so that
            ``z + cat(h, h)`` needs no copy of h.
        return_mean: also return the mean of y over pixels, ``[B, C]``.
        process_group: in training, statistics over the batches of all its processes, as ``nn.SyncBatchNorm``.
        backend: see the module.

    Returns:
        ``y [B, C, H, W]`` (with ``skip`` as many channels as x), or ``(y, mean)``.

    Raises:
        InputError: for shapes or devices that do not fit, or one value per channel in training.
        BackendError: if the backend asked for can't run.
    """
    return ops.batch_norm_glu.batch_norm_glu(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        training=training,
        momentum=momentum,
        eps=eps,
        skip=skip,
        return_mean=return_mean,
        process_group=process_group,
        backend=backend,
    )


def tiled_block(
    x: Tensor,
    conv_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    upsample: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    skip: Tensor | None = None,
    head_weight: Tensor | None = None,
    return_mean: bool = False,
    rows: int = 64,
    process_group: ProcessGroup | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """A block of the generator in tiles: ``y = GLU(BN(conv(x)))``, keeping only x and holding one tile at a time.

    For sides at which the convolution's result does not fit: it is computed tile by tile, twice forward (statistics,
    result) and twice backward (sums, gradient), so a block costs six convolutions instead of three. Sums run over
    tiles, so results differ from the plain block's by rounding.

    Args:
        x: ``[B, I, H, W]``.
        conv_weight: ``[2C, I, 3, 3]``; with ``skip``, ``[C, I, 3, 3]``.
        weight, bias, running_mean, running_var, training, momentum, eps, return_mean, process_group: as in
            ``batch_norm_glu``.
        upsample: nearest ×2 before the convolution.
        skip: ``[B, K, H, W]``: ``y = BN(conv(x)) + skip`` instead, as in ``batch_norm_glu``; without ``upsample``.
        head_weight: ``[O, C, 3, 3]``: return ``tanh(conv(y, head_weight))``, and y never exists either.
        rows: rows of x in a tile, 4 or more; a tile is of one sample.
        backend: of the arithmetic within a tile; see the module.

    Returns:
        ``y [B, C, H, W]`` (twice the side with ``upsample``), ``(y, mean)``, or the image ``[B, O, ...]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit, and for options that don't go together.
        BackendError: if the backend asked for can't run.
    """
    return ops.tiled_block.tiled_block(
        x,
        conv_weight,
        weight,
        bias,
        running_mean,
        running_var,
        training=training,
        upsample=upsample,
        momentum=momentum,
        eps=eps,
        skip=skip,
        head_weight=head_weight,
        return_mean=return_mean,
        rows=rows,
        process_group=process_group,
        backend=backend,
    )


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """3×3 convolution with padding 1. Float32 on CPUs is Winograd's form where that is faster; the rest
    is PyTorch's own kernels.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, 3, 3]``.
        bias: ``[O]`` or None.
        backend: see the module.

    Returns:
        ``[B, O, H, W]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    return ops.conv3x3.conv3x3(x, weight, bias, backend=backend)


def conv4x4_stride2(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """4×4 convolution with stride 2 and padding 1. Float32 on CPUs takes 9 products for 16 where that is faster; the
    rest is PyTorch's own kernels.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, 4, 4]``.
        bias: ``[O]`` or None.
        backend: see the module.

    Returns:
        ``[B, O, H // 2, W // 2]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    return ops.conv4x4_stride2.conv4x4_stride2(x, weight, bias, backend=backend)


def upsample_conv3x3(x: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """Nearest ×2 up-sampling, then a 3×3 convolution with padding 1.

    Args:
        x: ``[B, I, H, W]``.
        weight: ``[O, I, 3, 3]``.
        backend: see the module.

    Returns:
        ``[B, O, 2H, 2W]``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    return ops.upsample_conv3x3.upsample_conv3x3(x, weight, backend=backend)


def words_similarity(
    regions: Tensor, words: Tensor, lengths: Tensor, *, gamma1: float, gamma2: float, backend: str | None = None
) -> Tensor:
    """Matching score of every picture with every caption (AttnGAN, equations 7 to 10), before gamma3.

    Args:
        regions: ``[B, D, H, W]``.
        words: ``[B', D, T]``.
        lengths: ``[B']`` integers, on the same device; words beyond a caption's length do not count.
        gamma1: sharpness of the attention over regions.
        gamma2: sharpness of the maximum over words.
        backend: see the module.

    Returns:
        ``[B, B']``: ``log sum_i exp(gamma2 cos(c_i, w_i))``.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit.
        BackendError: if the backend asked for can't run.
    """
    return ops.words_similarity.words_similarity(regions, words, lengths, gamma1=gamma1, gamma2=gamma2, backend=backend)
