"""Stand-ins for others' code: the structures of AttnGAN, DM-GAN, StackGAN-v2 and DF-GAN in our own words, narrow.

They are plain PyTorch as people write it, with classes of their own for GLU, residual block, spectral norm and memory.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

WORDS, SENTENCE, NOISE = 10, 10, 6
cfg = SimpleNamespace(TRAIN=SimpleNamespace(SMOOTH=SimpleNamespace(GAMMA1=4.0, GAMMA2=5.0, GAMMA3=10.0)))


class Gate(nn.Module):
    """GLU under a name of its own."""

    def forward(self, x):
        half = x.shape[1] // 2
        return x[:, :half] * torch.sigmoid(x[:, half:])


def conv3x3(i, o, bias=False):
    return nn.Conv2d(i, o, 3, 1, 1, bias=bias)


def up_block(i, o, glu=Gate):
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), conv3x3(i, 2 * o), nn.BatchNorm2d(2 * o), glu())


def keep_block(i, o):
    return nn.Sequential(conv3x3(i, 2 * o), nn.BatchNorm2d(2 * o), Gate())


class Res(nn.Module):
    def __init__(self, c):
        super().__init__()
        norms = nn.BatchNorm2d(2 * c), nn.BatchNorm2d(c)
        self.body = nn.Sequential(conv3x3(c, 2 * c), norms[0], Gate(), conv3x3(c, c), norms[1])

    def forward(self, x):
        y = self.body(x)
        y += x
        return y


class First(nn.Module):
    """4² to 16²."""

    def __init__(self, c, inputs):
        super().__init__()
        self.c = c
        self.project = nn.Sequential(nn.Linear(inputs, c * 32, bias=False), nn.BatchNorm1d(c * 32), Gate())
        self.up1, self.up2 = up_block(c, c // 2), up_block(c // 2, c // 4)

    def forward(self, x):
        return self.up2(self.up1(self.project(x).view(-1, self.c, 4, 4)))


def attend(h, key, value, mask):
    """Pixels read words; the mask is repeated as the authors repeat it."""
    batch, channels, height, width = h.shape
    pixels, count = height * width, key.shape[2]
    scores = torch.bmm(h.view(batch, channels, pixels).transpose(1, 2).contiguous(), key).view(batch * pixels, count)
    if mask is not None:
        scores.data.masked_fill_(mask.repeat(pixels, 1), -float("inf"))
    weights = torch.softmax(scores, 1).view(batch, pixels, count).transpose(1, 2).contiguous()
    return torch.bmm(value, weights).view(h.shape), weights.view(batch, count, height, width)


class Reading(nn.Module):
    """DM-GAN's read."""

    def __init__(self):
        super().__init__()
        self.mask = None

    def applyMask(self, mask):
        self.mask = mask

    def forward(self, pixels, key, value):
        return attend(pixels, key, value, self.mask)


class Attention(nn.Module):
    """AttnGAN's."""

    def __init__(self, c, words):
        super().__init__()
        self.context = nn.Conv2d(words, c, 1, bias=False)
        self.sm = nn.Softmax(dim=1)
        self.mask = None

    def applyMask(self, mask):
        self.mask = mask

    def forward(self, pixels, words):
        context = self.context(words.unsqueeze(3)).squeeze(3)
        return attend(pixels, context, context, self.mask)


class Memory(nn.Module):
    """A refinement of DM-GAN. ``swapped``: other names of its parts in another order."""

    def __init__(self, c, words, side, residuals=2):
        super().__init__()
        self.pool = nn.AvgPool2d(side)
        self.ga, self.gb = nn.Linear(words, 1, bias=False), nn.Linear(c, 1, bias=False)
        self.from_image = nn.Sequential(nn.Conv1d(c, 2 * c, 1), nn.ReLU())
        self.from_words = nn.Sequential(nn.Conv1d(words, 2 * c, 1), nn.ReLU())
        self.k = nn.Sequential(nn.Conv1d(2 * c, c, 1), nn.ReLU())
        self.v = nn.Sequential(nn.Conv1d(2 * c, c, 1), nn.ReLU())
        self.reading = Reading()
        self.respond = nn.Sequential(nn.Conv2d(2 * c, 1, 1), nn.Sigmoid())
        self.series = nn.Sequential(*(Res(2 * c) for _ in range(residuals)))
        self.up = up_block(2 * c, c)

    def forward(self, h_code, c_code, word_embs, mask, cap_lens):
        mean = self.pool(h_code).detach().squeeze(3)  # [B, C, 1]
        gate = torch.sigmoid(self.ga(word_embs.transpose(1, 2)) + self.gb(mean.transpose(1, 2))).transpose(1, 2)
        memory = self.from_words(word_embs) * gate + self.from_image(mean) * (1 - gate)
        self.reading.applyMask(mask)
        found, maps = self.reading(h_code, self.k(memory), self.v(memory))
        response = self.respond(torch.cat((h_code, found), 1))
        h = h_code * (1 - response) + response * found
        return self.up(self.series(torch.cat((h, h), 1))), maps


class Attending(nn.Module):
    """A refinement of AttnGAN."""

    def __init__(self, c, words, residuals=2):
        super().__init__()
        self.att = Attention(c, words)
        self.series = nn.Sequential(*(Res(2 * c) for _ in range(residuals)))
        self.up = up_block(2 * c, c)

    def forward(self, h_code, c_code, word_embs, mask):
        self.att.applyMask(mask)
        found, maps = self.att(h_code, word_embs)
        return self.up(self.series(torch.cat((h_code, found), 1))), maps


class Head(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.img = nn.Sequential(conv3x3(c, 3), nn.Tanh())

    def forward(self, h):
        return self.img(h)


class DMGAN(nn.Module):
    """16², 32² and 64²."""

    def __init__(self, c=4):
        super().__init__()
        self.first = First(4 * c, SENTENCE + NOISE)
        self.second, self.third = Memory(c, WORDS, 16), Memory(c, WORDS, 32)
        self.heads = nn.ModuleList(Head(c) for _ in range(3))

    def forward(self, noise, sentence, words, mask):
        h = self.first(torch.cat((sentence, noise), 1))
        images, maps = [self.heads[0](h)], []
        for stage, head in ((self.second, self.heads[1]), (self.third, self.heads[2])):
            h, attention = stage(h, sentence, words, mask, None)
            images.append(head(h))
            maps.append(attention)
        return images, maps


class AttnGAN(nn.Module):
    def __init__(self, c=4):
        super().__init__()
        self.first = First(4 * c, SENTENCE + NOISE)
        self.second = Attending(c, WORDS)
        self.heads = nn.ModuleList(Head(c) for _ in range(2))

    def forward(self, noise, sentence, words, mask):
        h = self.first(torch.cat((sentence, noise), 1))
        refined, maps = self.second(h, sentence, words, mask)
        return [self.heads[0](h), self.heads[1](refined)], [maps]


class StackGAN(nn.Module):
    """StackGAN-v2: the sentence is put beside every pixel, no words are read."""

    def __init__(self, c=4):
        super().__init__()
        self.first = First(4 * c, SENTENCE + NOISE)
        self.joint, self.res, self.up = keep_block(c + SENTENCE, c), nn.Sequential(Res(c), Res(c)), up_block(c, c // 2)
        self.heads = nn.ModuleList((Head(c), Head(c // 2)))

    def forward(self, noise, sentence, words, mask):
        h = self.first(torch.cat((sentence, noise), 1))
        spread = sentence[:, :, None, None].expand(-1, -1, *h.shape[2:])
        refined = self.up(self.res(self.joint(torch.cat((h, spread), 1))))
        return [self.heads[0](h), self.heads[1](refined)], []


class Affine(nn.Module):
    """DF-GAN's: scale and shift of channels by the sentence."""

    def __init__(self, c):
        super().__init__()
        self.scale, self.shift = nn.Linear(SENTENCE, c), nn.Linear(SENTENCE, c)

    def forward(self, x, sentence):
        return self.scale(sentence)[:, :, None, None] * x + self.shift(sentence)[:, :, None, None]


class Deep(nn.Module):
    """DF-GAN's block: affine, leaky ReLU, convolution, and a skip that the network weighs."""

    def __init__(self, i, o):
        super().__init__()
        self.a1, self.a2, self.c1, self.c2 = Affine(i), Affine(o), conv3x3(i, o, True), conv3x3(o, o, True)
        self.skip, self.gamma = nn.Conv2d(i, o, 1), nn.Parameter(torch.full((1,), 0.3))

    def forward(self, x, sentence):
        y = self.c1(F.leaky_relu(self.a1(x, sentence), 0.2))
        return self.skip(x) + self.gamma * self.c2(F.leaky_relu(self.a2(y, sentence), 0.2))


class DFGAN(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        self.fc = nn.Linear(NOISE, c * 16)
        self.blocks = nn.ModuleList((Deep(c, c), Deep(c, c // 2)))
        self.head = nn.Sequential(nn.LeakyReLU(0.2), conv3x3(c // 2, 3, True), nn.Tanh())

    def forward(self, noise, sentence, words, mask):
        x = self.fc(noise).view(len(noise), -1, 4, 4)
        for block in self.blocks:
            x = F.interpolate(block(x, sentence), scale_factor=2)
        return [self.head(x)], []


class Normed(nn.Module):
    """Spectral norm as the authors wrap it: an iteration on every forward, sigma over W with a graph of its own."""

    def __init__(self, module, name="weight", power_iterations=1):
        super().__init__()
        self.module, self.name, self.power_iterations = module, name, power_iterations
        weight = module._parameters.pop(name)
        height = len(weight)
        for part, size in (("u", height), ("v", weight.numel() // height)):
            vector = F.normalize(torch.randn(size, dtype=weight.dtype), dim=0)
            module.register_parameter(f"{name}_{part}", nn.Parameter(vector, requires_grad=False))
        module.register_parameter(f"{name}_bar", nn.Parameter(weight.data))

    def forward(self, *inputs):
        u, v, w = (getattr(self.module, f"{self.name}_{part}") for part in ("u", "v", "bar"))
        matrix = w.view(len(w), -1)
        for _ in range(self.power_iterations):
            v.data = matrix.data.t().mv(u.data)
            v.data = v.data / (v.data.norm() + 1e-12)
            u.data = matrix.data.mv(v.data)
            u.data = u.data / (u.data.norm() + 1e-12)
        sigma = u.dot(matrix.mv(v))
        setattr(self.module, self.name, w / sigma.expand_as(w))
        return self.module.forward(*inputs)


class Judge(nn.Module):
    """A discriminator of 16² with spectral norms, and a conditional head."""

    def __init__(self, c=4):
        super().__init__()
        leak = nn.LeakyReLU(0.2, inplace=True)
        down = [nn.Conv2d(i, o, 4, 2, 1) for i, o in ((3, c), (c, 2 * c))]
        self.trunk = nn.Sequential(Normed(down[0]), leak, Normed(down[1]), leak)
        self.joint = nn.Sequential(Normed(conv3x3(2 * c + SENTENCE, 2 * c, True)), leak)
        self.logit = nn.Sequential(nn.Conv2d(2 * c, 1, 4, 4), nn.Sigmoid())

    def forward(self, images, sentence):
        x = self.trunk(images)
        spread = sentence[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.logit(self.joint(torch.cat((x, spread), 1))).view(-1), self.logit(x).view(-1)


class ConvNormReLU(nn.Module):
    """As torchvision's Inception is made of."""

    def __init__(self, i, o):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(i, o, 3, 2, bias=False), nn.BatchNorm2d(o, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Encoder(nn.Module):
    def __init__(self, c=4):
        super().__init__()
        self.one, self.two, self.features = ConvNormReLU(3, c), ConvNormReLU(c, 2 * c), nn.Conv2d(2 * c, WORDS, 1)
        self.code = nn.Linear(2 * c, WORDS)

    def forward(self, images):
        x = self.two(self.one(images))
        return self.features(x), self.code(x.mean((2, 3)))


def cosine(a, b):
    return (a * b).sum(1) / (a.norm(2, 1) * b.norm(2, 1)).clamp(min=1e-8)


def words_loss(img_features, words_emb, labels, cap_lens, class_ids, batch_size):
    """One caption after another, each against every image."""
    smooth, columns, maps = cfg.TRAIN.SMOOTH, [], []
    context = img_features.view(batch_size, img_features.shape[1], -1)
    for k, length in enumerate(cap_lens.tolist()):
        word = words_emb[k, :, :length].repeat(batch_size, 1, 1)
        scores = torch.softmax(torch.bmm(context.transpose(1, 2), word), 2)
        attention = torch.softmax(scores.transpose(1, 2) * smooth.GAMMA1, 2)
        maps.append(attention[k : k + 1].view(1, length, *img_features.shape[2:]))
        read = torch.bmm(context, attention.transpose(1, 2))
        similar = cosine(word.transpose(1, 2).flatten(0, 1), read.transpose(1, 2).flatten(0, 1))
        columns.append((similar.view(batch_size, length) * smooth.GAMMA2).exp().sum(1, keepdim=True).log())
    scores = torch.cat(columns, 1) * smooth.GAMMA3
    if class_ids is not None:
        same = torch.from_numpy((class_ids[:, None] == class_ids) & ~np.eye(batch_size, dtype=bool))
        scores = scores.masked_fill(same, -float("inf"))
    if labels is None:
        return None, None, maps
    return F.cross_entropy(scores, labels), F.cross_entropy(scores.t(), labels), maps
