"""A sampler as one graph that runs without this package: captions and noise in, images out; ONNX or torch.export.

The graph holds the text encoder and the folded generator on plain PyTorch ops. Packed sequences do not export, so the
encoder runs each direction by itself: the backward one on captions turned around within their lengths. The batch is
free; captions are padded to a fixed number of words, because PyTorch unrolls the RNN.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dmgan_fast.errors import InputError
from dmgan_fast.files import replace_file
from dmgan_fast.modules import DynamicMemory, TextEncoder, WordAttention, fold, padding_mask

if TYPE_CHECKING:
    from dmgan_fast.sampling.sampler import Sampler

WORDS = 25  # of the paper's evaluation on birds
INPUTS = ("captions", "lengths", "noise", "eps")


class PlainTextEncoder(nn.Module):
    """``TextEncoder`` in evaluation, without packed sequences."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.embedding = copy.deepcopy(encoder.embedding)
        self.layers = nn.ModuleList(_directions(encoder.rnn, layer) for layer in range(encoder.rnn.num_layers))

    def forward(self, captions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Captions ``[B, T]``, lengths ``[B]`` → words ``[B, D, T]``, zero at padding, and sentence ``[B, D]``."""
        count = captions.shape[1]
        position = torch.arange(count, device=captions.device)
        last = lengths[:, None] - 1
        turned = torch.where(position <= last, last - position, position)[..., None]  # its own inverse
        x, first = self.embedding(captions), turned
        layers: Any = self.layers
        for forwards, backwards in layers:
            there, _ = forwards(x)
            back, _ = backwards(x.gather(1, turned.expand(-1, -1, x.shape[2])))
            first = back  # turned around: it ends where the caption begins
            x = torch.cat((there, back.gather(1, turned.expand(-1, -1, back.shape[2]))), 2)
        end = last[..., None].expand(-1, -1, first.shape[2])
        sentence = torch.cat((there.gather(1, end), first.gather(1, end)), 2)[:, 0]
        words = x.masked_fill(padding_mask(lengths, count)[..., None], 0)
        return words.transpose(1, 2), sentence


def _directions(rnn: nn.RNNBase, layer: int) -> nn.ModuleList:
    """The two directions of one layer, each a one-layer RNN."""
    directions = nn.ModuleList()
    for suffix in ("", "_reverse"):
        weight = getattr(rnn, f"weight_ih_l{layer}{suffix}")
        single = type(rnn)(weight.shape[1], rnn.hidden_size, batch_first=True)  # type: ignore[call-arg, arg-type]
        single.load_state_dict({name: getattr(rnn, f"{name[:-1]}{layer}{suffix}") for name in single.state_dict()})
        directions.append(single.to(weight))
    return directions


class SamplerGraph(nn.Module):
    """Captions ``[B, T]`` int64, lengths ``[B]`` int64, noise ``[B, Z]``, eps ``[B, C]`` → images, smallest first."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.text_encoder = PlainTextEncoder(sampler.text_encoder)
        self.generator = fold(sampler.generator)
        for module in self.generator.modules():
            if isinstance(module, (DynamicMemory, WordAttention)):
                module.backend = "reference"
        self.eval().requires_grad_(False)

    def forward(self, captions: Tensor, lengths: Tensor, noise: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        words, sentence = self.text_encoder(captions, lengths)
        mask = padding_mask(lengths, captions.shape[1])
        return tuple(self.generator(noise, sentence, words, mask, eps=eps).images)


def export_sampler(sampler: Sampler, file: str | os.PathLike[str], *, words: int = WORDS) -> list[Path]:
    """Write a sampler as one graph, and its vocabulary as ``<file>.vocabulary.json``.

    Args:
        sampler: what to export.
        file: ``*.onnx`` (needs the extra ``onnx``; weights inside) or ``*.pt2`` (``torch.export.load`` reads it).
        words: ``T``, to which captions are padded with 0.

    Returns:
        the files written.

    Raises:
        InputError: for another suffix, fewer than one word, or if packages for ONNX are missing.
    """
    path = Path(file)
    check(path, words)
    program = exported(sampler, words)
    with replace_file(path) as temporary:
        WRITERS[path.suffix](program, temporary)
    vocabulary = path.with_name(f"{path.name}.vocabulary.json")
    sampler.vocabulary.save(vocabulary)
    return [path, vocabulary]


def check(file: Path, words: int) -> None:
    """Raise ``InputError`` unless ``export_sampler`` can write such a file."""
    if file.suffix not in WRITERS:
        raise InputError(f"export: the file must end in {' or '.join(WRITERS)}, got {file.name!r}")
    if words < 1:
        raise InputError(f"export: words must be at least 1, got {words}")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if file.suffix == ".onnx" and missing:
        raise InputError(f"export: ONNX needs {' and '.join(missing)}; pip install 'dmgan-fast[onnx]'")


def exported(sampler: Sampler, words: int = WORDS) -> torch.export.ExportedProgram:
    """The graph as ``torch.export`` has it, on the sampler's device."""
    config = sampler.generator.config
    weight = sampler.text_encoder.embedding.weight
    batch = 2
    examples: dict[str, Any] = {
        "captions": torch.ones(batch, words, dtype=torch.int64),
        "lengths": torch.ones(batch, dtype=torch.int64),
        "noise": torch.zeros(batch, config.noise_channels, dtype=weight.dtype),
        "eps": torch.zeros(batch, config.condition_channels, dtype=weight.dtype),
    }
    examples = {name: x.to(weight.device) for name, x in examples.items()}
    free = torch.export.Dim("batch", min=1)
    dynamic = {name: {0: free} for name in INPUTS}
    return torch.export.export(SamplerGraph(sampler), (), examples, dynamic_shapes=dynamic)


def _write_pt2(program: torch.export.ExportedProgram, file: Path) -> None:
    torch.export.save(program, file)


def _write_onnx(program: torch.export.ExportedProgram, file: Path) -> None:
    names = [f"image_{value.shape[-1]}" for value in _results(program)]
    found = torch.onnx.export(program, input_names=list(INPUTS), output_names=names, dynamo=True, verbose=False)
    assert found is not None
    found.save(str(file), external_data=False)


def _results(program: torch.export.ExportedProgram) -> list[Tensor]:
    output = next(node for node in program.graph.nodes if node.op == "output")
    return [node.meta["val"] for node in output.args[0]]


WRITERS: dict[str, Callable[[torch.export.ExportedProgram, Path], None]] = {".onnx": _write_onnx, ".pt2": _write_pt2}
