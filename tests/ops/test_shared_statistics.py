"""Batch norm shared by processes: two processes with half a batch each are one process with the whole."""

import pytest
import torch
from torch import distributed, multiprocessing

from dmgan_fast import functional
from dmgan_fast.parallel.ending import end_after_gloo

CHANNELS = 6
VARIANTS = [(backend, with_skip) for backend in ("cpu", "reference") for with_skip in (False, True)]
SIZES = (3, 5)  # samples of each process: they need not be equal


def arguments():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(SIZES), CHANNELS, 4, 5, generator=generator) * 3 + 100
    skip = torch.randn(x.shape, generator=generator)
    projection = torch.randn(x.shape, generator=generator)
    return x, skip, projection, torch.linspace(0.5, 2, CHANNELS), torch.linspace(-1, 1, CHANNELS)


def run(x, skip, projection, weight, bias, backend, group, with_skip):
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    running = torch.zeros(CHANNELS, dtype=x.dtype), torch.ones(CHANNELS, dtype=x.dtype)
    y = functional.batch_norm_glu(
        *leaves,
        *running,
        training=True,
        momentum=0.3,
        skip=skip if with_skip else None,
        process_group=group,
        backend=backend,
    )
    grads = torch.autograd.grad(y, leaves, projection[:, : y.shape[1]])
    return [y.detach(), grads[0]], list(grads[1:]), list(running)


def worker(rank, file, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    end_after_gloo()
    x, skip, projection, weight, bias = arguments()
    begin = sum(SIZES[:rank])
    part = slice(begin, begin + SIZES[rank])
    found = {
        variant: run(
            x[part], skip[part], projection[part], weight, bias, variant[0], distributed.group.WORLD, variant[1]
        )
        for variant in VARIANTS
    }
    torch.save(found, f"{results}{rank}")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Variant → results of both processes."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(worker, (folder / "store", folder / "result"), nprocs=2)
    first, second = (torch.load(folder / f"result{rank}") for rank in range(2))
    return {variant: (first[variant], second[variant]) for variant in VARIANTS}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_two_processes_compute_what_one_does(variant, found):
    first, second = found[variant]
    whole = run(*(t.double() for t in arguments()), "reference", None, variant[1])
    close = {"rtol": 2e-5, "atol": 2e-5}
    for a, b, expected in zip(first[0], second[0], whole[0], strict=True):
        torch.testing.assert_close(torch.cat((a, b)).double(), expected, **close)
    for a, b, expected in zip(first[1], second[1], whole[1], strict=True):
        torch.testing.assert_close((a + b).double(), expected, **close)
    for a, b, expected in zip(first[2], second[2], whole[2], strict=True):
        torch.testing.assert_close(a.double(), expected, **close)
        assert torch.equal(a, b)
