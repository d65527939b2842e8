"""Rows and sums of three processes, and their gradients, against the same on one."""

import torch

from dmgan_fast.parallel import GradientSum, collectives
from tests.parallel.conftest import ROWS, own_rows, weights_of, whole


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def test_a_group_that_is_only_planned_for_exchanges_nothing():
    group, own = collectives.AbsentGroup(1, 3), torch.ones(2, 4)
    assert (group.rank(), group.size()) == (1, 3)
    assert collectives.exchange(None, own, group=group) is None
    assert collectives.gather(own, group).shape == (3, 2, 4)
    assert collectives.gather_rows(own, (1, 2, 5), group).shape == (8, 4)
    assert collectives.scatter_sum(torch.ones(8, 4), (1, 2, 5), group).shape == (2, 4)
    assert collectives.total_of(torch.ones(collectives.GATHERED), group).shape == (collectives.GATHERED,)
    sums = GradientSum([parameter := torch.nn.Parameter(own)], group)
    parameter.grad = own.clone()
    sums.finish()
    assert torch.equal(parameter.grad, own)


def test_every_process_has_the_rows_of_all_in_order(of_three):
    for rank, found in enumerate(of_three[0]):
        assert found["exchange"]["sizes"].tolist() == list(ROWS)
        assert slice(*found["exchange"]["rows"].tolist()) == own_rows(rank)
        for name in ("each its own way", "alike"):
            assert torch.equal(found["exchange"][f"rows {name}"], whole())


def test_rows_that_each_uses_its_own_way_get_the_sum_of_all_gradients(of_three):
    rows = whole().requires_grad_()
    times = sum(range(1, len(ROWS) + 1))  # process r counts r + 1 times
    (wanted,) = torch.autograd.grad((rows.square() * weights_of(rows)).sum() * times, rows)
    for rank, found in enumerate(of_three[0]):
        close(found["exchange"]["gradient each its own way"], wanted[own_rows(rank)])


def test_rows_that_all_use_alike_get_that_gradient_once(of_three):
    rows = whole().requires_grad_()
    (wanted,) = torch.autograd.grad((rows.square() * weights_of(rows)).sum(), rows)
    for rank, found in enumerate(of_three[0]):
        close(found["exchange"]["gradient alike"], wanted[own_rows(rank)])


def test_a_total_has_first_and_second_gradients_of_all_processes(of_three):
    rows = whole().requires_grad_()
    total = rows.sum(0)
    # Every process computes the same from the total, so together they count it as many times.
    (first,) = torch.autograd.grad(len(ROWS) * total.pow(3).sum(), rows, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), rows)
    for rank, found in enumerate(of_three[0]):
        close(found["exchange"]["total"], total.detach())
        close(found["exchange"]["gradient of total"], first.detach()[own_rows(rank)])
        close(found["exchange"]["second gradient of total"], second[own_rows(rank)])


def test_what_each_merges_for_the_others_is_what_all_would_merge(of_three):
    parts = (
        torch.arange(22.0, dtype=torch.float64).view(2, 11) + torch.arange(3.0, dtype=torch.float64)[:, None, None] / 3
    )
    for found in of_three[0]:
        of_all, for_others = found["exchange"]["merged"]
        close(of_all, parts.pow(2).sum(0) / 3)
        assert torch.equal(for_others, of_all)
        assert torch.equal(found["exchange"]["total of many"], found["exchange"]["total"])


def test_totals_have_the_same_bits_on_all_processes(of_three):
    first, *others = (found["exchange"]["total"] for found in of_three[0])
    assert all(torch.equal(first, other) for other in others)
