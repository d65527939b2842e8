"""Memory of a whole training step: measured, predicted, and what fits where.

``python -m benchmarks.memory`` runs everything; ``--only`` one part:

- ``measured``: peak of PyTorch's allocations during a step, each in a process of its own, beside the forecast;
- ``sampling``: the same of drawing one large image, whole and in tiles;
- ``training``: the losses of 50 steps at 64 to 512 under every policy, beside those without any;
- ``time``: steps under every policy and the authors', interleaved, after a check that all find the same losses;
- ``computed``: bytes of each further image, and the batches that fit on cards of four sizes, from the planner alone.

Peaks are above weights, optimiser states and the batch. Parts that are not run keep their rows in the file.
"""

from __future__ import annotations

import copy
import gc
import json
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from benchmarks.authors.step import AuthorsStep
from benchmarks.common import RESULTS, Row, environment, keep_freed_memory, parser_of, write_json
from benchmarks.harness import allocation_peak, in_own_process, spread, take_turns
from benchmarks.models import Models, Setting, batch_of, ours, tensors_of, theirs
from dmgan_fast.modules import Generator, draw_in_tiles
from dmgan_fast.modules.generator import sides_up_to
from dmgan_fast.training.config import TrainConfig, build_config
from dmgan_fast.training.dataless import Dataless
from dmgan_fast.training.meter import Meter
from dmgan_fast.training.planner import Measure, largest_batch
from dmgan_fast.training.policy import MemoryPolicy
from dmgan_fast.training.step import TrainStep

CARDS = (8, 24, 80, 141)  # GiB
CUDA_CONTEXT = 1 << 30  # set aside for the context, libraries' workspaces and fragmentation
AUTHORS, COMPILED = "authors", "authors+compile"
POLICIES = ("none", "op", "block", "tile")
NUDGED = "none, weights a last bit off"

SMALL = ((64, (4, 8)), (128, (2, 4)), (256, (2, 4)))
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
    *((256, batch, "fp32", AUTHORS) for batch in (2, 4, 6)),
    (512, 2, "fp32", AUTHORS),
    *((side, batch, "fp32", COMPILED) for side, batches in SMALL for batch in batches),
]
SAMPLING = [(512, None), (512, 256), (1024, None), (1024, 256), (2048, 256)]  # side, tile


def policy(name: str, side: int) -> MemoryPolicy:
    """``block`` and ``tile`` compute only the last side again by parts, and smaller sides as a whole."""
    if name in ("none", "op"):
        return MemoryPolicy(checkpointing=name)  # type: ignore[arg-type]
    before = ("stage",) * (len(sides_up_to(side)) - 1)
    return MemoryPolicy(checkpointing=(*before, name), micro_batch=1)  # type: ignore[arg-type]


def setting_of(side: int, precision: str = "fp32") -> Setting:
    """The birds' at another side."""
    values = {"generator": {"image_sizes": list(sides_up_to(side))}, "step": {"precision": precision}}
    return Setting(f"{side}", build_config(TrainConfig, values=values))


# ------------------------------------------------------------------------------------------------------------ measured


def real_step(setting: Setting, name: str, size: int) -> tuple[Any, dict[str, Any]]:
    """A step under a policy, or the authors', with a batch of random numbers."""
    step: Any = ours(Models.build(setting), setting.config)
    if name in (AUTHORS, COMPILED):
        step = authors_of(step)
        if name == COMPILED:
            step.compile()
    else:
        step.set_memory(policy(name, setting.generator.image_sizes[-1]))
    return step, batch_of(setting, size, full=True)


def authors_of(step: TrainStep, *, copies: bool = True) -> AuthorsStep:
    """On the same models; of the image encoder both use the folded form."""
    return theirs(Models(step.generator, step.discriminators, step.image_encoder), step.config, copies=copies)


def measured_peak(side: int, batch_size: int, precision: str, name: str) -> int:
    step, inputs = real_step(setting_of(side, precision), name, batch_size)
    for _ in range(2 if name == COMPILED else 1):  # makes the optimisers' states, and compiles
        step(**inputs)
    gc.collect()
    return allocation_peak(lambda: step(**inputs))


class AuthorsMeasure:
    """Runs the authors' step on tensors without data, as ``planner.Measure`` runs ours."""

    class Meter(Meter):
        """Answers what their code reads on the host."""

        words = 1

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                return 1.0 if args[0].is_floating_point() else self.words
            return super().__torch_dispatch__(func, types, args, kwargs)

    def __init__(self, setting: Setting, device: str) -> None:
        self.setting, self.meter, self.mode = setting, self.Meter(device), Dataless()
        self.meter.words = setting.train.data.max_words
        with self.mode:
            self.step = authors_of(ours(Models.build(setting), replace(setting.config, precision="fp32")), copies=False)
            models = [self.step.generator, *self.step.discriminators, self.step.encoder]
            self.meter.mark((t for model in models for t in (*model.parameters(), *model.buffers())), "weights")
            self.meter.mark(self.step.average, "weights")
            with self.meter:
                self.step(**batch_of(setting, 2, full=True))  # makes optimisers' states and gradients, which they keep
        gc.collect()
        self.state_bytes = self.meter.now.total()

    def __call__(self, batch_size: int) -> int:
        """Peak bytes of a step."""
        with self.mode:
            inputs = batch_of(self.setting, batch_size, full=True)
            self.meter.mark(tensors_of(inputs), "batch")
            self.meter.reset()
            with self.meter:
                self.step(**inputs)
        return self.meter.peak.total()


def predicted_peak(side: int, batch_size: int, precision: str, name: str) -> int | None:
    """Above weights, optimiser and batch; None for what the planner does not know."""
    setting = setting_of(side, precision)
    if name == COMPILED:
        return None
    measure: Any
    if name == AUTHORS:
        measure = AuthorsMeasure(setting, "cpu")
        peak = measure(batch_size)
    else:
        measure = Measure(setting.train, "cpu")
        peak = measure(policy(name, side), batch_size).peak_bytes
    with Dataless():
        batch = sum(tensor.nbytes for tensor in tensors_of(batch_of(setting, batch_size)))
    return peak - measure.state_bytes - batch


def measured() -> Iterator[Row]:
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
    """Peak of drawing one image, above the weights; the image itself counts."""
    torch.manual_seed(0)
    config = setting_of(side).generator
    generator = Generator(config).eval()
    noise, eps = torch.randn(1, config.noise_channels), torch.randn(1, config.condition_channels)
    sentence, words = torch.randn(1, config.word_channels), torch.randn(1, config.word_channels, 18)
    mask = torch.zeros(1, 18, dtype=torch.bool)
    if tile is None:
        return allocation_peak(lambda: generator(noise, sentence, words, mask, eps=eps))
    return allocation_peak(lambda: draw_in_tiles(generator, noise, sentence, words, mask, eps=eps, tile=tile))


def sampling() -> Iterator[Row]:
    for side, tile in SAMPLING:
        yield {"side": side, "tile": tile, "measured_bytes": alone(drawing_peak, side, tile)}


# ---------------------------------------------------------------------------------------------------------------- time


def timed(repeats: int, side: int = 256, batch_size: int = 4) -> Iterator[Row]:
    """Milliseconds of a step: our policies on the same models and the authors' on copies, in turn."""
    keep_freed_memory()
    setting = setting_of(side)
    step, inputs = real_step(setting, "none", batch_size)
    authors = authors_of(step)
    block = MemoryPolicy(checkpointing=(*("none",) * (len(step.discriminators) - 1), "block"))
    policies = {name: policy(name, side) for name in POLICIES} | {"block, last side only": block}
    before, rng = copy.deepcopy(step.state_dict()), torch.get_rng_state()

    def take(chosen: MemoryPolicy) -> dict[str, torch.Tensor]:
        step.set_memory(chosen)
        return step(**inputs)

    runs: dict[str, Callable[[], Any]] = {name: lambda p=p: take(p) for name, p in policies.items()}  # type: ignore[misc]
    truth: dict[str, torch.Tensor] = {}
    for name, run in runs.items():  # correctness first: from the same state every policy finds the same losses
        step.load_state_dict(copy.deepcopy(before))
        torch.set_rng_state(rng)
        losses = run()
        truth = truth or losses
        for loss, value in losses.items():
            torch.testing.assert_close(value, truth[loss], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    runs = {AUTHORS: lambda: authors(**inputs)} | runs
    times = take_turns(runs, repeats)
    for name, taken in times.items():
        ratios = [own / base for own, base in zip(taken, times["none"], strict=True)]
        row = {"policy": name, "side": side, "batch_size": batch_size} | spread(taken)
        yield row | {"ratio_to_none": statistics.median(ratios)}


# ------------------------------------------------------------------------------------------------------------ training


def trained(steps: int = 50) -> Iterator[Row]:
    """Four stages of a narrow model trained on random images under every policy: are the losses the same?

    Policies that sum in another order run in float64: in float32 training amplifies the last bit.
    """
    generator = {"base_channels": 4, "word_channels": 16, "condition_channels": 16, "noise_channels": 16}
    generator |= {"image_sizes": list(sides_up_to(512)), "residual_blocks": 1}
    values = {"generator": generator, "discriminator_channels": 2, "step": {"damsm_weight": 0.0}}
    setting = Setting("narrow", build_config(TrainConfig, values=values))
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
                found = losses_of(setting, chosen, steps, nudged=name == NUDGED)
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


def losses_of(setting: Setting, chosen: MemoryPolicy, steps: int, *, nudged: bool = False) -> torch.Tensor:
    """All losses of each step of a new model, ``[steps, losses]``; ``nudged``: weights a last bit off."""
    step = ours(Models.build(setting), setting.config)
    step.set_memory(chosen)
    if nudged:
        with torch.random.fork_rng(), torch.no_grad():
            for weight in (w for model in (step.generator, *step.discriminators) for w in model.parameters()):
                weight.mul_(1 + torch.finfo(weight.dtype).eps * torch.randint(-1, 2, weight.shape))
    losses = []
    for seed in range(steps):
        inputs = batch_of(setting, 2, torch.get_default_dtype(), full=True, seed=seed)
        losses.append(torch.stack(list(step(**inputs).values())))
    return torch.stack(losses).double()


# ------------------------------------------------------------------------------------------------------------ computed


def computed() -> Iterator[Row]:
    """For every side, dtype and policy: fixed and further bytes of a step, and the largest batches by card."""
    for side in (64, 128, 256, 512, 1024):
        theirs = AuthorsMeasure(setting_of(side), "cuda")
        yield {"side": side, "precision": "fp32", "policy": AUTHORS} | line(theirs, theirs.state_bytes)
        for precision in ("fp32", "bf16"):
            measure = Measure(setting_of(side, precision).train, "cuda")
            for name in POLICIES:
                chosen = policy(name, side)
                found = line(lambda n, of=measure, p=chosen: of(p, n).peak_bytes, measure.state_bytes)
                yield {"side": side, "precision": precision, "policy": name} | found


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


def main() -> None:
    parser = parser_of(__doc__, repeats=7)
    parser.set_defaults(json=RESULTS / "memory.json")
    parser.add_argument("--only", choices=PARTS, action="append", help="run these parts (default: all)")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], Iterator[Row]]] = {
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
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
