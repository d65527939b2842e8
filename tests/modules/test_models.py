"""Promises of the models that the golden arrays do not cover."""

import copy

import pytest
import torch

from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.modules import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
    padding_mask,
)
from dmgan_fast.modules.image_encoder import INCEPTION_FILE
from dmgan_fast.modules.spectral_norm import SpectralNormConv2d, hold_weights

SMALL = {"base_channels": 4, "word_channels": 16, "condition_channels": 12, "noise_channels": 10}


def inputs(batch=3, words=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([words, 2, 4])[:batch]
    return {
        "noise": torch.randn(batch, 10, generator=generator),
        "sentence": torch.randn(batch, 16, generator=generator),
        "words": torch.randn(batch, 16, words, generator=generator),
        "padding_mask": padding_mask(lengths, words),
        "eps": torch.randn(batch, 12, generator=generator),
    }


def test_published_numbers_of_parameters():
    with torch.device("meta"):
        generator = Generator(GeneratorConfig())
        counts = [
            sum(p.numel() for p in Discriminator(DiscriminatorConfig(image_size=side)).parameters())
            for side in (64, 128, 256)
        ]
    assert sum(p.numel() for p in generator.parameters()) == 21_449_042
    assert counts == [1_878_242, 5_155_810, 18_264_546]


@pytest.mark.parametrize("sides", [(64,), (64, 128), (64, 128, 256, 512)])
def test_any_number_of_refinements(sides):
    generator = Generator(GeneratorConfig(image_sizes=sides, **SMALL)).eval()
    with torch.no_grad():
        out = generator(**inputs(), return_attention=True)
    assert [tuple(image.shape) for image in out.images] == [(3, 3, side, side) for side in sides]
    assert [tuple(a.shape) for a in out.attention] == [(3, 7, side, side) for side in sides[:-1]]
    assert [tuple(g.shape) for g in out.response_gates] == [(3, 1, side, side) for side in sides[:-1]]
    for attention in out.attention:
        assert torch.allclose(attention.sum(1), torch.ones(()), atol=1e-5)
        assert attention[1, 2:].abs().max() == 0  # words beyond the second caption's length


def test_samples_never_see_padding_in_paper_mode():
    """A caption's pictures are the same whatever stands in its padding and whoever shares its batch."""
    generator = Generator(GeneratorConfig(image_sizes=(64, 128), **SMALL)).eval().double()
    batch = {k: v.double() if v.is_floating_point() else v for k, v in inputs().items()}
    with torch.no_grad():
        whole = generator(**batch).images[-1]
        spoiled = dict(batch, words=batch["words"].masked_fill(batch["padding_mask"][:, None], 1e3))
        assert torch.equal(generator(**spoiled).images[-1], whole)
        one = {key: value[1:2] for key, value in batch.items()}
        one |= {"words": one["words"][..., :2], "padding_mask": one["padding_mask"][:, :2]}
        alone = generator(**one).images[-1]
    assert (alone - whole[1:2]).abs().max() < 1e-12


def test_official_mode_lets_masks_cross_samples():
    batch = inputs()
    paper = Generator(GeneratorConfig(image_sizes=(64, 128), **SMALL)).eval()
    official = Generator(GeneratorConfig(image_sizes=(64, 128), mask_mode="official", **SMALL)).eval()
    official.load_state_dict(paper.state_dict())
    with torch.no_grad():
        ours, theirs = paper(**batch, return_attention=True), official(**batch, return_attention=True)
    assert torch.equal(ours.images[0], theirs.images[0])
    rows = theirs.attention[0].flatten(2)  # row b*N + n takes mask row (b*N + n) mod B
    n = torch.arange(rows.shape[2])
    for b in range(3):
        masked_by = (b * rows.shape[2] + n) % 3
        expected = batch["padding_mask"][masked_by].T
        assert torch.equal(rows[b] == 0, expected)


def test_eps_and_global_seed_decide_the_picture():
    generator = Generator(GeneratorConfig(image_sizes=(64,), **SMALL)).eval()
    batch = inputs()
    free = {key: value for key, value in batch.items() if key != "eps"}
    with torch.no_grad():
        assert torch.equal(generator(**batch).images[0], generator(**batch).images[0])
        torch.manual_seed(5)
        first = generator(**free).images[0]
        torch.manual_seed(5)
        assert torch.equal(generator(**free).images[0], first)
        assert not torch.equal(generator(**free).images[0], first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": torch.zeros(3, 9)}, r"noise must be \[3, 10\], got \[3, 9\]"),
        ({"sentence": torch.zeros(2, 16)}, r"sentence must be \[3, 16\], got \[2, 16\]"),
        ({"words": torch.zeros(3, 15, 7)}, r"words must be \[3, 16, T >= 1\], got \[3, 15, 7\]"),
        ({"words": torch.zeros(3, 16, 0)}, "T >= 1"),
        ({"padding_mask": torch.zeros(3, 7)}, r"padding_mask must be bool \[3, 7\], got torch.float32"),
        ({"padding_mask": torch.zeros(3, 6, dtype=torch.bool)}, r"got torch.bool \[3, 6\]"),
        ({"eps": torch.zeros(3, 1)}, r"eps must be \[3, 12\]"),
        (
            {"words": torch.zeros(3, 16, 7, dtype=torch.float64)},
            "words is torch.float64, the weights are torch.float32",
        ),
        ({"words": torch.zeros(3, 16, 7, device="meta")}, "words is on meta, the weights are on cpu"),
    ],
)
def test_generator_refuses_bad_input(change, message):
    with pytest.raises(InputError, match=message):
        Generator(GeneratorConfig(image_sizes=(64, 128), **SMALL))(**inputs() | change)


def test_training_with_a_batch_of_one_is_refused_and_evaluation_is_not():
    generator = Generator(GeneratorConfig(image_sizes=(64,), **SMALL))
    batch = {key: value[:1] for key, value in inputs().items()}
    with pytest.raises(InputError, match="a batch of one has no batch statistics"):
        generator(**batch)
    assert generator.eval()(**batch).images[0].shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeneratorConfig(image_sizes=(64, 96)), r"image_sizes must start at 64 and double.*got \(64, 96\)"),
        (lambda: GeneratorConfig(image_sizes=()), "image_sizes"),
        (lambda: GeneratorConfig(base_channels=0), "base_channels must be at least 1, got 0"),
        (lambda: DiscriminatorConfig(image_size=96), "power of two of at least 64, got 96"),
        (lambda: DiscriminatorConfig(image_size=32), "got 32"),
        (lambda: TextEncoderConfig(vocabulary_size=5, word_channels=7), "word_channels must be even"),
        (lambda: TextEncoderConfig(vocabulary_size=0), "vocabulary_size"),
        (lambda: ImageEncoderConfig(side=50), "side must be a multiple of 16"),
    ],
)
def test_configurations_refuse_what_makes_no_model(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_spectral_norm_gives_unit_largest_singular_value(mode):
    torch.manual_seed(0)
    conv = SpectralNormConv2d(4, 6, 3, mode=mode).double()
    for _ in range(200):
        weight = conv.normalized_weight()
    assert abs(torch.linalg.matrix_norm(weight.flatten(1), 2).item() - 1) < 1e-6


def test_spectral_norm_iterates_as_its_mode_says():
    images, moved = torch.randn(2, 4, 8, 8), {}
    for mode in ("paper", "official"):
        conv = SpectralNormConv2d(4, 6, 3, mode=mode)
        for case in ("training", "frozen", "evaluation"):
            conv.train(case != "evaluation").requires_grad_(case != "frozen")
            before = conv.u.clone()
            conv(images)
            moved[mode, case] = not torch.equal(before, conv.u)
    assert moved == {
        ("paper", "training"): True,
        ("paper", "frozen"): False,
        ("paper", "evaluation"): False,
        ("official", "training"): True,
        ("official", "frozen"): True,
        ("official", "evaluation"): True,
    }


@pytest.mark.parametrize("side", [64, 256])
def test_held_spectral_norms_give_the_gradients_of_normalised_weights(side):
    torch.manual_seed(0)
    plain = Discriminator(DiscriminatorConfig(image_size=side, base_channels=2, sentence_channels=4)).double()
    for name, parameter in plain.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    held = copy.deepcopy(plain)
    pictures, sentence = torch.randn(2, 2, 3, side, side).double(), torch.randn(2, 4).double()
    plain(torch.cat(tuple(pictures)), torch.cat((sentence, sentence))).exp().sum().backward()
    for parameter in held.parameters():
        parameter.grad = torch.ones_like(parameter)  # gradients are added to what is there
    with hold_weights(held):
        for each in pictures:
            held(each, sentence).exp().sum().backward()
    for (name, ours), theirs in zip(held.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad - 1, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)
    for ours, theirs in zip(held.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_sigma_is_positive_before_any_iteration():
    torch.manual_seed(0)
    pictures, sentence = torch.randn(2, 3, 64, 64), torch.randn(2, 4)
    discriminator = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=4)).eval()
    discriminator, pictures, sentence = discriminator.double(), pictures.double(), sentence.double()
    convs = [*discriminator.down, discriminator.joint]
    assert min(conv.u.dot(conv.weight.flatten(1).mv(conv.v)) for conv in convs) < 0
    with hold_weights(discriminator):
        assert min(conv.held.inverse for conv in convs) > 0
        held = discriminator(pictures, sentence)
    torch.testing.assert_close(held, discriminator(pictures, sentence), rtol=1e-9, atol=0)


def judged_under_autocast(dtype, seed):
    """Features and logits: in float64, and with normalised weights and with held norms under autocast."""
    torch.manual_seed(seed)
    discriminator = Discriminator(DiscriminatorConfig(image_size=256, base_channels=2, sentence_channels=4))
    with torch.no_grad():
        for conv in discriminator.down:  # a product of sigmas far beyond what float16 can hold
            conv.weight.mul_(1000)
    discriminator.train()(torch.randn(1, 3, 256, 256), torch.randn(1, 4))  # sigma is one of an iteration
    discriminator.eval()
    pictures, sentence = torch.randn(2, 3, 256, 256), torch.randn(2, 4)

    def judge(discriminator, pictures, sentence):
        features = discriminator.features(pictures)
        return [features.double(), discriminator.logits(features, sentence).double()]

    truth = judge(copy.deepcopy(discriminator).double(), pictures.double(), sentence.double())
    with torch.autocast("cpu", dtype):
        plain = judge(discriminator, pictures, sentence)
        with hold_weights(discriminator):
            held = judge(discriminator, pictures, sentence)
    return truth, plain, held


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_held_spectral_norms_judge_the_same_under_autocast(dtype):
    """Within 1.5 times eager's own error, as root mean squares over 8192 features and 32 logits."""
    runs = [judged_under_autocast(dtype, seed) for seed in range(16)]
    for what in (0, 1):
        truth, plain, held = (torch.cat([run[how][what].flatten() for run in runs]) for how in (0, 1, 2))
        size, of_plain, of_held = (each.square().mean().sqrt() for each in (truth, plain - truth, held - truth))
        assert of_held <= 1.5 * of_plain
        assert of_plain <= 2 * torch.finfo(dtype).eps * size


def test_text_encoder_ignores_what_stands_in_the_padding():
    encoder = TextEncoder(TextEncoderConfig(vocabulary_size=20, word_channels=8, embedding_channels=6)).eval()
    captions = torch.randint(1, 20, (2, 6))
    lengths = torch.tensor([6, 3])
    words, sentence = encoder(captions, lengths)
    captions[1, 3:] = 0
    again, same_sentence = encoder(captions, lengths)
    assert torch.equal(words, again)
    assert torch.equal(sentence, same_sentence)
    assert words.shape == (2, 8, 6)
    assert words[1, :, 3:].abs().max() == 0


@pytest.mark.parametrize("lengths", [[0, 3], [3, 7]])
def test_text_encoder_refuses_lengths_out_of_range(lengths):
    encoder = TextEncoder(TextEncoderConfig(vocabulary_size=20, word_channels=8, embedding_channels=6))
    with pytest.raises(InputError, match=r"lengths must lie in 1\.\.6"):
        encoder(torch.ones(2, 6, dtype=torch.int64), torch.tensor(lengths))


def test_compact_encoder_takes_any_side():
    encoder = ImageEncoder(ImageEncoderConfig(kind="compact", channels=8, side=64, base_channels=2)).eval()
    for side in (64, 128):
        regions, code = encoder(torch.rand(2, 3, side, side))
        assert regions.shape == (2, 8, 8, 8)
        assert code.shape == (2, 8)


def test_inception_encoder_shapes_and_local_weights(tmp_path, monkeypatch):
    from torchvision.models import inception_v3

    encoder = ImageEncoder(ImageEncoderConfig(channels=8)).eval()
    assert not any(p.requires_grad for p in encoder.trunk.parameters())
    with torch.no_grad():
        regions, code = encoder(torch.rand(1, 3, 64, 64))
    assert regions.shape == (1, 8, 17, 17)
    assert code.shape == (1, 8)
    with pytest.raises(CheckpointError, match=INCEPTION_FILE):
        encoder.load_inception(tmp_path / INCEPTION_FILE)
    whole = inception_v3(weights=None, init_weights=False)
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole.state_dict(), tmp_path / "checkpoints" / INCEPTION_FILE)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    encoder.load_inception()
    assert torch.equal(encoder.trunk.Mixed_6e.branch1x1.conv.weight, whole.Mixed_6e.branch1x1.conv.weight)
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        encoder.load_inception(tmp_path / "cut.pth")


def test_save_and_load_keep_bits_and_configuration(tmp_path):
    for model in (
        Generator(GeneratorConfig(image_sizes=(64, 128), mask_mode="official", **SMALL)),
        Discriminator(DiscriminatorConfig(image_size=64, base_channels=2)),
        TextEncoder(TextEncoderConfig(vocabulary_size=5, word_channels=4, embedding_channels=3)),
        ImageEncoder(ImageEncoderConfig(kind="compact", channels=4, base_channels=2)),
    ):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder)
        assert again.config == model.config
        assert not again.training
        for key, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key
    with pytest.raises(CheckpointError, match="describes a TextEncoder, but a Generator was asked for"):
        Generator.from_pretrained(tmp_path / "TextEncoder")
    with pytest.raises(CheckpointError, match="neither a folder"):
        Generator.from_pretrained(tmp_path / "nothing")
    (tmp_path / "Generator" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        Generator.from_pretrained(tmp_path / "Generator")


def test_discriminator_refuses_bad_input():
    discriminator = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=16))
    with pytest.raises(InputError, match=r"images must be \[B, 3, 64, 64\], got \[2, 3, 32, 32\]"):
        discriminator.features(torch.zeros(2, 3, 32, 32))
    features = discriminator.features(torch.zeros(2, 3, 64, 64))
    assert discriminator.logits(features).shape == (2,)
    with pytest.raises(InputError, match=r"sentence must be \[2, 16\], got \[2, 15\]"):
        discriminator.logits(features, torch.zeros(2, 15))


def test_generator_and_discriminator_compile_into_one_graph():
    generator = Generator(GeneratorConfig(image_sizes=(64, 128), **SMALL))
    batch = inputs()
    compiled = torch.compile(generator, fullgraph=True, backend="aot_eager")
    expected = generator(**batch)
    state = {k: v.clone() for k, v in generator.state_dict().items()}
    assert torch.allclose(compiled(**batch).images[-1], expected.images[-1], atol=1e-5)
    assert any(not torch.equal(v, state[k]) for k, v in generator.state_dict().items())  # statistics move in the graph
    discriminator = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, sentence_channels=16))
    judge = torch.compile(discriminator, fullgraph=True, backend="aot_eager")
    assert judge(torch.zeros(2, 3, 64, 64), torch.zeros(2, 16)).shape == (2,)
