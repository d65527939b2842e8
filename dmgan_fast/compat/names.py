"""Names of the authors' tensors for each of ours, and the singleton dimensions theirs carry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

# (pattern of our key, the authors' key, how our shape becomes theirs)
Rule = tuple[str, str | Callable[[re.Match[str]], str], Callable[[list[int]], list[int]]]


def _same(shape: list[int]) -> list[int]:
    return shape


def _row(shape: list[int]) -> list[int]:
    return [1, *shape]


def _conv1d(shape: list[int]) -> list[int]:
    return [*shape, 1]


def _conv1x1(shape: list[int]) -> list[int]:
    return [*shape, 1, 1]


def _conv2d_row(shape: list[int]) -> list[int]:
    return [1, *shape, 1, 1]


def _stage(match: re.Match[str]) -> int:
    return int(match[1]) + 2  # h_net1 is the initial stage


_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_WEIGHT = r"(weight|bias)"

GENERATOR: list[Rule] = [
    (rf"conditioning\.projection\.{_WEIGHT}", r"ca_net.fc.\1", _same),
    (r"initial_stage\.projection\.weight", "h_net1.fc.0.weight", _same),
    (rf"initial_stage\.norm\.{_NORM}", r"h_net1.fc.1.\1", _same),
    (r"initial_stage\.up_blocks\.(\d+)\.conv\.weight", lambda m: f"h_net1.upsample{int(m[1]) + 1}.1.weight", _same),
    (
        rf"initial_stage\.up_blocks\.(\d+)\.norm\.{_NORM}",
        lambda m: f"h_net1.upsample{int(m[1]) + 1}.2.{m[2]}",
        _same,
    ),
    (r"image_heads\.(\d+)\.conv\.weight", lambda m: f"img_net{int(m[1]) + 1}.img.0.weight", _same),
    (r"stages\.(\d+)\.memory\.gate_word", lambda m: f"h_net{_stage(m)}.A.weight", _row),
    (r"stages\.(\d+)\.memory\.gate_image", lambda m: f"h_net{_stage(m)}.B.weight", _row),
    (r"stages\.(\d+)\.memory\.word_weight", lambda m: f"h_net{_stage(m)}.M_w.0.weight", _conv1d),
    (r"stages\.(\d+)\.memory\.word_bias", lambda m: f"h_net{_stage(m)}.M_w.0.bias", _same),
    (r"stages\.(\d+)\.memory\.image_weight", lambda m: f"h_net{_stage(m)}.M_r.0.weight", _conv1d),
    (r"stages\.(\d+)\.memory\.image_bias", lambda m: f"h_net{_stage(m)}.M_r.0.bias", _same),
    (r"stages\.(\d+)\.memory\.(key|value)_weight", lambda m: f"h_net{_stage(m)}.{m[2]}.0.weight", _conv1d),
    (r"stages\.(\d+)\.memory\.(key|value)_bias", lambda m: f"h_net{_stage(m)}.{m[2]}.0.bias", _same),
    (r"stages\.(\d+)\.memory\.response_weight", lambda m: f"h_net{_stage(m)}.response_gate.0.weight", _conv2d_row),
    (r"stages\.(\d+)\.memory\.response_bias", lambda m: f"h_net{_stage(m)}.response_gate.0.bias", _same),
    (r"stages\.(\d+)\.memory\.context_weight", lambda m: f"h_net{_stage(m)}.att.conv_context.weight", _conv1x1),
    (
        r"stages\.(\d+)\.residual_blocks\.(\d+)\.conv([12])\.weight",
        lambda m: f"h_net{_stage(m)}.residual.{m[2]}.block.{'03'[int(m[3]) - 1]}.weight",
        _same,
    ),
    (
        rf"stages\.(\d+)\.residual_blocks\.(\d+)\.norm([12])\.{_NORM}",
        lambda m: f"h_net{_stage(m)}.residual.{m[2]}.block.{'14'[int(m[3]) - 1]}.{m[4]}",
        _same,
    ),
    (r"stages\.(\d+)\.up_block\.conv\.weight", lambda m: f"h_net{_stage(m)}.upsample.1.weight", _same),
    (rf"stages\.(\d+)\.up_block\.norm\.{_NORM}", lambda m: f"h_net{_stage(m)}.upsample.2.{m[2]}", _same),
]

HEADS: list[Rule] = [
    (rf"conditional_head\.{_WEIGHT}", r"COND_DNET.outlogits.0.\1", _same),
    (rf"unconditional_head\.{_WEIGHT}", r"UNCOND_DNET.outlogits.0.\1", _same),
]
_SPECTRAL = {"weight": "weight_bar", "bias": "bias", "u": "weight_u", "v": "weight_v"}


def discriminator(halvings: int) -> list[Rule]:
    """Rules for a discriminator that halves its images ``halvings`` times (4: resolution 64)."""

    def down(match: re.Match[str]) -> str:
        index = int(match[1])
        place = f"img_code_s16.{2 * index}" if index < 4 else f"img_code_s{2 ** (index + 1)}.0"
        return f"{place}.module.{_SPECTRAL[match[2]]}"

    return [
        (r"down\.(\d+)\.(weight|bias|u|v)", down, _same),
        (
            r"narrow\.(\d+)\.(weight|bias|u|v)",
            lambda m: f"img_code_s{2**halvings}_{int(m[1]) + 1}.0.module.{_SPECTRAL[m[2]]}",
            _same,
        ),
        (r"joint\.(weight|bias|u|v)", lambda m: f"COND_DNET.jointConv.0.module.{_SPECTRAL[m[1]]}", _same),
        *HEADS,
    ]


def batch_norm_discriminator(halvings: int) -> list[Rule]:
    """The same for AttnGAN's, whose convolutions have batch norms."""

    def down(match: re.Match[str]) -> str:
        index, second = int(match[1]), match[2] == "1"
        if index < 4:  # convolution, (norm), leaky ReLU in one sequence; the first has no norm
            return f"img_code_s16.{max(0, 3 * index - 1) + second}.{match[3]}"
        return f"img_code_s{2 ** (index + 1)}.{match[2]}.{match[3]}"

    return [
        (r"down\.0\.weight", "img_code_s16.0.weight", _same),
        (rf"down\.(\d+)\.([01])\.{_NORM}", down, _same),
        (
            rf"narrow\.(\d+)\.([01])\.{_NORM}",
            lambda m: f"img_code_s{2**halvings}_{int(m[1]) + 1}.{m[2]}.{m[3]}",
            _same,
        ),
        (rf"joint\.([01])\.{_NORM}", r"COND_DNET.jointConv.\1.\2", _same),
        *HEADS,
    ]


TEXT_ENCODER: list[Rule] = [(r"embedding\.weight", "encoder.weight", _same), (r"(rnn\..+)", r"\1", _same)]
IMAGE_ENCODER: list[Rule] = [
    (r"trunk\.(.+)", r"\1", _same),
    (r"region_head\.weight", "emb_features.weight", _same),
    (rf"code_head\.{_WEIGHT}", r"emb_cnn_code.\1", _same),
]


def translate(rules: list[Rule], keys: Iterable[str]) -> dict[str, tuple[str, Callable[[list[int]], list[int]]]]:
    """Our key → (the authors' key, how our shape becomes theirs)."""
    result = {}
    for key in keys:
        for pattern, target, reshape in rules:
            match = re.fullmatch(pattern, key)
            if match:
                result[key] = (target(match) if callable(target) else match.expand(target), reshape)
                break
        else:
            raise KeyError(key)  # a model gained a tensor that has no rule
    return result
