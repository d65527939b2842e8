"""What plans for GPUs count, without one."""

from dataclasses import replace

import pytest
import torch

from dmgan_fast.metering.cuda import CUBLAS, block_bytes
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.planning import measure as measuring
from dmgan_fast.training.planning.planner import plan
from dmgan_fast.training.planning.search import ladder
from tests.training.planning.test_measure import MiB, config

NONE = MemoryPolicy()


def with_graphs(words):
    plain = config(precision="bf16")
    plain = replace(plain, data=replace(plain.data, max_words=words))
    return plain, replace(plain, step=replace(plain.step, cuda_graph=True))


@pytest.mark.parametrize(("words", "lengths"), [(6, 1), (7, 2), (18, 3)])
def test_graphs_hold_a_batch_for_each_length_and_one_pool_beside_a_step_that_warms_up(words, lengths):
    both = with_graphs(words)
    measuring.Measure(both[0], "cuda")(NONE, 4)  # makes indices that all steps of a process share
    plain, graphs = (measuring.Measure(each, "cuda")(NONE, 4) for each in both)
    batch, noise = measuring.batch_of(with_graphs(words)[0], 4)
    buffers = sum(block_bytes(t.nbytes) for t in measuring._tensors_of(batch, noise))
    more = graphs.peak_bytes - plain.peak_bytes
    assert more == lengths * buffers + (plain.transient_bytes if lengths > 1 else 0)
    assert graphs.peak["graphs"] == more
    assert "graphs" not in plain.peak


def test_a_plan_for_a_gpu_has_the_workspaces_of_libraries_and_one_for_a_cpu_has_none():
    here, there = (measuring.measure_of(config(), device)(NONE, 4) for device in ("cpu", "cuda"))
    assert there.peak["workspaces"] == CUBLAS
    assert "workspaces" not in here.peak


def test_kernels_chosen_by_trial_may_need_more(monkeypatch):
    chosen = config(precision="bf16")
    off = measuring.measure_of(chosen, "cuda")(NONE, 4)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    on = measuring.measure_of(chosen, "cuda")(NONE, 4)
    assert on.peak_bytes > off.peak_bytes
    assert measuring.measure_of(chosen, "cpu")(NONE, 4).peak_bytes > 0


def test_real_and_generated_images_in_turn_keep_less_than_together_and_the_ladder_has_both():
    chosen = config(precision="bf16")
    together, in_turn, *_ = policies = list(ladder(chosen, 8, "cuda"))
    assert (together, in_turn) == (NONE, MemoryPolicy(together=False))
    assert not any(policy.together for policy in policies[1:])
    measure = measuring.measure_of(chosen, "cuda")
    phase = "discriminator_128"
    both, one = (sum(measure(policy, 8).phases[phase].values()) for policy in (together, in_turn))
    assert one < both
    assert measure(in_turn, 8).flops == pytest.approx(measure(together, 8).flops, rel=1e-3)


def test_the_ladder_of_a_cpu_and_of_whole_batches_is_as_it_was():
    assert all(policy.together is None for policy in ladder(config(), 8))
    attngan = replace(config(), spectral_norm="none", batch_norm=True)
    assert all(policy.together is None for policy in ladder(attngan, 8, "cuda"))


def test_a_plan_says_what_it_counts_and_what_it_does_not():
    said = plan(config(precision="bf16"), batch_size=3, memory_bytes=200 * MiB, device="cuda").explain()
    for words in ("blocks of 512 B", "2 MiB", "cuBLAS", "cuDNN", "graphs' pool", "workspaces 32 MiB"):
        assert words in said
    counted, not_counted = said.split("not counted")
    for words in ("CUDA context", "fragmentation", "NCCL", "not yet verified on a GPU"):
        assert words in not_counted
        assert words not in counted
