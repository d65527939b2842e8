"""Memory of a whole training step: measured, predicted, and what fits where.

``python -m benchmarks.memory`` runs everything; ``--only`` one part:

- ``measured``: peak of PyTorch's allocations during a step, each in a process of its own, beside the forecast;
- ``sampling``: the same of generating one large image, whole and in tiles;
- ``training``: the losses of 50 steps at 64 to 512 under every policy, beside those without any;
- ``time``: steps under every policy and the authors', interleaved, after a check that all find the same losses;
- ``computed``: bytes of each further image, and the batches that fit on GPUs of four sizes, from the planner alone.

Peaks are above weights, optimiser states and the batch. Parts that are not run keep their rows in the file. ``--device
cuda`` measures the first two and the times on a GPU, at the paper's batch, with PyTorch's ``activation_memory_budget``
as a rival; ``--precision`` leaves the other precisions out.
"""

from __future__ import annotations

import copy
import gc
import json
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.authors.step import AuthorsStep
from benchmarks.common import (
    RESULTS,
    Row,
    add_target,
    environment,
    keep_freed_memory,
    parser_of,
    results_of_gpu,
    target_of,
    write_json,
)
from benchmarks.harness import allocation_peak, in_own_process, is_out_of_memory, spread, take_turns
from benchmarks.models import Models, Setting, batch_of, ours, tensors_of, theirs
from benchmarks.models import tiny as tiny_setting
from benchmarks.precision import autocast
from dmgan_fast.metering.dataless import Dataless
from dmgan_fast.metering.meter import Meter
from dmgan_fast.modules import Generator, generate_in_tiles
from dmgan_fast.modules.generator import sizes_up_to
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.runs.presets import build_config
from dmgan_fast.training import TrainStep
from dmgan_fast.training.planning.measure import Measure
from dmgan_fast.training.planning.search import largest_batch

CARDS = (8, 24, 80, 141)  # GiB
CUDA_CONTEXT = 1 << 30  # set aside for the context, libraries' workspaces and fragmentation
AUTHORS, COMPILED = "authors", "authors+compile"
# The authors' step compiled, where PyTorch keeps at most this share of what it would keep for backward.
BUDGETS = {f"{COMPILED}, budget {share}": share for share in (0.5, 0.2)}
POLICIES = ("none", "op", "block", "tile")
NUDGED = "none, weights a last bit off"

SMALL = ((64, (4, 8)), (128, (2, 4)), (256, (2, 4)))
# resolution, batch, dtype, policy
PAPER_BATCH = 10
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
# On a GPU, side by side; what runs out of memory says so.
ON_GPU = [
    (side, PAPER_BATCH, precision, name)
    for side in (256, 512, 1024)
    for precision in ("fp32", "bf16", "fp16")
    for name in (AUTHORS, COMPILED, *BUDGETS, *POLICIES)
]
SAMPLING = [(512, None), (512, 256), (1024, None), (1024, 256), (2048, 256)]  # resolution, tile


def policy(name: str, side: int) -> MemoryPolicy:
    """``block`` and ``tile`` compute only the highest resolution again by parts, and lower resolutions as a whole."""
    if name in ("none", "op"):
        return MemoryPolicy(checkpointing=name)  # type: ignore[arg-type]
    before = ("stage",) * (len(sizes_up_to(side)) - 1)
    return MemoryPolicy(checkpointing=(*before, name), micro_batch=1)  # type: ignore[arg-type]


def setting_of(side: int, precision: str = "fp32") -> Setting:
    """The birds' at another side; 0 stands for the smallest model, to try a command."""
    if not side:
        small = tiny_setting()
        return small.changed(step=replace(small.config, precision=precision))
    values = {"generator": {"image_sizes": list(sizes_up_to(side))}, "step": {"precision": precision}}
    return Setting(f"{side}", build_config(TrainConfig, values=values))


@dataclass(frozen=True)
class Choice:
    """What to measure. ``precisions``: empty stands for all."""

    device: str = "cpu"
    precisions: tuple[str, ...] = ()
    tiny: bool = False

    def cells(self) -> list[tuple[int, int, str, str]]:
        """Resolution, batch, precision and policy of every peak."""
        all_cells = MEASURED if self.device == "cpu" else ON_GPU
        if self.tiny:
            all_cells = [(0, 2, precision, name) for precision in ("fp32", "bf16") for name in ("none", AUTHORS)]
        return [cell for cell in all_cells if not self.precisions or cell[2] in self.precisions]

    def file(self) -> Path | None:
        """Where the rows are kept: not those of a trial."""
        if self.tiny:
            return None
        return (RESULTS if self.device == "cpu" else results_of_gpu(torch.cuda.get_device_name())) / "memory.json"


# ------------------------------------------------------------------------------------------------------------ measured


def real_step(setting: Setting, name: str, size: int, device: str = "cpu") -> tuple[Any, dict[str, Any]]:
    """A step under a policy, or the authors', with a batch of random numbers."""
    step: Any = ours(Models.build(setting).to(device), setting.config)
    if name == AUTHORS or name.startswith(COMPILED):
        step = authors_of(step)
        if name != AUTHORS:
            step.compile()
    else:
        step.set_memory(policy(name, setting.generator.image_sizes[-1]))
    return step, batch_of(setting, size, device=device, full=True)


def authors_of(step: TrainStep, *, copies: bool = True) -> AuthorsStep:
    """On the same models, in the same precision; of the image encoder both use the folded form."""
    models = Models(step.generator, step.discriminators, step.image_encoder)
    return theirs(models, step.config, copies=copies, precision=step.config.precision)


def measured_peak(setting: Setting, batch_size: int, name: str, device: str = "cpu") -> int:
    step, inputs = real_step(setting, name, batch_size, device)
    with budgeted(BUDGETS.get(name, 1.0)):
        for _ in range(2 if name.startswith(COMPILED) else 1):  # makes the optimisers' states, and compiles
            step(**inputs)
        gc.collect()
        return allocation_peak(lambda: step(**inputs), device)


@contextmanager
def budgeted(share: float) -> Iterator[None]:
    """Within, ``torch.compile`` keeps at most that share of what it would keep for backward."""
    if share == 1.0:
        yield
        return
    from torch._functorch import config  # loads much

    with config.patch(activation_memory_budget=share):
        yield


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


def forecast(setting: Setting, device: str = "cpu") -> Callable[[int, str], int | None]:
    """Batch size and policy (or ``authors``) → predicted bytes above weights, optimiser and batch; None for what the
    planner does not know."""
    measure = cache(lambda: Measure(setting.train, device))
    authors = cache(lambda: AuthorsMeasure(setting, device))

    def predict(size: int, name: str) -> int | None:
        if name.startswith(COMPILED) or (name == AUTHORS and setting.config.precision != "fp32"):
            return None
        if name == AUTHORS:
            peak, state = authors()(size), authors().state_bytes
        else:
            chosen = policy(name, setting.generator.image_sizes[-1])
            peak, state = measure()(chosen, size).peak_bytes, measure().state_bytes
        with Dataless():
            batch = sum(tensor.nbytes for tensor in tensors_of(batch_of(setting, size)))
        return peak - state - batch

    return predict


def measured(choice: Choice) -> Iterator[Row]:
    for side, batch_size, precision, name in choice.cells():
        row = {"side": side, "batch_size": batch_size, "precision": precision, "policy": name}
        setting = setting_of(side, precision)
        row["measured_bytes"] = alone(measured_peak, setting, batch_size, name, choice.device)
        # The planner knows no image encoder as small as the one of a trial.
        yield row | {"predicted_bytes": None if choice.tiny else forecast(setting, choice.device)(batch_size, name)}


def alone(function: Callable[..., int], *arguments: Any) -> int | None:
    """``function`` in a fresh process; None if the machine or the GPU had not enough memory."""
    try:
        found: int = in_own_process(function, *arguments)
    except (BrokenProcessPool, MemoryError):  # killed by the system
        return None
    except RuntimeError as failure:
        if not is_out_of_memory(failure):
            raise
        return None
    return found


# ------------------------------------------------------------------------------------------------------------ sampling


@torch.inference_mode()
def drawing_peak(side: int, tile: int | None, device: str = "cpu", precision: str = "fp32") -> int:
    """Peak of generating one image, above the weights; the image itself counts."""
    torch.manual_seed(0)
    config = setting_of(side).generator
    with torch.device(device):
        generator = Generator(config).eval()
        noise, eps = torch.randn(1, config.noise_channels), torch.randn(1, config.condition_channels)
        sentence, words = torch.randn(1, config.word_channels), torch.randn(1, config.word_channels, 18)
        mask = torch.zeros(1, 18, dtype=torch.bool)
    draw = partial(generate_in_tiles, tile=tile) if tile else Generator.__call__
    with autocast(device, precision):
        return allocation_peak(lambda: draw(generator, noise, sentence, words, mask, eps=eps), device)


def sampling(choice: Choice) -> Iterator[Row]:
    for side, tile in [(0, None)] if choice.tiny else SAMPLING:
        for precision in choice.precisions or ("fp32",):
            row = {"side": side, "tile": tile, "precision": precision}
            yield row | {"measured_bytes": alone(drawing_peak, side, tile, choice.device, precision)}


# ---------------------------------------------------------------------------------------------------------------- time


def timed(repeats: int, choice: Choice, precision: str) -> Iterator[Row]:
    """Milliseconds of a step: our policies on the same models and the authors' on copies, in turn."""
    keep_freed_memory()
    side, batch_size = (0, 2) if choice.tiny else (256, 4 if choice.device == "cpu" else PAPER_BATCH)
    setting = setting_of(side, precision)
    side = setting.generator.image_sizes[-1]
    step, inputs = real_step(setting, "none", batch_size, choice.device)
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
            near = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 3e-2, "atol": 3e-2}
            torch.testing.assert_close(value, truth[loss], **near, msg=lambda m, n=name: f"{n}: {m}")
    runs = {AUTHORS: lambda: authors(**inputs)} | runs
    times = take_turns(runs, repeats, choice.device)
    for name, taken in times.items():
        ratios = [own / base for own, base in zip(taken, times["none"], strict=True)]
        row = {"policy": name, "side": side, "batch_size": batch_size, "precision": precision} | spread(taken)
        yield row | {"ratio_to_none": statistics.median(ratios)}


# ------------------------------------------------------------------------------------------------------------ training


def trained(steps: int = 50) -> Iterator[Row]:
    """Four stages of a narrow model trained on random images under every policy: are the losses the same?

    Policies that sum in another order run in float64: in float32 training amplifies the last bit.
    """
    generator = {"base_channels": 4, "word_channels": 16, "condition_channels": 16, "noise_channels": 16}
    generator |= {"image_sizes": list(sizes_up_to(512)), "residual_blocks": 1}
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
    """All losses of each step of a new model, ``[steps, losses]``; ``nudged``: weights one ulp off."""
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
    """For every resolution, dtype and policy: fixed and further bytes of a step, and the largest batches by GPU."""
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
ON_DEVICE = ("measured", "sampling", "time")  # the others are the same on every device


def main() -> None:
    parser = parser_of(__doc__, repeats=7)
    parser.add_argument("--only", choices=PARTS, action="append", help="run these parts (default: all)")
    add_target(parser)
    parser.set_defaults(precision=None)
    arguments = parser.parse_args()
    given = arguments.precision
    arguments.precision = given or "fp32"
    target = target_of(parser, arguments)
    if given == "tf32":
        parser.error("argument --precision: TF32 takes the memory of fp32; there are fp32, bf16, fp16")
    choice = Choice(target.device, (given,) if given else (), arguments.tiny)
    chosen = arguments.only or (PARTS if choice.device == "cpu" and not choice.tiny else ON_DEVICE)
    file = arguments.json or choice.file()
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "measured": lambda: measured(choice),
        "sampling": lambda: sampling(choice),
        "training": trained,
        "time": lambda: timed(arguments.repeats, choice, arguments.precision),
        "computed": computed,
    }
    results = json.loads(file.read_text()) if file and file.exists() else {}
    for name in chosen:
        rows = []
        for row in parts[name]():
            print(json.dumps(row), flush=True)
            rows.append(row)
        results[name] = {"environment": environment(target), "rows": rows}
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, results)


if __name__ == "__main__":
    main()
