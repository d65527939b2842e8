"""A generator of the ops inside PyTorch: torch.export, loss scaling, a training step as one graph."""

import pytest
import torch

from dmgan_fast.modules import Generator, GeneratorConfig


@pytest.fixture
def generator():
    torch.manual_seed(0)
    config = GeneratorConfig(image_sizes=(64, 128), base_channels=4, word_channels=8, condition_channels=4)
    return Generator(config)


def generator_inputs():
    noise, sentence, words = torch.randn(2, 100), torch.randn(2, 8), torch.randn(2, 8, 5)
    return noise, sentence, words, torch.tensor([[False] * 5, [False, False, False, True, True]])


def test_a_generator_exports_with_the_ops_inside(generator):
    generator.eval()
    eps = torch.randn(2, 4)
    program = torch.export.export(generator, generator_inputs(), {"eps": eps})
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    for op in ("memory_read", "memory_write", "batch_norm_glu", "upsample_conv3x3"):
        assert f"dmgan_fast.{op}.default" in names


def test_a_loss_scaler_skips_overflow_and_steps_on_the_rest(generator):
    optimizer = torch.optim.SGD(generator.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    before = [p.detach().clone() for p in generator.parameters()]

    def step(factor):
        with torch.autocast("cpu", torch.float16):
            images = generator(*generator_inputs()).images
            loss = sum(image.square().mean() for image in images) * factor
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return any(not torch.equal(p, q) for p, q in zip(generator.parameters(), before, strict=True))

    assert not step(float("inf"))
    assert step(1.0)


def test_a_training_step_compiles_as_one_graph(generator):
    eps = torch.randn(2, 4)
    arguments = generator_inputs()
    torch._dynamo.reset()

    def loss(model):
        return sum(image.square().mean() for image in model(*arguments, eps=eps).images)

    compiled = torch.compile(generator, fullgraph=True, backend="aot_eager")
    statistics = {k: v.clone() for k, v in generator.state_dict().items()}
    loss(compiled).backward()
    grads = [p.grad.clone() for p in generator.parameters()]
    after = {k: v.clone() for k, v in generator.state_dict().items()}
    generator.zero_grad()
    generator.load_state_dict(statistics)
    loss(generator).backward()
    torch.testing.assert_close([p.grad for p in generator.parameters()], grads)
    torch.testing.assert_close(dict(generator.state_dict()), after)
