"""Memory of a whole training step: measured, predicted, and what fits where.

``python -m benchmarks.memory --json benchmarks/results/memory.json`` runs everything; ``--only`` one part:

- ``measured``: peak of PyTorch's allocations during a step, each in a process of its own, beside the forecast;
- ``sampling``: the same of drawing one large picture, whole and in tiles;
- ``training``: the losses of 50 steps at 64 to 512 under every policy, beside those without any;
- ``time``: steps under every policy and the authors', interleaved, after a check that all find the same losses;
- ``computed``: bytes of each further picture, and the batches that fit on cards of four sizes, from the planner alone.

Peaks are above weights, optimiser states and the batch. Parts that are not run keep their rows in the file.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.authors_step import AuthorsStep
from benchmarks.harness import (
    RESULTS,
    allocation_peak,
    cpu_model,
    in_own_process,
    keep_freed_memory,
    spread,
    take_turns,
)
from dmgan_fast import __version__
from dmgan_fast.files import replace_file
from dmgan_fast.metering.dataless import Dataless
from dmgan_fast.metering.meter import Meter
from dmgan_fast.modules import Generator, draw_in_tiles
from dmgan_fast.modules.generator import sides_up_to
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.runs.presets import build_config
from dmgan_fast.training import Batch, TrainStep
from dmgan_fast.training.planning.measure import Measure, batch_of, models_of
from dmgan_fast.training.planning.search import largest_batch

CARDS = (8, 24, 80, 141)  # GiB
CUDA_CONTEXT = 1 << 30  # set aside for the context, libraries' workspaces and fragmentation
AUTHORS, COMPILED = "authors", "authors+compile"
POLICIES = ("none", "op", "block", "tile")
NUDGED = "none, weights a last bit off"

# side, batch, dtype, policy
MEASURED = [
    (64, 8, "fp32", "none"),
    (128, 4, "fp32", "op"),
    (256, 2, "fp32", "none"),
    (256, 4, "fp32", "none"),
    (256, 4, "fp32", "op"),
    (256, 4, "fp32", "block"),
    (256, 10, "fp32", "block"),
    (256, 4, "fp32", "tile"),
    (256, 4, "bf16", "none"),
    (256, 10, "bf16", "block"),
    (512, 2, "fp32", "none"),
    (512, 4, "fp32", "block"),
    (512, 4, "bf16", "block"),
    (512, 4, "bf16", "tile"),
    (1024, 2, "fp32", "tile"),
    (1024, 2, "bf16", "tile"),
    (256, 2, "fp32", AUTHORS),
    (256, 4, "fp32", AUTHORS),
    (256, 6, "fp32", AUTHORS),
    (512, 2, "fp32", AUTHORS),
    (64, 4, "fp32", COMPILED),
    (64, 8, "fp32", COMPILED),
    (128, 2, "fp32", COMPILED),
    (128, 4, "fp32", COMPILED),
    (256, 2, "fp32", COMPILED),
    (256, 4, "fp32", COMPILED),
]
SAMPLING = [(512, None), (512, 256), (1024, None), (1024, 256), (2048, 256)]  # side, tile


def policy(name: str, side: int) -> MemoryPolicy:
    """``block`` and ``tile`` compute only the last side again by parts, and smaller sides as a whole."""
    if name in ("none", "op"):
        return MemoryPolicy(checkpointing=name)  # type: ignore[arg-type]
    before = ("stage",) * (len(sides_up_to(side)) - 1)
    return MemoryPolicy(checkpointing=(*before, name), micro_batch=1)  # type: ignore[arg-type]


def configuration(side: int, precision: str = "fp32") -> TrainConfig:
    """The birds' settings at another side."""
    return build_config(
        TrainConfig,
        values={
            "generator": {"image_sizes": list(sides_up_to(side))},
            "step": {"precision": precision},
        },
    )


# ------------------------------------------------------------------------------------------------------------ measured


def real_step(config: TrainConfig, name: str, batch_size: int) -> tuple[Any, Batch, dict[str, Any]]:
    """A step under a policy, or the authors', with a batch of random numbers."""
    torch.manual_seed(0)
    step: Any = models_of(config)
    if name in (AUTHORS, COMPILED):
        step = authors_of(step)
        if name == COMPILED:
            step.compile()
    else:
        step.set_memory(policy(name, config.generator.image_sizes[-1]))
    return step, *random_batch(config, batch_size)


def random_batch(config: TrainConfig, size: int) -> tuple[Batch, dict[str, Any]]:
    batch, noise = batch_of(config, size)
    for tensor in (*batch.images, batch.words, batch.sentence, *noise.values()):
        tensor.normal_()
    return batch, noise


def authors_of(step: TrainStep, *, copies: bool = True) -> AuthorsStep:
    assert step.image_encoder is not None
    return AuthorsStep(step.generator, step.discriminators, step.image_encoder, step.config, copies=copies)


def measured_peak(side: int, batch_size: int, precision: str, name: str) -> int:
    step, batch, noise = real_step(configuration(side, precision), name, batch_size)
    for _ in range(2 if name == COMPILED else 1):  # makes the optimisers' states, and compiles
        step(batch, **noise)
    gc.collect()
    return allocation_peak(lambda: step(batch, **noise))


class AuthorsMeasure:
    """Runs the authors' step on tensors without data, as ``planner.Measure`` runs ours."""

    class Meter(Meter):
        """Answers what their code reads on the host."""

        words = 1

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                return 1.0 if args[0].is_floating_point() else self.words
            return super().__torch_dispatch__(func, types, args, kwargs)

    def __init__(self, config: TrainConfig, device: str) -> None:
        self.config, self.meter, self.mode = config, self.Meter(device), Dataless()
        self.meter.words = config.data.max_words
        with self.mode:
            ours = models_of(replace(config, step=replace(config.step, precision="fp32")))
            self.step = authors_of(ours, copies=False)
            models = [self.step.generator, *self.step.discriminators, self.step.encoder]
            self.meter.mark((t for model in models for t in (*model.parameters(), *model.buffers())), "weights")
            self.meter.mark(self.step.average, "weights")
            del ours
            batch, noise = batch_of(config, 2)
            with self.meter:
                self.step(batch, **noise)  # makes optimisers' states and gradients, which they keep
            del batch, noise
        gc.collect()
        self.state_bytes = self.meter.now.total()

    def __call__(self, batch_size: int) -> int:
        """Peak bytes of a step."""
        with self.mode:
            batch, noise = batch_of(self.config, batch_size)
            self.meter.mark([*batch.images, batch.words, batch.sentence, batch.padding_mask, *noise.values()], "batch")
            self.meter.reset()
            with self.meter:
                self.step(batch, **noise)
        return self.meter.peak.total()


def batch_bytes(config: TrainConfig, batch_size: int) -> int:
    with Dataless():
        batch, noise = batch_of(config, batch_size)
        return sum(t.nbytes for t in (*batch.images, batch.words, batch.sentence, batch.padding_mask, *noise.values()))


def predicted_peak(side: int, batch_size: int, precision: str, name: str) -> int | None:
    """Above weights, optimiser and batch; None for what the planner does not know."""
    config = configuration(side, precision)
    if name == COMPILED:
        return None
    if name == AUTHORS:
        measure = AuthorsMeasure(config, "cpu")
        peak = measure(batch_size)
    else:
        measure = Measure(config, "cpu")
        peak = measure(policy(name, side), batch_size).peak_bytes
    return peak - measure.state_bytes - batch_bytes(config, batch_size)


def measured() -> Iterator[dict[str, Any]]:
    for arguments in MEASURED:
        row = dict(zip(("side", "batch_size", "precision", "policy"), arguments, strict=True))
        row["measured_bytes"] = alone(measured_peak, *arguments)
        yield row | {"predicted_bytes": predicted_peak(*arguments)}


def alone(function: Callable[..., int], *arguments: Any) -> int | None:
    """``function`` in a fresh process; None if the machine had not enough memory."""
    try:
        found: int = in_own_process(function, *arguments)
    except (BrokenProcessPool, MemoryError):  # killed by the system
        return None
    return found


# ------------------------------------------------------------------------------------------------------------ sampling


@torch.inference_mode()
def drawing_peak(side: int, tile: int | None) -> int:
    """Peak of drawing one picture, above the weights; the picture itself counts."""
    torch.manual_seed(0)
    config = configuration(side).generator
    generator = Generator(config).eval()
    noise, eps = torch.randn(1, config.noise_channels), torch.randn(1, config.condition_channels)
    sentence, words = torch.randn(1, config.word_channels), torch.randn(1, config.word_channels, 18)
    mask = torch.zeros(1, 18, dtype=torch.bool)
    if tile is None:
        return allocation_peak(lambda: generator(noise, sentence, words, mask, eps=eps))
    return allocation_peak(lambda: draw_in_tiles(generator, noise, sentence, words, mask, eps=eps, tile=tile))


def sampling() -> Iterator[dict[str, Any]]:
    for side, tile in SAMPLING:
        yield {"side": side, "tile": tile, "measured_bytes": alone(drawing_peak, side, tile)}


# ---------------------------------------------------------------------------------------------------------------- time


def timed(repeats: int, side: int = 256, batch_size: int = 4) -> Iterator[dict[str, Any]]:
    """Milliseconds of a step: our policies on the same models and the authors' on copies, in turn."""
    keep_freed_memory()
    config = configuration(side)
    step, batch, noise = real_step(config, "none", batch_size)
    authors = authors_of(step)
    block = MemoryPolicy(checkpointing=(*("none",) * (len(step.discriminators) - 1), "block"))
    policies = {name: policy(name, side) for name in POLICIES} | {"block, last side only": block}
    before, rng = copy.deepcopy(step.state_dict()), torch.get_rng_state()

    def take(chosen: MemoryPolicy) -> dict[str, torch.Tensor]:
        step.set_memory(chosen)
        return step(batch, **noise)

    runs: dict[str, Callable[[], Any]] = {name: lambda p=p: take(p) for name, p in policies.items()}  # type: ignore[misc]
    truth: dict[str, torch.Tensor] = {}
    for name, run in runs.items():  # correctness first: from the same state every policy finds the same losses
        step.load_state_dict(copy.deepcopy(before))
        torch.set_rng_state(rng)
        losses = run()
        truth = truth or losses
        for loss, value in losses.items():
            torch.testing.assert_close(value, truth[loss], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    runs = {AUTHORS: lambda: authors(batch, **noise)} | runs
    times = take_turns(runs, repeats)
    for name, taken in times.items():
        ratios = [own / base for own, base in zip(taken, times["none"], strict=True)]
        row = {"policy": name, "side": side, "batch_size": batch_size} | spread(taken)
        yield row | {"ratio_to_none": statistics.median(ratios)}


# ------------------------------------------------------------------------------------------------------------ training


def trained(steps: int = 50) -> Iterator[dict[str, Any]]:
    """Four stages of a narrow model trained on random pictures under every policy: are the losses the same?

    Policies that sum in another order run in float64: in float32 training amplifies the last bit.
    """
    generator = {"base_channels": 4, "word_channels": 16, "condition_channels": 16, "noise_channels": 16}
    generator |= {"image_sizes": list(sides_up_to(512)), "residual_blocks": 1}
    values = {"generator": generator, "discriminator_channels": 2, "step": {"damsm_weight": 0.0}}
    config = build_config(TrainConfig, values=values)
    same = {name: MemoryPolicy(checkpointing=name) for name in ("none", "op", "block", "stage")}  # type: ignore[arg-type]
    # The measure of what training makes of last bits: no policy, and weights that differ by them.
    reordered = {
        "none": same["none"],
        NUDGED: same["none"],
        "judged 1 at a time": MemoryPolicy(micro_batch=1),
        "tile": policy("tile", 512),
    }
    for dtype, policies in ((torch.float32, same), (torch.float64, reordered)):
        truth: torch.Tensor | None = None
        for name, chosen in policies.items():
            with default_dtype(dtype):
                found = losses_of(config, chosen, steps, nudged=name == NUDGED)
            truth = found if truth is None else truth
            apart = (found - truth).abs() / truth.abs().clamp(min=1e-3)
            row = {"policy": name, "dtype": str(dtype).removeprefix("torch."), "steps": steps}
            row |= {"identical": bool((found == truth).all()), "last": found[-1].tolist()}
            yield row | {f"apart_after_{n}": apart[:n].max().item() for n in (1, 10, steps)}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def losses_of(config: TrainConfig, chosen: MemoryPolicy, steps: int, *, nudged: bool = False) -> torch.Tensor:
    """All losses of each step of a new model, ``[steps, losses]``; ``nudged``: weights a last bit off."""
    torch.manual_seed(0)
    step = models_of(config)
    step.set_memory(chosen)
    if nudged:
        with torch.random.fork_rng(), torch.no_grad():
            for weight in (w for model in (step.generator, *step.discriminators) for w in model.parameters()):
                weight.mul_(1 + torch.finfo(weight.dtype).eps * torch.randint(-1, 2, weight.shape))
    losses = []
    for _ in range(steps):
        batch, noise = random_batch(config, 2)
        losses.append(torch.stack(list(step(batch, **noise).values())))
    return torch.stack(losses).double()


# ------------------------------------------------------------------------------------------------------------ computed


def computed() -> Iterator[dict[str, Any]]:
    """For every side, dtype and policy: fixed and further bytes of a step, and the largest batches by card."""
    for side in (64, 128, 256, 512, 1024):
        theirs = AuthorsMeasure(configuration(side), "cuda")
        yield {"side": side, "precision": "fp32", "policy": AUTHORS} | line(theirs, theirs.state_bytes)
        for precision in ("fp32", "bf16"):
            ours = Measure(configuration(side, precision), "cuda")
            for name in POLICIES:
                found = line(peaks_of(ours, policy(name, side)), ours.state_bytes)
                yield {"side": side, "precision": precision, "policy": name} | found


def peaks_of(measure: Measure, chosen: MemoryPolicy) -> Callable[[int], int]:
    return lambda batch_size: measure(chosen, batch_size).peak_bytes


def line(peak: Callable[[int], int], state_bytes: int) -> dict[str, Any]:
    """The peak is the larger of lines, so the slope is taken where batches are large."""
    known = {n: peak(n) for n in (2, 10, 32, 64)}
    slope = (known[64] - known[32]) // 32
    largest = {}
    for card in CARDS:
        room = (card << 30) - CUDA_CONTEXT
        beyond = known[64] <= room
        largest[str(card)] = 64 + (room - known[64]) // slope if beyond else largest_batch(peak, room, 64)
    peaks = {str(n): size for n, size in known.items()}
    return {"state_bytes": state_bytes, "bytes_per_picture": slope, "peaks": peaks, "largest_batch": largest}


# ---------------------------------------------------------------------------------------------------------------- main

PARTS = ("measured", "sampling", "training", "time", "computed")


def environment() -> dict[str, Any]:
    versions = {"dmgan_fast": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"device": cpu_model(), "threads": torch.get_num_threads(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, default=RESULTS / "memory.json", help="read and written")
    parser.add_argument("--only", choices=PARTS, action="append", help="run these parts (default: all)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of timed steps (default 7)")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "measured": measured,
        "sampling": sampling,
        "training": trained,
        "time": lambda: timed(arguments.repeats),
        "computed": computed,
    }
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for name in arguments.only or PARTS:
        rows = []
        for row in parts[name]():
            print(json.dumps(row), flush=True)
            rows.append(row)
        results[name] = {"environment": environment(), "rows": rows}
        with replace_file(arguments.json) as file:
            file.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
