"""The authors' real code from a checkout of DM-GAN or AttnGAN (``--authors PATH``), as it stands; none of it is copied
here.

It is Python 2.7 / PyTorch 0.4 code. What today's versions lack is put in place while it is imported: ``easydict``,
``torch.optim.optimizer.required``, Inception's weights, which it would download (random ones; time is the same), and
``.item()`` where AttnGAN's losses log ``.data[0]``, as DM-GAN's do.
The mask of pairs of one class is left out: it is a byte mask, which PyTorch takes no more, of B² bytes.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import inception_v3

from dmgan_fast.errors import InputError
from dmgan_fast.modules import GeneratorConfig
from dmgan_fast.training import Batch, StepConfig

MODULES = ("model", "spectral", "GlobalAttention", "miscc", "miscc.config", "miscc.losses")


# A dict whose keys are attributes.
_EasyDict = type("EasyDict", (dict,), {"__getattr__": dict.__getitem__, "__setattr__": dict.__setitem__})


@contextmanager
def _shims(code: Path) -> Iterator[None]:
    from torch.optim import optimizer
    from torch.utils import model_zoo

    easydict = types.ModuleType("easydict")
    easydict.EasyDict = _EasyDict  # type: ignore[attr-defined]
    before = {name: sys.modules.pop(name, None) for name in ("easydict", *MODULES)}
    load_url, required = model_zoo.load_url, getattr(optimizer, "required", None)
    sys.modules["easydict"] = easydict
    sys.path.insert(0, str(code))
    weights = inception_v3(weights=None, init_weights=False, transform_input=False).state_dict()
    model_zoo.load_url = lambda url, **options: weights
    models.inception_v3 = partial(inception_v3, init_weights=False)  # initialised for half a minute, then overwritten
    optimizer.required = required or object()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        sys.path.remove(str(code))
        model_zoo.load_url, models.inception_v3 = load_url, inception_v3
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _log_by_item(losses: types.ModuleType) -> None:
    """Let losses that log ``x.data[0]`` log ``x.item()``."""
    file = Path(str(losses.__file__))
    source = file.read_text()
    if ".data[0]" in source:
        code = compile(source.replace(".data[0]", ".item()"), str(file), "exec")
        exec(code, vars(losses))  # noqa: S102  (the checkout that the user has given)


class CheckoutStep:
    """One iteration of the authors' trainer on their own networks and losses, with random weights.

    Args:
        prepare: called with their Python modules ``model`` and ``miscc.losses`` before networks are built.

    Raises:
        InputError: if ``path`` holds no checkout of DM-GAN, or for sizes that their code does not know.
    """

    def __init__(
        self,
        path: Path,
        generator: GeneratorConfig,
        channels: int,
        config: StepConfig,
        prepare: Callable[[list[types.ModuleType]], Any] = lambda modules: None,
    ) -> None:
        code = path / "code"
        if not (code / "model.py").is_file():
            raise InputError(f"--authors: {path} is no checkout of DM-GAN: it has no code/model.py")
        if generator.image_sizes != (64, 128, 256):
            raise InputError(f"--authors: their networks generate 64, 128, 256, not {generator.image_sizes}")
        self.has_memory = (code / "spectral.py").is_file()  # else it is AttnGAN
        with _shims(code):
            from miscc.config import cfg  # type: ignore[import-not-found]

            cfg.CUDA = False
            cfg.TRAIN.FLAG = True
            cfg.TRAIN.SMOOTH.LAMBDA = config.damsm_weight
            cfg.TRAIN.SMOOTH.GAMMA1, cfg.TRAIN.SMOOTH.GAMMA2 = config.gamma1, config.gamma2
            cfg.TRAIN.SMOOTH.GAMMA3 = config.gamma3
            cfg.GAN.GF_DIM, cfg.GAN.DF_DIM = generator.base_channels, channels
            cfg.GAN.R_NUM, cfg.GAN.Z_DIM = generator.residual_blocks, generator.noise_channels
            cfg.GAN.CONDITION_DIM, cfg.TEXT.EMBEDDING_DIM = generator.condition_channels, generator.word_channels
            import model  # type: ignore[import-not-found]
            from miscc import losses  # type: ignore[import-not-found]

            _log_by_item(losses)
            prepare([model, losses])
            self.losses = losses
            self.generator: nn.Module = model.G_NET()
            self.discriminators = [model.D_NET64(), model.D_NET128(), model.D_NET256()]
            self.encoder: nn.Module = model.CNN_ENCODER(generator.word_channels)
        self.encoder.eval().requires_grad_(False)
        rates = (config.generator_learning_rate, config.discriminator_learning_rate)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=rates[0], betas=config.betas)
        self.optimizers = [
            torch.optim.Adam(d.parameters(), lr=rates[1], betas=config.betas) for d in self.discriminators
        ]
        self.average = [p.detach().clone() for p in self.generator.parameters()]

    def __call__(self, batch: Batch, *, noise: Tensor, eps: Tensor) -> list[Tensor]:
        """The images generated, detached; their code generates ``eps`` itself."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nn.Softmax() without dim, F.sigmoid
            return [fake.detach() for fake in self._step(batch, noise)]

    def draw(self, batch: Batch, noise: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Images, attention, mu and logvar; AttnGAN's generator is not told the lengths."""
        lengths = (batch.lengths,) if self.has_memory else ()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.generator(noise, batch.sentence, batch.words, batch.padding_mask, *lengths)  # type: ignore[no-any-return]

    def _step(self, batch: Batch, noise: Tensor) -> list[Tensor]:
        size, lengths = len(batch.sentence), batch.lengths
        ones, zeros = batch.sentence.new_ones(size), batch.sentence.new_zeros(size)
        fakes, _, mu, logvar = self.draw(batch, noise)
        steps = zip(self.discriminators, self.optimizers, batch.images, fakes, strict=True)
        for discriminator, optimizer, real, fake in steps:
            discriminator.zero_grad(set_to_none=False)
            found = self.losses.discriminator_loss(discriminator, real, fake, batch.sentence, ones, zeros)
            (found[0] if self.has_memory else found).backward()  # with what DM-GAN's logs
            optimizer.step()
        self.generator.zero_grad(set_to_none=False)
        matches = torch.arange(size)
        total, _ = self.losses.generator_loss(
            self.discriminators, self.encoder, fakes, ones, batch.words, batch.sentence, matches, lengths, None
        )
        total += self.losses.KL_loss(mu, logvar)
        total.backward()
        self.optimizer.step()
        for live, average in zip(self.generator.parameters(), self.average, strict=True):
            average.mul_(0.999).add_(live.data, alpha=0.001)
        return list(fakes)
