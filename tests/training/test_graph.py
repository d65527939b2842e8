"""A step from graphs: everything but CUDA's own capture, which a stand-in runs again at each replay."""

import copy
import dataclasses
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dmgan_fast.errors import InputError
from dmgan_fast.losses import conditioning_loss, generator_adversarial_loss
from dmgan_fast.losses.adversarial import discriminator_loss_of
from dmgan_fast.losses.damsm import damsm_losses
from dmgan_fast.modules import fold
from dmgan_fast.modules.blocks import ResidualBlock
from dmgan_fast.runs.config import StepConfig
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.batch import Batch
from dmgan_fast.training.graph import WARM_UP, WORD_BUCKET, StepGraphs, pad_words
from dmgan_fast.training.step import TrainStep
from tests.training.test_step import batch_of, models


class StandIn:
    """A capture whose replay runs the step on the fixed inputs and writes its metrics where the capture put them."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, step):
        self.captures += 1
        metrics = {}

        def replay():
            self.replays += 1
            for name, value in step().items():
                metrics.setdefault(name, torch.empty_like(value)).copy_(value)

        return replay, metrics


def as_inputs(batch, noise):
    return {**vars(batch), **noise}


def test_steps_from_graphs_learn_what_plain_steps_learn():
    generator, discriminators, encoder = models(sides=(64,), mode="paper")
    plain = TrainStep(copy.deepcopy(generator), copy.deepcopy(discriminators), encoder)
    step = TrainStep(generator, discriminators, encoder)
    capture = StandIn()
    graphs = StepGraphs(step._step_on, capture=lambda: capture)
    for k in range(WARM_UP + 3):
        batch, noise = batch_of(k, sides=(64,))
        expected = plain(batch, **noise)
        found = graphs(as_inputs(batch, noise))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
    assert (capture.captures, capture.replays) == (1, 3)
    for ours, theirs in zip(step.generator.parameters(), plain.generator.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_metrics_of_a_replay_are_not_overwritten_by_the_next():
    counter = torch.zeros(())
    graphs = StepGraphs(lambda inputs: {"loss": inputs["words"].sum() + counter.add_(1)}, capture=StandIn)
    inputs = {"words": torch.zeros(1, 2, WORD_BUCKET), "padding_mask": torch.zeros(1, WORD_BUCKET, dtype=torch.bool)}
    found = [graphs(inputs)["loss"] for _ in range(WARM_UP + 2)]
    assert [value.item() for value in found] == [1, 2, 3, 4, 5]


def test_lengths_of_captions_share_a_bucket_and_each_bucket_has_a_graph():
    capture = StandIn()
    graphs = StepGraphs(lambda inputs: {"words": inputs["words"].sum()}, capture=lambda: capture)

    def call(words):
        mask = torch.zeros(2, words, dtype=torch.bool)
        return graphs({"words": torch.ones(2, 3, words), "padding_mask": mask})["words"].item()

    for words in (1, 4, WORD_BUCKET, 2, 5):
        assert call(words) == 6 * words
    assert capture.captures == 1
    for _ in range(WARM_UP + 1):
        call(WORD_BUCKET + 1)
    assert capture.captures == 2
    graphs.clear()
    call(1)
    assert capture.captures == 2  # warms up again


class FakeCuda:
    """Stands for ``torch.cuda``'s captures, and notes how they were begun."""

    def __init__(self, monkeypatch):
        self.pools, self.begun = 0, []
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", self.graph_pool_handle)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    def graph_pool_handle(self):
        self.pools += 1
        return self.pools

    def graph(self, graph, **options):
        self.begun.append(options)
        return nullcontext()


def test_all_graphs_share_memory_and_bear_other_threads_calls(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    graphs = StepGraphs(lambda inputs: {"loss": inputs["words"].sum()})

    def capture(words):
        for _ in range(WARM_UP + 1):
            graphs({"words": torch.ones(2, 3, words), "padding_mask": torch.zeros(2, words, dtype=torch.bool)})

    capture(WORD_BUCKET)
    capture(2 * WORD_BUCKET)
    assert cuda.begun == [{"pool": 1, "capture_error_mode": "thread_local"}] * 2
    graphs.clear()
    capture(WORD_BUCKET)
    assert cuda.begun[2:] == [{"pool": 2, "capture_error_mode": "thread_local"}]  # a pool goes with its last graph


@pytest.mark.parametrize("graph", [True, False])
def test_a_resumed_run_has_optimisers_that_fit_its_own_setting(graph):
    generator, discriminators, encoder = models(sides=(64,), mode="paper", dtype=torch.float32)
    batch, noise = batch_of(0, sides=(64,), dtype=torch.float32)
    step = TrainStep(generator, discriminators, encoder)
    step(batch, **noise)
    saved = copy.deepcopy(step.state_dict())
    for optimizer in (saved["generator_optimizer"], *saved["discriminator_optimizers"]):
        for group in optimizer["param_groups"]:
            group["capturable"] = not graph
    step.config = dataclasses.replace(step.config, cuda_graph=graph)
    step.load_state_dict(saved)
    for optimizer in (step.generator_optimizer, *step.discriminator_optimizers):
        assert [group["capturable"] for group in optimizer.param_groups] == [graph]


def test_padded_words_are_masked():
    inputs = pad_words({"words": torch.ones(2, 3, 4), "padding_mask": torch.zeros(2, 4, dtype=torch.bool)}, 3)
    assert inputs["words"].shape == (2, 3, 6)
    assert inputs["padding_mask"].tolist() == [[False] * 4 + [True] * 2] * 2


def test_a_step_with_padded_words_learns_the_same():
    losses = []
    for multiple in (5, 8):
        generator, discriminators, encoder = models(sides=(64, 128), mode="paper")
        batch, noise = batch_of(0, sides=(64, 128))
        inputs = pad_words(as_inputs(batch, noise), multiple)
        losses.append(TrainStep(generator, discriminators, encoder)._step_on(inputs))
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-9, atol=1e-12)


def test_a_cpu_refuses_a_cuda_graph():
    generator, discriminators, encoder = models(sides=(64,))
    with pytest.raises(InputError, match="cuda_graph needs a GPU: the generator is on cpu"):
        TrainStep(generator, discriminators, encoder, StepConfig(cuda_graph=True))
    with pytest.raises(ValueError, match=r"cuda_graph does not go with memory\.offload"):
        StepConfig(cuda_graph=True, memory=MemoryPolicy(offload=True))


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operators = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators.add(func.overloadpacket)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_operator_of_a_step_reads_a_value_on_the_host(precision):
    """What a CUDA graph can't hold: a number, or a shape that depends on numbers."""
    generator, discriminators, encoder = models(sides=(64, 128), mode="paper", dtype=torch.float32)
    step = TrainStep(generator, discriminators, encoder, StepConfig(precision=precision))
    batch, noise = batch_of(0, sides=(64, 128), dtype=torch.float32)
    with Seen() as seen:
        step(batch, **noise)
    aten = torch.ops.aten
    assert aten._fused_adam_ in seen.operators  # it was watched to the end
    assert not seen.operators & {
        aten._local_scalar_dense,
        aten.nonzero,
        aten.masked_select,
        aten.equal,
        aten.is_nonzero,
    }


class Whole(nn.Module):
    """Every forward and loss of a step."""

    def __init__(self, generator, discriminator, encoder):
        super().__init__()
        self.generator, self.discriminator, self.encoder = generator, discriminator, encoder

    def forward(self, batch: Batch, noise, eps):
        drawn = self.generator(noise, batch.sentence, batch.words, batch.padding_mask, eps=eps)
        image, size = drawn.images[-1], len(batch.sentence)
        said, wrong = batch.sentence, batch.sentence[1:]
        judged = discriminator_loss_of(self.discriminator, said, size, real=batch.images[-1], wrong_sentence=wrong)
        judged = judged + discriminator_loss_of(self.discriminator, said, size, fake=image.detach())
        losses = damsm_losses(
            *self.encoder(image), batch.sentence, batch.words, batch.lengths, batch.class_ids, 4.0, 5.0, 10.0
        )
        fooled = generator_adversarial_loss(self.discriminator, image, batch.sentence)
        return judged + fooled + losses["words"] + losses["sentence"] + conditioning_loss(drawn.mu, drawn.logvar)


def test_every_forward_and_loss_compiles_whole():
    generator, discriminators, encoder = models(sides=(64, 128), mode="paper", dtype=torch.float32)
    eager = Whole(generator, discriminators[-1], fold(encoder))
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="aot_eager")
    batch, noise = batch_of(0, sides=(64, 128), dtype=torch.float32)
    expected, found = eager(batch, **noise), compiled(batch, **noise)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected.backward()
    found.backward()
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        if theirs.grad is not None:
            assert (ours.grad - theirs.grad).norm() <= 1e-3 * theirs.grad.norm() + 1e-5


def test_inductor_runs_the_fused_ops_among_its_own_kernels():
    """Inductor compiles C++ for everything between the ops, so the case is small."""
    block = ResidualBlock(4)
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True)
    h = torch.randn(2, 2, 6, 6)
    expected, found = block(h), compiled(h)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), block.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
