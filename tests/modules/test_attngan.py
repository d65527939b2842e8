"""The AttnGAN baseline against a plain PyTorch rewrite of its formulas whose modules bear the authors' names."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dmgan_fast import compat
from dmgan_fast.errors import CheckpointError
from dmgan_fast.modules import AttnGenerator, DiscriminatorConfig, Generator, GeneratorConfig
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.presets import build_config

WIDTH, WORDS, CONDITION, NOISE = 4, 6, 5, 3


def conv3x3(i, o):
    return nn.Conv2d(i, o, 3, padding=1, bias=False)


def up(i, o):
    return nn.Sequential(nn.Upsample(scale_factor=2), conv3x3(i, 2 * o), nn.BatchNorm2d(2 * o), nn.GLU(1))


class Residual(nn.Module):
    def __init__(self, c):
        super().__init__()
        norms = nn.BatchNorm2d(2 * c), nn.BatchNorm2d(c)
        self.block = nn.Sequential(conv3x3(c, 2 * c), norms[0], nn.GLU(1), conv3x3(c, c), norms[1])

    def forward(self, x):
        return x + self.block(x)


class First(nn.Module):
    def __init__(self):
        super().__init__()
        c = 16 * WIDTH
        self.fc = nn.Sequential(
            nn.Linear(CONDITION + NOISE, 32 * c, bias=False),
            nn.BatchNorm1d(32 * c),
            nn.GLU(1),
            nn.Unflatten(1, (c, 4, 4)),
        )
        for k in range(4):
            setattr(self, f"upsample{k + 1}", up(c >> k, c >> (k + 1)))

    def forward(self, x):
        return self.upsample4(self.upsample3(self.upsample2(self.upsample1(self.fc(x)))))


class Next(nn.Module):
    def __init__(self, residuals):
        super().__init__()
        self.att = nn.Module()
        self.att.conv_context = nn.Conv2d(WORDS, WIDTH, 1, bias=False)
        self.residual = nn.Sequential(*(Residual(2 * WIDTH) for _ in range(residuals)))
        self.upsample = up(2 * WIDTH, WIDTH)

    def forward(self, h, words, masks):
        """``masks [B, N, T]``: the padding that each pixel sees."""
        context = self.att.conv_context(words[..., None])[..., 0]  # [B, C, T]
        scores = torch.einsum("bcn,bct->bnt", h.flatten(2), context)
        attention = scores.masked_fill(masks, -torch.inf).softmax(2)
        read = torch.einsum("bct,bnt->bcn", context, attention).view_as(h)
        x = self.upsample(self.residual(torch.cat((h, read), 1)))
        return x, attention.transpose(1, 2).unflatten(2, h.shape[2:])


class Plain(nn.Module):
    """AttnGAN's G_NET."""

    def __init__(self, residuals=2):
        super().__init__()
        self.ca_net = nn.Module()
        self.ca_net.fc = nn.Linear(WORDS, 4 * CONDITION)
        self.h_net1, self.h_net2, self.h_net3 = First(), Next(residuals), Next(residuals)
        for k in (1, 2, 3):
            head = nn.Module()
            head.img = nn.Sequential(conv3x3(WIDTH, 3), nn.Tanh())
            setattr(self, f"img_net{k}", head)

    def forward(self, noise, sentence, words, mask, eps, official):
        mu, logvar = F.glu(self.ca_net.fc(sentence), 1).chunk(2, 1)
        h = self.h_net1(torch.cat((mu + (logvar / 2).exp() * eps, noise), 1))
        images, maps = [self.img_net1.img(h)], []
        for stage, head in ((self.h_net2, self.img_net2), (self.h_net3, self.img_net3)):
            pixels = h.shape[2] * h.shape[3]
            rows = mask.repeat(pixels, 1) if official else mask.repeat_interleave(pixels, 0)
            h, attention = stage(h, words, rows.view(len(h), pixels, -1))
            images.append(head.img(h))
            maps.append(attention)
        return images, maps


def plain_discriminator(side, base=2, sentence=WORDS):
    """AttnGAN's D_NET64, D_NET128 or D_NET256."""

    def narrow(i, o):
        return nn.Sequential(conv3x3(i, o), nn.BatchNorm2d(o), nn.LeakyReLU(0.2))

    def down(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2))

    model = nn.Module()
    first = [nn.Conv2d(3, base, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    model.img_code_s16 = nn.Sequential(*first, *(m for k in range(3) for m in down(base << k, base << (k + 1))))
    if side == 128:
        model.img_code_s32, model.img_code_s32_1 = down(8 * base, 16 * base), narrow(16 * base, 8 * base)
    if side == 256:
        model.img_code_s32, model.img_code_s64 = down(8 * base, 16 * base), down(16 * base, 32 * base)
        model.img_code_s64_1, model.img_code_s64_2 = narrow(32 * base, 16 * base), narrow(16 * base, 8 * base)
    trunk = list(model.children())
    model.COND_DNET, model.UNCOND_DNET = nn.Module(), nn.Module()
    model.COND_DNET.jointConv = narrow(8 * base + sentence, 8 * base)
    for head in (model.COND_DNET, model.UNCOND_DNET):
        head.outlogits = nn.Sequential(nn.Conv2d(8 * base, 1, 4, 4), nn.Sigmoid())

    def judge(images, text=None):
        x = images
        for block in trunk:
            x = block(x)
        if text is None:
            return model.UNCOND_DNET.outlogits(x).flatten()
        joint = torch.cat((x, text[:, :, None, None].expand(-1, -1, 4, 4)), 1)
        return model.COND_DNET.outlogits(model.COND_DNET.jointConv(joint)).flatten()

    return model, judge


def shaken(model):
    """Statistics and scales of batch norms away from 0 and 1."""
    for norm in (m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))):
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.bias, 0, 0.2)
        nn.init.normal_(norm.running_mean, 0, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.double()


def inputs(batch=3, words=5):
    torch.manual_seed(1)
    mask = torch.arange(words) >= torch.tensor([5, 2, 3])[:, None]
    sizes = ((NOISE,), (WORDS,), (WORDS, words), (CONDITION,))
    noise, sentence, texts, eps = (torch.randn(batch, *size, dtype=torch.float64) for size in sizes)
    return noise, sentence, texts, mask, eps


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("mask_mode", ["paper", "official"])
def test_generator_generates_what_the_formulas_say(mask_mode, training):
    torch.manual_seed(0)
    plain = shaken(Plain())
    model = compat.import_generator(plain.state_dict(), mask_mode=mask_mode)
    assert isinstance(model, AttnGenerator)
    assert model.config.base_channels == WIDTH
    plain.train(training)
    model.train(training)
    noise, sentence, words, mask, eps = inputs()
    expected, maps = plain(noise, sentence, words, mask, eps, official=mask_mode == "official")
    output = model(noise, sentence, words, mask, eps=eps, return_attention=True)
    for one, other in zip([*output.images, *output.attention], [*expected, *maps], strict=True):
        assert (one - other).abs().max() <= 1e-10 * other.abs().max()
    assert output.response_gates == []
    torch.stack([image.square().sum() for image in output.images]).sum().backward()
    torch.stack([image.square().sum() for image in expected]).sum().backward()
    one, other = model.stages[0].memory.context_weight.grad, plain.h_net2.att.conv_context.weight.grad[..., 0, 0]
    assert (one - other).abs().max() <= 1e-9 * other.abs().max()


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("side", [64, 128, 256])
def test_discriminator_judges_as_the_formulas_say(side, training):
    torch.manual_seed(0)
    plain, judge = plain_discriminator(side)
    model = compat.import_discriminator(shaken(plain).state_dict())
    assert (model.config.image_size, model.config.base_channels, model.config.sentence_channels) == (side, 2, WORDS)
    plain.train(training)
    model.train(training)
    images = torch.rand(3, 3, side, side, dtype=torch.float64) * 2 - 1
    text = torch.randn(3, WORDS, dtype=torch.float64)
    for condition in (None, text):
        assert torch.allclose(model(images, condition).sigmoid(), judge(images, condition), rtol=1e-10, atol=0)


@pytest.mark.parametrize("counters", [True, False], ids=["counters", "before 0.4.1"])
def test_checkpoints_keep_names_and_bits(counters):
    discriminators = [plain_discriminator(side)[0] for side in (64, 128, 256)]
    for plain, read, write in [
        (Plain(residuals=3), compat.import_generator, compat.export_generator),
        *((each, compat.import_discriminator, compat.export_discriminator) for each in discriminators),
    ]:
        state = {k: v for k, v in shaken(plain).state_dict().items() if counters or not k.endswith("tracked")}
        again = write(read(state), batch_counters=counters)
        assert again.keys() == state.keys()
        assert all(torch.equal(again[key], state[key]) and again[key].dtype == state[key].dtype for key in state)


def test_saved_baseline_loads_as_itself_and_as_a_generator(tmp_path):
    model = AttnGenerator(GeneratorConfig(base_channels=2, word_channels=4, image_sizes=(64, 128)))
    assert model.config.refinement == "attention"
    model.save_pretrained(tmp_path)
    for cls in (AttnGenerator, Generator):
        again = cls.from_pretrained(tmp_path)
        assert again.config == model.config
        for key, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key


def test_default_widths_are_attngans():
    assert AttnGenerator().config.base_channels == 32


@pytest.mark.parametrize(
    ("preset", "numbers"), [("attngan-birds", (32, 64, 2, 20, 5)), ("attngan-coco", (48, 96, 3, 14, 50))]
)
def test_presets_have_attngans_numbers(preset, numbers):
    config = build_config(TrainConfig, preset=preset)
    generator = config.generator
    assert generator.refinement == "attention"
    found = (generator.base_channels, config.discriminator_channels, generator.residual_blocks)
    assert (*found, config.loop.batch_size, config.step.damsm_weight) == numbers
    assert config.discriminator(64).batch_norm


def test_what_the_authors_do_not_have_is_refused():
    small = {"base_channels": 2, "word_channels": 4, "image_sizes": (64, 128)}
    for change in ({"writing_gate": False}, {"response_gate": False}, {"text": "words"}):
        with pytest.raises(CheckpointError, match="the authors have no such generator"):
            compat.export_generator(Generator(GeneratorConfig(**small, **change)))
    with pytest.raises(ValueError, match="batch_norm goes with spectral_norm='none' only, got 'paper'"):
        DiscriminatorConfig(image_size=64, batch_norm=True)
