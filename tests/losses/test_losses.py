"""What every loss promises: batches of one, padding, class ids, half precision, one graph, no host sync, checks."""

import ast
import inspect

import pytest
import torch

from dmgan_fast import losses
from dmgan_fast.errors import InputError
from dmgan_fast.losses import adversarial, conditioning, damsm
from dmgan_fast.modules import Discriminator, DiscriminatorConfig
from dmgan_fast.reference import words_similarity

B, D, T, SIDE = 4, 6, 5, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def inputs(size=B, dtype=torch.float64):
    regions, words = torch.randn(size, D, SIDE, SIDE, dtype=dtype), torch.randn(size, D, T, dtype=dtype)
    return regions.requires_grad_(), words.requires_grad_(), torch.tensor([5, 3, 1, 4])[:size]


def codes(size=B, dtype=torch.float64):
    return torch.randn(size, D, dtype=dtype, requires_grad=True), torch.randn(size, D, dtype=dtype, requires_grad=True)


def discriminator(size=64):
    config = DiscriminatorConfig(image_size=size, base_channels=2, sentence_channels=D)
    return Discriminator(config).double()


def test_damsm_losses_of_one_are_zero_with_zero_gradients():
    regions, words, lengths = inputs(1)
    image, sentence = codes(1)
    for ids in (None, torch.tensor([3])):
        both = (*losses.words_loss(regions, words, lengths, ids), *losses.sentence_loss(image, sentence, ids))
        assert [loss.item() for loss in both] == [0, 0, 0, 0]
        sum(both).backward()
    assert all((leaf.grad == 0).all() for leaf in (regions, words, image, sentence))


def test_one_class_only_gives_zero_and_all_classes_give_the_unmasked_loss():
    regions, words, lengths = inputs()
    assert [loss.item() for loss in losses.words_loss(regions, words, lengths, torch.full((B,), 7))] == [0, 0]
    assert [loss.item() for loss in losses.sentence_loss(*codes(), torch.full((B,), 7))] == [0, 0]
    different = losses.words_loss(regions, words, lengths, torch.arange(B))
    torch.testing.assert_close(different, losses.words_loss(regions, words, lengths))


def test_pairs_of_one_class_do_not_count_against_each_other():
    image, sentence = codes()
    scores = 10 * torch.cosine_similarity(image[:, None], sentence[None], 2)
    kept = [[0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 1, 2, 3]]  # 0 and 2 are of one class
    expected = sum(scores[i][kept[i]].logsumexp(0) - scores[i, i] for i in range(B)) / B
    found, _ = losses.sentence_loss(image, sentence, torch.tensor([5, 1, 5, 2]))
    torch.testing.assert_close(found, expected)


def test_padding_has_neither_weight_nor_gradient():
    regions, words, lengths = inputs()
    found = losses.words_loss(regions, words, lengths)
    sum(found).backward()
    padding = torch.arange(T) >= lengths[:, None]
    assert (words.grad.movedim(1, 2)[padding] == 0).all()
    assert (words.grad.movedim(1, 2)[~padding] != 0).any(1).all()
    other = words.detach().masked_fill(padding[:, None], 50.0)
    assert losses.words_loss(regions, other, lengths) == found


def test_zero_features_give_finite_losses_and_gradients():
    regions, words, lengths = inputs()
    image, sentence = codes()
    leaves = [leaf.detach().zero_().requires_grad_() for leaf in (regions, words, image, sentence)]
    total = sum(losses.words_loss(leaves[0], leaves[1], lengths)) + sum(losses.sentence_loss(*leaves[2:]))
    total.backward()
    assert total.isfinite()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_conditioning_loss_is_the_mean_divergence():
    mu, logvar = torch.randn(2, B, D, dtype=torch.float64)
    normal = torch.distributions.Normal(mu, (logvar / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = torch.distributions.kl_divergence(normal, standard).mean()
    torch.testing.assert_close(losses.conditioning_loss(mu, logvar), expected)


def test_half_precision_pictures_meet_float32_text():
    regions, words, lengths = inputs(dtype=torch.float32)
    image, sentence = codes(dtype=torch.float32)
    assert all(loss.isfinite() for loss in losses.words_loss(regions.bfloat16(), words, lengths))
    assert all(loss.isfinite() for loss in losses.sentence_loss(image.bfloat16(), sentence))


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


def test_extreme_logits_stay_finite():
    class Certain:
        def features(self, images):
            return images.mean((1, 2, 3))

        def logits(self, features, sentence=None):
            return (features + 1) * 200

    fake, sentence = torch.zeros(B, 3, 8, 8, requires_grad=True), torch.zeros(B, D)
    generator = losses.generator_adversarial_loss(Certain(), fake - 2, sentence)
    generator.backward()
    assert generator.item() == 400  # a sigmoid and a clamped log would stop at 200 and give no gradient
    assert (fake.grad != 0).all()
    assert losses.discriminator_loss(Certain(), fake - 2, fake, sentence).item() == pytest.approx(200 + 400 / 3)


def test_order_of_forwards_is_the_authors():
    calls = []

    class Spy:
        def features(self, images):
            calls.append(("features", images.mean().item()))
            return images

        def logits(self, features, sentence=None):
            calls.append(("logits", features.mean().item(), None if sentence is None else sentence.mean().item()))
            return features.mean((1, 2, 3))

    real, fake, sentence = torch.full((2, 3, 4, 4), 1.0), torch.full((2, 3, 4, 4), 2.0), torch.tensor([[3.0], [5.0]])
    losses.discriminator_loss(Spy(), real, fake, sentence)
    assert calls == [
        ("features", 1.0),
        ("features", 2.0),
        ("logits", 1.0, 4.0),
        ("logits", 2.0, 4.0),
        ("logits", 1.0, 5.0),  # wrong pair: picture 0 with sentence 1
        ("logits", 1.0, None),
        ("logits", 2.0, None),
    ]


def test_no_gradient_of_the_discriminator_loss_reaches_the_generator():
    fake = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    sentence = torch.randn(2, D, dtype=torch.float64)
    losses.discriminator_loss(discriminator(), torch.randn_like(fake), fake, sentence).backward()
    assert fake.grad is None


def test_generator_loss_is_the_sum_of_its_parts():
    models = [discriminator().eval(), discriminator(128).eval()]
    fakes = [torch.randn(B, 3, side, side, dtype=torch.float64) for side in (64, 128)]
    regions, words, lengths = inputs()
    image, sentence = codes()
    seen = []

    def encoder(pictures):
        seen.append(pictures)
        return regions, image

    arguments = {"words": words, "lengths": lengths, "class_ids": torch.tensor([0, 1, 0, 2])}
    total, parts = losses.generator_loss(models, fakes, sentence, image_encoder=encoder, damsm_weight=3.0, **arguments)
    by_words = sum(losses.words_loss(regions, words, lengths, arguments["class_ids"]))
    by_sentence = sum(losses.sentence_loss(image, sentence, arguments["class_ids"]))
    judged = [losses.generator_adversarial_loss(m, f, sentence) for m, f in zip(models, fakes, strict=True)]
    torch.testing.assert_close(total, sum(judged) + 3 * (by_words + by_sentence))
    torch.testing.assert_close(parts["words"], by_words.detach())
    torch.testing.assert_close(parts["adversarial_128"], judged[1].detach())
    assert seen == [fakes[-1]]  # the last picture only
    without, parts = losses.generator_loss(models, fakes, sentence, image_encoder=None, **arguments)
    torch.testing.assert_close(without, sum(judged))
    assert set(parts) == {"adversarial_64", "adversarial_128"}


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
        "0 discriminators for 1 sides",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
