"""Three processes that do everything the tests of this folder look at, once."""

from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from dmgan_fast.errors import DataError, InputError
from dmgan_fast.parallel import GradientSum, Processes, collectives
from dmgan_fast.runs.config import ParallelConfig, StepConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.step import TrainStep
from dmgan_fast.training.trainer import train
from tests.parallel.in_parts import hold_in_parts
from tests.parallel.runs import begin_in_parts, train_together
from tests.training.conftest import encoders, pictures, train_config  # noqa: F401
from tests.training.planning.test_measure import POLICIES, real_peak
from tests.training.planning.test_measure import config as measured_config
from tools.exact_processes import BATCH, CASES, batch_of, gathered, models, part_of

SIZE = 3
ROWS = (2, 1, 3)  # of each process
ROWS_BATCH = 2
STEPS = {"dm-gan": 10, "attngan": 2, "tiles": 2, "together": 2, "encoders": 3, "rows": 3, "rows of attngan": 2}
STEPS |= {"shards": 3, "shards of rows": 2}


def whole():
    """Rows of all processes."""
    return torch.randn(sum(ROWS), 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights_of(tensor):
    return torch.linspace(1, 2, tensor.numel(), dtype=tensor.dtype).view_as(tensor)


def own_rows(rank):
    first = sum(ROWS[:rank])
    return slice(first, first + ROWS[rank])


def failure(work, *arguments, **options):
    """The error of a call, as (kind, message, whether another process tells it)."""
    try:
        work(*arguments, **options)
    except Exception as error:
        return type(error).__name__, str(error), getattr(error, "told_elsewhere", None)
    return None


def exchange(processes):
    """Gathered rows, sums and their gradients."""
    share = processes.share(ROWS[processes.rank])
    own = whole()[own_rows(processes.rank)].requires_grad_()
    found = {"sizes": torch.tensor(share.sizes), "rows": torch.tensor([share.rows.start, share.rows.stop])}
    for name, gather in (("each its own way", share.gather), ("alike", share.gather_alike)):
        rows = gather(own)
        scale = processes.rank + 1 if name != "alike" else 1
        (gradient,) = torch.autograd.grad((rows.square() * weights_of(rows)).sum() * scale, own)
        found |= {f"rows {name}": rows.detach(), f"gradient {name}": gradient}
    total = collectives.total(own.sum(0), processes.group)
    (first,) = torch.autograd.grad(total.pow(3).sum(), own, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), own)
    found |= {"total": total.detach(), "gradient of total": first.detach(), "second gradient of total": second}
    many = torch.arange(22.0, dtype=torch.float64).view(2, 11) + processes.rank / 3  # 3 divides no 11
    gathered = [collectives.merged(many, processes.group, lambda parts: parts.pow(2).sum(0) / 3)]
    collectives.GATHERED = 0
    gathered += [collectives.merged(many, processes.group, lambda parts: parts.pow(2).sum(0) / 3)]
    found["merged"] = torch.stack(gathered)
    found["total of many"] = collectives.total_of(own.detach().sum(0), processes.group)
    collectives.GATHERED = 1 << 20
    found["numbers"] = torch.tensor(processes.exchange([processes.rank, 7]))
    torch.manual_seed(processes.rank)
    found["random"] = share.random(4, own)
    return found


def add_up(processes):
    """Gradients of two backward passes, one parameter without any, in buckets of one parameter and of all."""
    found = {}
    for name, size in (("one", 1), ("all", 1 << 20)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
        model.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
        sums = GradientSum(model.parameters(), processes.group, bucket_bytes=size)
        rows = whole()[own_rows(processes.rank)]
        for last in (False, True):
            if last:
                with sums.last_backward():
                    model(rows).square().sum().backward()
                found[f"sent meanwhile {name}"] = torch.tensor(len(sums._sent))
            else:
                model(rows).sum().backward()
        sums.finish()
        assert model.unused.grad is None
        found |= {f"{key} {name}": parameter.grad for key, parameter in model.named_parameters() if key != "unused"}
    return found


def agree(processes):
    """What each process is told when one of them fails or differs."""

    def fail_on(rank, error, **options):
        with processes.agreeing(**options):
            if processes.rank == rank:
                raise error

    def items():
        yield 1
        if processes.rank == 2:
            raise DataError("picture 7 can't be read")
        yield 2

    def ends():
        yield from range(2 + processes.rank)

    seen = []
    return {
        "all well": failure(fail_on, None, None),
        "one fails": failure(fail_on, 1, InputError("no such folder")),
        "one fails, quick": failure(fail_on, 1, InputError("no such folder"), quick=True),
        "one has a bug": failure(fail_on, 1, ZeroDivisionError("by zero")),
        "same": failure(processes.same, "the data", "abc"),
        "not the same": failure(processes.same, "the data", "abc" if processes.rank else "xyz"),
        "loader fails": failure(lambda: seen.extend(processes.side_by_side(items()))),
        "seen": list(seen),
        "shortest": list(processes.side_by_side(ends())),
        "no rows": failure(processes.share, 0 if processes.rank == 1 else 2),
        "words": failure(processes.share, 2, **{"the words T": 4 + processes.rank // 2}),
        "any": (processes.any(processes.rank == 2), processes.any(False)),
        "from first": processes.from_first(processes.rank),
    }


def refuse(processes):
    """Batches and settings that a shared step refuses, on all processes."""
    generator, discriminators, encoder = models()
    step = TrainStep(generator, discriminators, encoder.eval())
    batch, noise = batch_of(0)
    rows = processes.part(BATCH)
    part, noise = part_of(batch, rows), {name: x[rows.start : rows.stop] for name, x in noise.items()}
    bad = part_of(batch, rows)
    if processes.rank == 1:
        bad.lengths = bad.lengths[:1]
    odd = dict(noise) if processes.rank else {"eps": noise["eps"]}
    official = models(mask_mode="official")
    many = TrainStep(*models()[:2], encoder, StepConfig(accumulate=3))
    together = Processes.of(rows=SIZE)
    of_rows = TrainStep(*models()[:2], encoder, processes=together)
    tiles = StepConfig(memory=MemoryPolicy(checkpointing="tile", tile_rows=16))
    return {
        "whole images": failure(of_rows, batch, **batch_of(0)[1]),
        "other images": failure(together.share, 1 + processes.rank),
        "tiles of rows": failure(TrainStep, *models()[:2], encoder, tiles, processes=together),
        "pairs of three": failure(Processes.of, rows=2),
        "bad batch": failure(step, bad, **noise),
        "noise of some": failure(step, part, **odd),
        "official": failure(TrainStep, *official),
        "parts": failure(many, part, **noise),
        "scaling of parts": failure(
            TrainStep, *models(), StepConfig(precision="fp16"), processes=Processes.of(shard=True)
        ),
        "still works": failure(step, part, **noise),
    }


def start_unlike(processes=None):
    """A step of models that start with other weights on each process, whether they hold them whole or in parts."""
    generator, discriminators, encoder = models()
    processes = processes or Processes()
    if processes.rank:
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(processes.rank)
    step = TrainStep(generator, discriminators, encoder.eval(), processes=processes)
    batch, noise = batch_of(0)
    rows = processes.part(BATCH)
    step(part_of(batch, rows), **{name: x[rows.start : rows.stop] for name, x in noise.items()})
    state = generator.state_dict()
    return {key: gathered(value) for key, value in state.items() if value.is_floating_point()}


def rows_config(size):
    """Of a step whose images so many processes hold together."""
    return replace(measured_config(), parallel=ParallelConfig(rows=size))


def lose_one(processes):
    """The last process leaves; the others notice."""
    if processes.rank == SIZE - 1:
        return None
    return failure(processes.wait)


def worker(rank, folder, work):
    torch.set_num_threads(1)
    folder = Path(folder)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=SIZE)
    processes = Processes.of()
    try:
        found = {"exchange": exchange(processes), "gradients": add_up(processes), "agree": agree(processes)}
        found["exact"] = {case: CASES[case](processes, steps) for case, steps in STEPS.items()}
        found["refuse"], found["unlike"] = refuse(processes), start_unlike(processes)
        found["unlike in parts"] = start_unlike(Processes.of(shard=True))
        found["parts"] = hold_in_parts(processes)
        of_rows = rows_config(SIZE)
        found["peak of rows"] = sum(real_peak(of_rows, POLICIES["op"], ROWS_BATCH, Processes.of(rows=SIZE)))
        found["run"] = work(processes, folder)
        found["lost"] = lose_one(processes)
    finally:
        distributed.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


def start(work, size, *arguments):
    """Processes that are forked from one that has imported what takes long."""
    get_context("forkserver").set_forkserver_preload(["torch.distributed.fsdp", "dmgan_fast.training.trainer"])
    multiprocessing.start_processes(work, arguments, nprocs=size, start_method="forkserver")


@pytest.fixture(scope="session")
def handed_on(tmp_path_factory, pictures, encoders):  # noqa: F811
    """A run of which two processes that hold weights in parts took two steps, and one process a third."""
    folder = tmp_path_factory.mktemp("handed on")
    torch.set_num_threads(1)
    config = partial(train_config, pictures, encoders, batch_size=4)
    start(begin_in_parts, 2, str(folder), config(["parallel.shard=true"], steps=2))
    train(config(steps=3), folder / "run", resume=True)
    return folder / "run"


@pytest.fixture(scope="session")
def of_three(tmp_path_factory, pictures, encoders, handed_on):  # noqa: F811
    """What each of three processes found, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("three")
    work = partial(train_together, pictures=str(pictures), encoders=str(encoders), handed_on=str(handed_on))
    start(worker, SIZE, str(folder), work)
    return [torch.load(folder / f"{rank}.pt") for rank in range(SIZE)], folder


@pytest.fixture(scope="session")
def alone():
    """What one process finds."""
    torch.set_num_threads(1)
    return {case: CASES[case](Processes(), steps) for case, steps in STEPS.items()}
