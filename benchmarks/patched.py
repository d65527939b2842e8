"""The authors' own code, unmodified but for one line, ``compat.patch``: its speed and memory with and without it.

``python -m benchmarks.patched --authors PATH``: a checkout of DM-GAN or of AttnGAN; once for each. Both are built from
the same seed, take turns in one process, and must generate and learn the same before they are timed.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.authors.checkout import CheckoutStep
from benchmarks.common import Rows, case_table, environment, finish, parser_of, results_of, save
from benchmarks.harness import allocation_peak, error, in_own_process, spread, take_turns
from benchmarks.models import BIRDS, Setting, batch_of
from benchmarks.precision import TOLERANCE
from dmgan_fast.compat import patch

PARTS = ("generator", "step")
PLAIN, PATCHED = "authors' code", "authors' code, patched"
# As the authors train them on birds: widths of AttnGAN are half and twice of DM-GAN's.
ATTNGAN = replace(BIRDS, name="AttnGAN birds B4").changed(
    generator=replace(BIRDS.generator, base_channels=32), discriminator_channels=64
)
DMGAN = replace(BIRDS, name="DM-GAN birds B4")


def setting_of(authors: Path) -> Setting:
    """Birds at the widths that the checkout's configuration names."""
    return DMGAN if (authors / "code" / "spectral.py").is_file() else ATTNGAN


def build(authors: Path, setting: Setting, patched: bool) -> CheckoutStep:
    """Their trainer's step; ``patched``: the line is added after their imports."""

    def prepare(modules: list[types.ModuleType]) -> None:
        if patched:
            patch(modules)

    torch.manual_seed(0)
    channels = setting.train.discriminator_channels
    step = CheckoutStep(authors, setting.generator, channels, setting.config, prepare)
    restart(step)
    return step


def restart(step: CheckoutStep) -> None:
    """Weights from a seed: what networks generate for themselves while they are built differs from run to run."""
    draw = torch.Generator().manual_seed(1)
    for model in (step.generator, *step.discriminators, step.encoder):
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if tensor.dim() > 1:
                tensor.normal_(0, (tensor[0].numel()) ** -0.5, generator=draw)
            elif name.endswith(("_u", "_v")):
                tensor.copy_(torch.nn.functional.normalize(tensor.normal_(generator=draw), dim=0))
            else:
                tensor.fill_(0.0 if name.endswith(("bias", "mean")) else 1.0)


def both_ways(step: CheckoutStep, inputs: dict[str, Any]) -> Callable[[], Tensor]:
    """Forward and backward of the generator alone."""

    def run() -> Tensor:
        torch.manual_seed(2)
        step.generator.zero_grad()
        images = step.draw(inputs["batch"], inputs["noise"])[0]
        torch.stack([image.square().mean() for image in images]).sum().backward()
        return images[-1].detach()

    return run


def gradients(step: CheckoutStep) -> Tensor:
    return torch.cat([p.grad.flatten() for p in step.generator.parameters() if p.grad is not None])


def agree(steps: dict[str, CheckoutStep], inputs: dict[str, Any]) -> bool:
    """Whether both generate the same images and learn the same from them."""
    images = {name: both_ways(step, inputs)() for name, step in steps.items()}
    learned = {name: gradients(step).double() for name, step in steps.items()}
    pairs = ((images[PATCHED], images[PLAIN].double()), (learned[PATCHED], learned[PLAIN]))
    return all(error(found, truth) <= 10 * TOLERANCE[torch.float32] for found, truth in pairs)


def rows_of(authors: Path, repeats: int = 5, parts: tuple[str, ...] = PARTS, setting: Setting | None = None) -> Rows:
    """Rows of the generator and of the whole step, with and without the line."""
    setting = setting or setting_of(authors)
    machine, inputs = environment(), batch_of(setting)
    steps = {name: build(authors, setting, name == PATCHED) for name in (PLAIN, PATCHED)}
    correct = agree(steps, inputs)
    generator = {name: both_ways(step, inputs) for name, step in steps.items()}
    whole: dict[str, Callable[[], Any]] = {name: lambda s=step: s(**inputs) for name, step in steps.items()}
    rows: Rows = []
    for part, functions in (("generator", generator), ("step", whole)):
        if part not in parts:
            continue
        times = take_turns(functions, repeats)
        for name, function in functions.items():
            row = {
                "op": f"{part} of others",
                "case": setting.name,
                "implementation": name,
                "direction": "forward+backward",
            }
            peak = allocation_peak(function)
            rows.append(row | machine | spread(times[name]) | {"peak_bytes": peak, "correct": correct})
        case_table(rows[-2:]).print(f"{part}: {setting.name}")
    return rows


def main() -> None:
    parser = parser_of(f"{__doc__}\nRows of other cases in the file of --json stay.", repeats=5)
    parser.add_argument("--authors", type=Path, metavar="PATH", action="append", required=True)
    parser.add_argument("--only", choices=PARTS, help="the generator's forward and backward, or the whole step")
    parser.add_argument("--record", action="store_true", help="write them to the committed results of this CPU level")
    arguments = parser.parse_args()
    parts = (arguments.only,) if arguments.only else PARTS
    rows = [row for path in arguments.authors for row in in_own_process(rows_of, path, arguments.repeats, parts)]
    for file in (arguments.json, results_of() / "patched.json" if arguments.record else None):
        save(rows, file)
    finish(rows)


if __name__ == "__main__":
    main()
