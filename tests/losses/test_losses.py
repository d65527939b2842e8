"""What every loss promises: batches of one, padding, class ids, half precision, one graph, no host sync, checks."""

import ast
import inspect

import pytest
import torch

from dmgan_fast import losses
from dmgan_fast.errors import InputError
from dmgan_fast.losses import adversarial, conditioning, damsm
from dmgan_fast.reference import words_similarity
from tests.losses.small import B, D, codes, discriminator, inputs


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_losses_are_computed_in_float32(dtype):
    regions, words, lengths = inputs(dtype=dtype)
    image, sentence = codes(dtype=dtype)

    def all_losses(convert):
        r, w, i, s = (convert(leaf.detach()) for leaf in (regions * 20, words * 20, image, sentence))
        return *losses.words_loss(r, w, lengths), *losses.sentence_loss(i, s), losses.conditioning_loss(i, s)

    found = all_losses(lambda leaf: leaf)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in found)
    torch.testing.assert_close(found, all_losses(torch.Tensor.float))


COMPILED = {
    "words": lambda: (losses.words_loss, (*inputs(), torch.tensor([0, 1, 0, 2]))),
    "sentence": lambda: (losses.sentence_loss, (*codes(), torch.tensor([0, 1, 0, 2]))),
    "conditioning": lambda: (losses.conditioning_loss, codes()),
    "generator": lambda: (
        generator_total,
        (discriminator().eval(), torch.randn(B, 3, 64, 64).double(), *inputs(), *codes()),
    ),
    "discriminator": lambda: (
        losses.discriminator_loss,
        (discriminator().eval(), *torch.randn(2, B, 3, 64, 64).double(), torch.randn(B, D).double()),
    ),
}


def generator_total(model, fake, regions, words, lengths, image, sentence):
    def encoder(_):
        return regions, image

    return losses.generator_loss([model], [fake], sentence, image_encoder=encoder, words=words, lengths=lengths)[0]


@pytest.mark.parametrize("name", COMPILED)
def test_each_loss_is_one_graph(name):
    function, arguments = COMPILED[name]()
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), function(*arguments))


@pytest.mark.parametrize("module", [adversarial, conditioning, damsm, inspect.getmodule(words_similarity)])
def test_no_host_sync_and_no_loop_over_samples(module):
    """``for`` appears only over discriminators and dictionaries; nothing reads a tensor's value on the host."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        assert not isinstance(node, ast.For | ast.While), "a loop"
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"item", "tolist", "cpu", "numpy", "nonzero"}, node.attr


BAD = [
    (lambda: losses.words_loss(*inputs()[:2], torch.arange(1, 4)), r"lengths must have shape \[4\], got \[3\]"),
    (lambda: losses.words_loss(inputs()[0][:3], *inputs()[1:]), "differ in batch size: 3 and 4"),
    (lambda: losses.words_loss(*inputs(), torch.ones(3)), r"words_loss: class_ids must be \[4\], got \[3\]"),
    (lambda: losses.words_loss(*inputs(), torch.ones(4, device="meta")), "class_ids is on meta"),
    (lambda: losses.words_loss(inputs()[0].float(), *inputs()[1:]), "words is torch.float64, regions is torch.float32"),
    (lambda: losses.sentence_loss(codes()[0], codes(3)[0]), r"must both be \[B, D\], got \[4, 6\] and \[3, 6\]"),
    (lambda: losses.sentence_loss(codes()[0], codes()[0].to("meta")), "sentences is on meta, codes is on cpu"),
    (lambda: losses.sentence_loss(codes()[0], codes()[0].float()), "sentences is torch.float32, codes is torch"),
    (lambda: losses.conditioning_loss(codes()[0], codes(3)[0]), r"shape of mu \[4, 6\], got \[3, 6\]"),
    (lambda: losses.conditioning_loss(codes()[0], codes()[0].half()), "logvar is torch.float16 on cpu, mu is torch"),
    (lambda: losses.discriminator_loss(None, torch.ones(2), torch.ones(3), torch.ones(2)), "differ in size: 2, 3, 2"),
    (
        lambda: losses.generator_loss([], [torch.ones(1)], None, image_encoder=None, words=None, lengths=None),
        "0 discriminators for images of 1 resolutions",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
