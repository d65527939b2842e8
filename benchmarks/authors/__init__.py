"""The ops as the authors' PyTorch code computes them: the same operations in the same order, in our own words.

Sources: DM-GAN (memory and gate), AttnGAN (words loss), both in their published PyTorch code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def memory_write(words: Tensor, mean: Tensor, **weights: Tensor) -> tuple[Tensor, Tensor]:
    """Key and value [B, C, T] by 1×1 convolutions, the image's mean [B, C] repeated for every word."""
    count = words.shape[2]
    words_last = words.transpose(1, 2)  # [B, T, D]
    mean_words = mean.unsqueeze(2).repeat(1, 1, count).transpose(1, 2)  # [B, T, C]
    logit = F.linear(words_last, weights["gate_word"][None]) + F.linear(mean_words, weights["gate_image"][None])
    gate = torch.sigmoid(logit).transpose(1, 2)  # [B, 1, T]
    written = torch.relu(F.conv1d(words, weights["word_weight"][..., None], weights["word_bias"]))  # [B, 2C, T]
    image = torch.relu(F.conv1d(mean.unsqueeze(2), weights["image_weight"][..., None], weights["image_bias"]))
    memory = written * gate + image.repeat(1, 1, count) * (1 - gate)
    key = torch.relu(F.conv1d(memory, weights["key_weight"][..., None], weights["key_bias"]))
    value = torch.relu(F.conv1d(memory, weights["value_weight"][..., None], weights["value_bias"]))
    return key, value


def memory_read(
    h: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor, mask_mode: str = "paper"
) -> tuple[Tensor, Tensor]:
    """The read vector [B, C, H, W] and attention [B, T, H, W]: products of transposed copies, softmax over rows.

    Their mask repeats the whole batch for every pixel ("official"); "paper" gives each image its own.
    """
    batch, channels, height, width = h.shape
    pixels, count = height * width, key.shape[2]
    query = h.view(batch, channels, pixels).transpose(1, 2).contiguous()  # [B, N, C]
    logits = torch.bmm(query, key).view(batch * pixels, count)
    official = mask_mode == "official"
    mask = padding_mask.repeat(pixels, 1) if official else padding_mask.repeat_interleave(pixels, 0)
    logits = logits.masked_fill(mask, -torch.inf)
    attention = torch.softmax(logits, 1).view(batch, pixels, count).transpose(1, 2).contiguous()
    return torch.bmm(value, attention).view(h.shape), attention.view(batch, count, height, width)


def response_gate(h: Tensor, read: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The blend of the image's features and the read vector, the gate repeated over channels."""
    both = torch.cat((h, read), 1)
    response = torch.sigmoid(F.conv2d(both, weight[None, :, None, None], bias))
    response = response.repeat(1, h.shape[1], 1, 1)
    return read * response + h * (1 - response)


def memory_path(
    h: Tensor, words: Tensor, padding_mask: Tensor, response_weight: Tensor, response_bias: Tensor, **weights: Tensor
) -> Tensor:
    key, value = memory_write(words, h.detach().mean((2, 3)), **weights)
    read, _ = memory_read(h, key, value, padding_mask)
    return response_gate(h, read, response_weight, response_bias)


def batch_norm_glu(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, training: bool
) -> Tensor:
    x = F.batch_norm(x, running_mean, running_var, weight, bias, training)
    half = x.shape[1] // 2
    return x[:, :half] * torch.sigmoid(x[:, half:])


def batch_norm_skip(
    x: Tensor,
    skip: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
) -> Tensor:
    x = F.batch_norm(x, running_mean, running_var, weight, bias, training)
    x += skip
    return x


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    product = torch.sum(a * b, 1)
    return product / (torch.norm(a, 2, 1) * torch.norm(b, 2, 1)).clamp(min=1e-8)


def words_similarity(regions: Tensor, words: Tensor, lengths: list[int], gamma1: float, gamma2: float) -> Tensor:
    """One caption at a time, repeated for every image of the batch."""
    batch, channels = regions.shape[:2]
    context = regions.view(batch, channels, -1)
    count = context.shape[2]
    columns = []
    for k, length in enumerate(lengths):
        word = words[k, :, :length].unsqueeze(0).contiguous().repeat(batch, 1, 1)  # [B, D, T]
        attention = torch.bmm(context.transpose(1, 2).contiguous(), word).view(batch * count, length)
        attention = torch.softmax(attention, 1).view(batch, count, length)
        attention = attention.transpose(1, 2).contiguous().view(batch * length, count)
        attention = torch.softmax(attention * gamma1, 1).view(batch, length, count)
        weighted = torch.bmm(context, attention.transpose(1, 2).contiguous())  # [B, D, T]
        word = word.transpose(1, 2).contiguous().view(batch * length, -1)
        weighted = weighted.transpose(1, 2).contiguous().view(batch * length, -1)
        similarity = _cosine(word, weighted).view(batch, length)
        columns.append(torch.log((similarity * gamma2).exp().sum(1, keepdim=True)))
    return torch.cat(columns, 1)
