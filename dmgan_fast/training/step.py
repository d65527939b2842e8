"""One training step of DM-GAN: each discriminator in turn, then the generator, then the average of its weights.

The losses meet the generator only in its images, so d loss / d image is computed for one discriminator at a time
and its graph freed before the next; the generator's backward starts from those gradients. The sum is the same, and the
peak is the largest discriminator's, not all of them with the generator's. On a GPU discriminators judge at once.

Of several processes each holds some rows of the batch (``parallel.Share``) and takes the same step: losses are sums
over rows divided by the whole batch's size, batch norms and matching losses see the whole batch, gradients are added up
before the optimisers. Processes may also hold images together, each some rows of them (``parallel.RowSplit``), or
weights, each a part of them (``parallel.ShardedModel``): a model is then whole only in the phases that run it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.profiler import record_function

from dmgan_fast.devices import planned
from dmgan_fast.errors import InputError
from dmgan_fast.losses import conditioning_loss, generator_adversarial_loss
from dmgan_fast.losses.adversarial import (
    Targets,
    discriminator_loss_of,
    image_logits,
    joint_discriminator_loss,
    joint_logits,
    losses_of,
)
from dmgan_fast.losses.damsm import damsm_losses
from dmgan_fast.modules import Discriminator, Generator, ImageEncoder, fold
from dmgan_fast.modules.blocks import share_batch_statistics
from dmgan_fast.modules.discriminator import spread
from dmgan_fast.modules.generator import GeneratorOutput
from dmgan_fast.modules.rematerialise import rematerialise
from dmgan_fast.modules.spectral_norm import hold_weights, lay_side_by_side
from dmgan_fast.ops.running import updated_together
from dmgan_fast.parallel import GradientSum, Processes, ShardedModel, Share
from dmgan_fast.parallel.shards import in_parts
from dmgan_fast.runs.config import StepConfig, refuse_to_shard
from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.average import WeightAverage
from dmgan_fast.training.batch import Batch
from dmgan_fast.training.graph import StepGraphs
from dmgan_fast.training.layout import judging, lay_out, layout_of, widened, with_rounded_weights
from dmgan_fast.training.offload import offloaded
from dmgan_fast.training.optimisers import adam, apex_adam, take_step

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
MATCHING = ("words", "sentence")  # losses that every process has of the whole batch

_log = logging.getLogger("dmgan_fast")


class Judgement(NamedTuple):
    """Losses of the discriminators and of the images, and the gradients of these by the images of each resolution."""

    discriminators: dict[str, Tensor]
    pictures: dict[str, Tensor]
    gradients: list[Tensor]


class TrainStep:
    """Owns the optimisers and the average of a GAN, and takes one step at a time.

    Order of operations as in the authors' trainer: generate; for each resolution update its discriminator on the real
    and the detached generated images; update the generator through the updated discriminators; average its weights.
    Weights of the discriminators get no gradient in the generator's part. Gradients are freed as soon as they are
    used. No host sync.

    Args:
        generator: in training mode.
        discriminators: one for each of the generator's resolutions, smallest first.
        image_encoder: DAMSM encoder, called as ``image_encoder(images) -> (regions, code)``; None only with
            ``damsm_weight = 0``. Of an ``ImageEncoder`` a folded copy is used, any other module is frozen.
        config: learning rates, weights of the losses, average, precision, memory.
        processes: who takes the step together, each with some rows of the batch; by default all that have joined
            PyTorch's default process group. The first step begins with the weights of process 0; batch norms of the
            models share their statistics from here on. With ``Processes.of(shard=True)`` the models and their average
            are sharded by the first step (``shard``), after which their weights are to be had within ``whole``.

    Raises:
        InputError: if the discriminators do not match the generator's resolutions, the image encoder is missing, or
            settings do not go together.
    """

    def __init__(
        self,
        generator: Generator,
        discriminators: Sequence[Discriminator],
        image_encoder: nn.Module | None,
        config: StepConfig | None = None,
        *,
        processes: Processes | None = None,
    ) -> None:
        config, self.processes = config or StepConfig(), processes or Processes.of()
        _check_models(generator, discriminators, image_encoder, config)
        self.device_type = next(generator.parameters()).device.type
        if self.processes.group is not None:
            _check_shared(generator, config, self.processes.shard, self.device_type)
        self.config = config
        # What is gathered lies as PyTorch makes it.
        self.layout = None if self.processes.shard else layout_of(self.device_type, config.precision in AUTOCAST)
        lay_out((generator, *discriminators), self.layout)
        if self._on_gpu():
            lay_side_by_side(*discriminators)
        self.generator = generator
        self.discriminators: Sequence[Discriminator] = discriminators
        if isinstance(image_encoder, ImageEncoder):
            image_encoder = fold(image_encoder)
        self.image_encoder = image_encoder.eval().requires_grad_(False) if image_encoder is not None else None
        self._judge = self._judging_encoder()
        self._targets: dict[Any, Targets] = {}  # of a batch's logits; kept, as a CUDA graph reads them
        self._loss_weights: dict[Any, Tensor] = {}  # by type and names of losses; kept likewise
        weight = next(generator.parameters())
        self._ones = {weight.dtype: weight.new_ones(())}  # from which backward starts; kept likewise
        if config.cuda_graph and self.device_type != "cuda":
            raise InputError(f"cuda_graph needs a GPU: the generator is on {self.device_type}")
        self._graphs = StepGraphs(self._step_on) if config.cuda_graph else None
        self.average = WeightAverage(generator, config.average_decay, buffers=config.average_buffers)
        self._make_optimizers()
        scale = config.precision == "fp16"
        self.generator_scaler = GradScaler(self.device_type, enabled=scale)
        self.discriminator_scalers = [GradScaler(self.device_type, enabled=scale) for _ in discriminators]
        self.gradient_sums: list[GradientSum] | list[ShardedModel] = []  # of discriminators and, last, the generator
        self._shards: dict[nn.Module, ShardedModel] = {}
        self._aligned = False  # whether all processes have the weights of the first
        if self.processes.group is not None:
            self._share_with(self.processes.group)
        self.set_memory(config.memory)
        if (parts := config.accumulate) > 1:
            _log.info("the generator makes each batch in %d parts, each normalised by its own statistics", parts)

    def _make_optimizers(self) -> None:
        config = self.config
        self.generator_optimizer = adam(self.generator, config.generator_learning_rate, config)
        self.discriminator_optimizers = [
            adam(each, config.discriminator_learning_rate, config) for each in self.discriminators
        ]

    def _share_with(self, group: ProcessGroup) -> None:
        models: list[Discriminator | Generator] = [*self.discriminators, self.generator]
        for model in models:
            share_batch_statistics(model, group)
            if self.processes.rows is not None:
                model.split_rows(self.processes.rows, group)
        if not self.processes.shard:
            self.gradient_sums = [GradientSum(model.parameters(), group) for model in models]

    def shard(self) -> None:
        """Where ``processes.shard`` asks for it, divide the models, their average and new optimisers among processes.

        All processes call it together, before the first step or ``load_state_dict``, which call it too. What is loaded
        into the models before it is process 0's.
        """
        group = self.processes.group
        if group is None or not self.processes.shard or self._shards:
            return
        self._align()
        models = (*self.discriminators, self.generator)
        self._shards = {model: ShardedModel(model, group) for model in (*models, self.average.module)}
        self.gradient_sums = [self._shards[model] for model in models]
        self._make_optimizers()

    def whole(self, model: nn.Module) -> AbstractContextManager[None]:
        """Within, the weights of the generator, a discriminator or ``average.module`` are whole on every process.

        They always are, unless ``processes.shard``: then all processes enter together.
        """
        return self._shards[model].whole() if model in self._shards else nullcontext()

    def _align(self) -> None:
        if not self._aligned:
            self.processes.align((self.generator, *self.discriminators, self.average))
            self._aligned = True

    def set_memory(self, policy: MemoryPolicy) -> None:
        """Take later steps under another memory policy. They learn the same.

        Raises:
            InputError: if the policy does not go with the models; nothing is changed.
        """
        if policy.micro_batch is not None and any(d.config.needs_whole_batches for d in self.discriminators):
            raise InputError(
                "memory.micro_batch does not go with spectral_norm='official', which iterates on every forward, nor "
                "with batch_norm, which normalises by the whole batch; use spectral_norm='paper'"
            )
        if policy.together and any(d.config.needs_whole_batches for d in self.discriminators):
            raise InputError(
                "memory.together does not go with spectral_norm='official', which iterates on every forward, nor with "
                "batch_norm, which normalises real and generated images apart; use spectral_norm='paper'"
            )
        levels = policy.levels(len(self.discriminators))
        if self.processes.rows is not None and "tile" in levels:
            raise InputError(
                "memory.checkpointing='tile' does not go with parallel.rows, which divides an image among processes "
                "instead; use 'block' or 'stage', or more processes for an image"
            )
        if policy.offload and self.device_type == "cpu":
            raise InputError("memory.offload needs a GPU: on a CPU there is no other memory to offload to")
        if policy.offload and self._graphs is not None:
            raise InputError("memory.offload waits for the device, which a step with cuda_graph can't")
        average = self.average.module
        assert isinstance(average, Generator)
        for generator in (self.generator, average):
            generator.set_checkpointing(levels, tile_rows=policy.tile_rows)
        self.config = replace(self.config, memory=policy)
        if self._graphs is not None:
            self._graphs.clear()

    def __call__(self, batch: Batch, *, noise: Tensor | None = None, eps: Tensor | None = None) -> dict[str, Tensor]:
        """Take one step and return its losses as detached scalar tensors.

        With ``precision="fp16"`` also ``skipped_generator`` and ``skipped_discriminator_<resolution>``: 1 where
        gradients overflowed and the weights were left alone.

        Args:
            batch: images and encoded captions; of several processes, this one's rows of them, and where they hold
                images together, its rows of each image (``RowSplit.own``). Losses are the whole batch's.
            noise: ``[B, Z]``; None: from PyTorch's global generator, of several processes the first one's.
            eps: ``[B, C]`` of the conditioning augmentation; likewise.

        Raises:
            InputError: if the batch does not fit the models.
            ProcessError: if another process is gone, or refused its part.
        """
        if self.processes.group is not None:
            return self._shared_step(batch, noise, eps)
        self._check(batch)
        if self._graphs is None:
            return self._step(batch, noise, eps)
        return self._graphs(vars(batch) | {"noise": noise, "eps": eps})

    def _step_on(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        inputs = dict(inputs)
        noise, eps = inputs.pop("noise"), inputs.pop("eps")
        return self._step(Batch(**inputs), noise, eps)

    def _shared_step(self, batch: Batch, noise: Tensor | None, eps: Tensor | None) -> dict[str, Tensor]:
        with self.processes.agreeing(quick=True):
            self._check(batch)
        given = {"noise": noise, "eps": eps, "class_ids": batch.class_ids}
        alike = {f"that a batch has {name}": value is not None for name, value in given.items()}
        share = self.processes.share(len(batch.sentence), **alike, **{"the words T of a batch": batch.words.shape[2]})
        assert share is not None
        if min(share.sizes) < self.config.accumulate:
            raise InputError(
                f"TrainStep: accumulate={self.config.accumulate} needs as many images on each process, which have "
                f"{list(share.sizes)}"
            )
        self.shard()
        self._align()
        return self._step(batch, noise, eps, share)

    def _step(
        self, batch: Batch, noise: Tensor | None, eps: Tensor | None, share: Share | None = None
    ) -> dict[str, Tensor]:
        parts, pictures = self.draw(batch, noise, eps, share)
        found = self.judge(batch, pictures, share)
        losses = found.discriminators | found.pictures | self.learn_from(parts, found.gradients, share)
        if share is not None:
            alike = {name for name in losses if name in MATCHING or name.startswith("skipped")}
            losses |= share.total_of({name: loss for name, loss in losses.items() if name not in alike})
        losses["generator"] = self._total({name: losses[name] for name in (*found.pictures, "conditioning")})
        self.average.update(self.generator)
        return losses

    @record_function("draw")
    def draw(
        self, batch: Batch, noise: Tensor | None = None, eps: Tensor | None = None, share: Share | None = None
    ) -> tuple[Iterator[GeneratorOutput], list[Tensor]]:
        """Generate the batch's images.

        Returns:
            ``accumulate`` parts with their graphs, for ``learn_from``, and the detached images of all parts, for each
            resolution. With ``accumulate > 1`` no graph is kept; each part is recomputed in backward.
        """
        size, config = len(batch.sentence), self.generator.config
        if noise is None:
            noise = _random(size, config.noise_channels, batch.sentence, share)
        if eps is None:
            eps = _random(size, config.condition_channels, noise, share)

        def draw(noise: Tensor, sentence: Tensor, words: Tensor, mask: Tensor, eps: Tensor) -> GeneratorOutput:
            inputs = (noise, sentence, words, mask)
            with updated_together():
                if self._rounds_together(share):
                    return with_rounded_weights(self.generator, *inputs, eps=eps)
                output: GeneratorOutput = self.generator(*inputs, eps=eps)
                return output

        inputs = (noise, batch.sentence, batch.words, batch.padding_mask, eps)
        keep = offloaded() if self.config.memory.offload else nullcontext()
        with self._autocast(), keep, self.whole(self.generator):
            if self.config.accumulate == 1:
                parts = [draw(*inputs)]
            else:
                rows = self._rows_of_parts(size, share)
                parts = [rematerialise(draw, *(x[part] for x in inputs), modules=(self.generator,)) for part in rows]
        sides = [[image.detach() for image in side] for side in zip(*(part.images for part in parts), strict=True)]
        return _handed_over(parts), [torch.cat(side) if len(side) > 1 else side[0] for side in sides]

    def judge(self, batch: Batch, pictures: list[Tensor], share: Share | None = None) -> Judgement:
        """Update the discriminators, then have them and the image encoder judge."""
        losses: dict[str, Tensor] = {}
        following = batch.sentence[1:]  # of each image the next one's sentence; the last of the batch has none
        if share is not None:
            following = share.gather(batch.sentence)[share.rows.start + 1 : share.rows.stop + 1]
        at_once: _AtOnce | None = None
        waiting: list[int] = []
        if self._all_at_once(share):
            with record_function("discriminators"):
                at_once = _AtOnce(self, batch, following)
                losses |= at_once.learn(pictures)
            waiting += range(len(pictures))
        else:  # waiting are those whose gradients are on their way while the next one learns
            for k, discriminator in enumerate(self.discriminators):
                with record_function(f"discriminator_{discriminator.config.image_size}"), self.whole(discriminator):
                    losses |= self._discriminator_gradients(k, batch, pictures[k], following, share)
                    waiting.append(k)
                    if share is None or len(waiting) > 1:
                        losses |= self._discriminator_step(waiting.pop(0))
        for k in waiting:
            losses |= self._discriminator_step(k)
        self._learn(False)
        try:
            if at_once is not None:
                gradients, judged = at_once.image_gradients(pictures)
            else:
                gradients, judged = self._image_gradients(batch, pictures, share)
            if self.image_encoder is not None and self.config.damsm_weight:
                with record_function("damsm"):
                    judged |= self._add_damsm_gradient_of_rows(batch, pictures[-1], gradients[-1], share)
        finally:
            self._learn(True)
        return Judgement(losses, judged, gradients)

    def _all_at_once(self, share: Share | None) -> bool:
        """Whether the losses of all discriminators are found at once: each is differentiated once, by whole batches."""
        apart = share is not None or any(d.config.needs_whole_batches for d in self.discriminators)
        return self._together() and self.config.memory.micro_batch is None and not apart

    def _discriminator_gradients(
        self, k: int, batch: Batch, fake: Tensor, following: Tensor, share: Share | None
    ) -> dict[str, Tensor]:
        """Real and generated images at once or in turn, each graph freed before the next; one power iteration."""
        discriminator, scaler, real = self.discriminators[k], self.discriminator_scalers[k], self._real(batch, k, fake)
        sentence, own = batch.sentence, len(batch.sentence)
        size = own if share is None else share.total
        self.discriminator_optimizers[k].zero_grad(set_to_none=True)

        def learn(loss: Callable[[], Tensor]) -> Tensor:
            with self._autocast():
                value = loss()
            scaled = scaler.scale(_differentiated(value, share))
            scaled.backward(self._one(scaled))
            return value.detach()

        loss_of = partial(discriminator_loss_of, discriminator)
        if discriminator.config.needs_whole_batches:  # in the authors' order
            losses = [learn(partial(loss_of, sentence, size, real=real, fake=fake, wrong_sentence=following))]
        elif self._together():
            targets = self._targets_of(Targets.of, sentence, own, len(following), size)
            joint = partial(joint_discriminator_loss, discriminator, real, fake, sentence, following, targets)
            with self._autocast(), hold_weights(discriminator, once=True):
                losses = [learn(joint)]
        else:
            losses = []
            with hold_weights(discriminator):
                for part in self._micro_batches(own):
                    wrong = following[part]
                    losses.append(learn(partial(loss_of, sentence[part], size, real=real[part], wrong_sentence=wrong)))
                for part in self._micro_batches(own):
                    losses.append(learn(partial(loss_of, sentence[part], size, fake=fake[part])))
        if share is not None:
            self.gradient_sums[k].send()
        return {f"discriminator_{fake.shape[-1]}": _sum(losses)}

    def _real(self, batch: Batch, k: int, fake: Tensor) -> Tensor:
        """The real images of a resolution, laid out as the generated ones."""
        real = batch.images[k]
        return real if self.layout is None else real.to(fake.dtype, memory_format=self.layout)

    def _targets_of(self, make: Callable[..., Targets], like: Tensor, *sizes: int) -> Targets:
        key = make.__name__, *sizes
        if key not in self._targets:
            self._targets[key] = make(*sizes, like)
        return self._targets[key]

    def _discriminator_step(self, k: int) -> dict[str, Tensor]:
        if self.gradient_sums:
            self.gradient_sums[k].finish()
        name = f"discriminator_{self.discriminators[k].config.image_size}"
        return take_step(self.discriminator_optimizers[k], self.discriminator_scalers[k], name)

    def _image_gradients(
        self, batch: Batch, pictures: list[Tensor], share: Share | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """d loss / d image for each resolution, and the losses."""
        sentence = batch.sentence
        gradients, losses = [], {}
        with self._autocast():
            for discriminator, picture in zip(self.discriminators, pictures, strict=True):
                phase = record_function(f"adversarial_{picture.shape[-1]}")
                with phase, self.whole(discriminator), hold_weights(discriminator, once=True):
                    gradient, loss = self._adversarial_gradient(discriminator, picture, sentence, share)
                gradients.append(gradient)
                losses[f"adversarial_{picture.shape[-1]}"] = loss
        return gradients, losses

    def _adversarial_gradient(
        self, discriminator: Discriminator, picture: Tensor, sentence: Tensor, share: Share | None
    ) -> tuple[Tensor, Tensor]:
        """By the images, and the loss; micro-batches write into one tensor, a whole batch's gradient is its own."""
        own = len(picture)
        size = own if share is None else share.total
        whole, judged = self._judges_at_once(own), []
        gradient = torch.empty(0) if whole else torch.empty_like(picture)
        for part in self._micro_batches(own):
            leaf = picture[part].detach().requires_grad_()
            loss = _part_of(generator_adversarial_loss(discriminator, leaf, sentence[part]), leaf, size)
            scaled = self.generator_scaler.scale(_differentiated(loss, share))
            if whole:
                (gradient,) = self._gradient(scaled, leaf)
            else:
                (gradient[part],) = self._gradient(scaled, leaf)
            judged.append(loss.detach())
        return gradient, _sum(judged)

    def _judges_at_once(self, size: int) -> bool:
        """Whether so many images are one micro-batch."""
        return (self.config.memory.micro_batch or size) >= size

    def _add_damsm_gradient_of_rows(
        self, batch: Batch, picture: Tensor, gradient: Tensor, share: Share | None
    ) -> dict[str, Tensor]:
        """The encoder looks at whole images: those that hold one together all give it the same."""
        rows = self.processes.rows
        if rows is None:
            return self._add_damsm_gradient(batch, picture, gradient, share)
        whole = rows.whole(picture)
        of_whole = torch.zeros_like(whole)
        losses = self._add_damsm_gradient(batch, whole, of_whole, share)
        gradient += of_whole[:, :, rows.of(whole.shape[2])]
        return losses

    def _add_damsm_gradient(
        self, batch: Batch, picture: Tensor, gradient: Tensor, share: Share | None
    ) -> dict[str, Tensor]:
        """The matching losses couple all images of a batch, the encoder does not: encode, differentiate the losses by
        the features, then encode again in micro-batches to carry that back to the images."""
        encoder, config = self._judge, self.config
        assert encoder is not None
        whole = self._judges_at_once(len(picture))
        leaf = picture.detach().requires_grad_(whole)
        with self._autocast(), torch.set_grad_enabled(whole):
            encoded = self._encode(leaf)
        features = [each[0] if whole else torch.cat(each) for each in zip(*encoded, strict=True)]
        if not whole:
            features = [each.requires_grad_() for each in features]
        regions, codes = features
        if self.layout is not None:
            regions = widened(regions)
        captions = (batch.sentence, batch.words, batch.lengths, batch.class_ids)
        gammas = (config.gamma1, config.gamma2, config.gamma3)
        with self._autocast():
            losses = damsm_losses(regions, codes, *captions, *gammas, share)
            total = self.generator_scaler.scale(config.damsm_weight * (losses["words"] + losses["sentence"]))
        if whole:
            gradient += self._gradient(total, leaf)[0]
        else:
            of_features = torch.autograd.grad(total, features)
            for part in self._micro_batches(len(picture)):
                leaf = picture[part].detach().requires_grad_()
                with self._autocast():
                    encoded_part = encoder(leaf)
                gradient[part] += torch.autograd.grad(encoded_part, leaf, [each[part] for each in of_features])[0]
        return {name: loss.detach() for name, loss in losses.items()}

    def _one(self, loss: Tensor) -> Tensor:
        """The gradient that backward starts from."""
        if loss.dtype not in self._ones:
            self._ones[loss.dtype] = torch.ones_like(loss.detach())
        return self._ones[loss.dtype]

    def _gradient(self, loss: Tensor, leaf: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, leaf, self._one(loss))

    def _encode(self, pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Regions and code of each micro-batch."""
        assert self._judge is not None
        return [self._judge(pictures[part]) for part in self._micro_batches(len(pictures))]

    @record_function("generator")
    def learn_from(
        self, parts: Iterator[GeneratorOutput], gradients: list[Tensor], share: Share | None = None
    ) -> dict[str, Tensor]:
        """Backward from the images' gradients, part by part, and a step of the generator's optimiser.

        Args:
            parts: what ``draw`` gave; each is let go of before the next, so that its graph is freed.
            gradients: of the loss by the images, for each resolution.
            share: of the batch that the images are this process's rows of.
        """
        self.generator_optimizer.zero_grad(set_to_none=True)
        own, first, conditioning = len(gradients[0]), 0, []
        size = own if share is None else share.total
        with self.whole(self.generator):
            for part in parts:
                last = first + len(part.mu)
                loss = _part_of(conditioning_loss(part.mu, part.logvar), part.mu, size)
                conditioning.append(loss.detach())
                weight = self.config.conditioning_weight
                loss = loss if weight == 1 else weight * loss
                loss = self.generator_scaler.scale(_differentiated(loss, share))
                whole = share is not None and last == own  # gradients are, after this part
                with self.gradient_sums[-1].last_backward() if whole else nullcontext():
                    of_images: list[Any] = [*(g[first:last] for g in gradients), self._one(loss)]
                    torch.autograd.backward([*part.images, loss], of_images)
                first = last
            if share is not None:
                self.gradient_sums[-1].send()
        if share is not None:
            self.gradient_sums[-1].finish()
        losses = {"conditioning": _sum(conditioning)}
        return losses | take_step(self.generator_optimizer, self.generator_scaler, "generator")

    def _owned(self) -> Iterator[tuple[str, Any]]:
        of_all = ("generator", "discriminators", "average", "generator_optimizer", "discriminator_optimizers")
        yield from ((name, getattr(self, name)) for name in (*of_all, "generator_scaler", "discriminator_scalers"))

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers, scalers and average: all that the next step depends on but the batch and the noise.

        Of what is sharded, this process's parts (``DTensor``).
        """
        return {
            name: [each.state_dict() for each in owned] if name.startswith("discriminator") else owned.state_dict()
            for name, owned in self._owned()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; of whole tensors, processes that shard take their parts."""
        self.shard()
        for name, owned in self._owned():
            members, values = (owned, state[name]) if name.startswith("discriminator") else ([owned], [state[name]])
            for member, value in zip(members, values, strict=True):
                member.load_state_dict(in_parts(member, value) if self._shards else value)
        for optimizer in (self.generator_optimizer, *self.discriminator_optimizers):
            for group in optimizer.param_groups:
                if "capturable" in group:  # as this run has it: the saved one may have been with a graph, or without
                    group["capturable"] = self.config.cuda_graph
        if self._graphs is not None:
            self._graphs.clear()  # optimisers hold new tensors

    def set_learning_rates(self, generator: float, discriminator: float) -> None:
        """Take later steps at other rates; the optimisers keep what they know."""
        for optimizer in (self.generator_optimizer, *self.discriminator_optimizers):
            for group in optimizer.param_groups:
                group["lr"] = generator if optimizer is self.generator_optimizer else discriminator
        self.config = replace(self.config, generator_learning_rate=generator, discriminator_learning_rate=discriminator)
        if self._graphs is not None:
            self._graphs.clear()

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self.config.precision
        return torch.autocast(self.device_type, AUTOCAST[precision]) if precision in AUTOCAST else nullcontext()

    def _together(self) -> bool:
        """Whether a discriminator learns from real and generated images in one pass."""
        policy = self.config.memory
        if policy.together is not None:
            return policy.together
        return self._on_gpu() and policy.micro_batch is None

    def _on_gpu(self) -> bool:
        """Whether the models are on a GPU, or are planned for one."""
        return (planned() or self.device_type) == "cuda"

    def _rounds_together(self, share: Share | None) -> bool:
        """Whether all weights of the generator are rounded in a few kernels. Not where parts of it run again in
        backward, which would not see them; nor of several processes, whose gradients leave as they come; nor of a
        compiled generator, whose kernels round what they read."""
        autocast, config = self.config.precision in AUTOCAST and self.layout is not None, self.config
        whole = config.accumulate == 1 and set(self.generator.checkpointing) == {"none"}
        return autocast and whole and share is None and self.generator._compiled_call_impl is None

    def _judging_encoder(self) -> nn.Module | None:
        """The image encoder that judges: on a GPU in another form, with frozen weights that are rounded once, not by
        autocast at every step."""
        encoder, dtype = self.image_encoder, AUTOCAST.get(self.config.precision)
        if encoder is None or not (self._on_gpu() if dtype is None else self.layout):
            return encoder
        if not any(isinstance(each, ImageEncoder) for each in encoder.modules()):
            return encoder  # others' code may use its weights elsewhere than autocast does
        return judging(encoder, dtype, self.layout)

    def _rows_of_parts(self, size: int, share: Share | None) -> Iterator[slice]:
        """Of the ``accumulate`` parts; of several processes each has as many, whose norms meet."""
        parts = self.config.accumulate
        if share is None:
            return _parts(size, -(-size // parts))
        return (slice(size * k // parts, size * (k + 1) // parts) for k in range(parts))

    def _micro_batches(self, size: int) -> Iterator[slice]:
        return _parts(size, self.config.memory.micro_batch or size)

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        """The generator's loss."""
        found = torch.stack(list(losses.values()))
        key = found.dtype, *losses
        if key not in self._loss_weights:
            weights = dict.fromkeys(MATCHING, self.config.damsm_weight)
            weights["conditioning"] = self.config.conditioning_weight
            self._loss_weights[key] = torch.stack([found.new_full((), weights.get(name, 1.0)) for name in losses])
        return found.dot(self._loss_weights[key])

    def _learn(self, learn: bool) -> None:
        for discriminator in self.discriminators:
            discriminator.requires_grad_(learn)

    def _check(self, batch: Batch) -> None:
        size = len(batch.sentence)
        rows, sides = self.processes.rows, self.generator.config.image_sizes
        heights = [side if rows is None else rows.count(side) for side in sides]
        expected = [(size, 3, *extent) for extent in zip(heights, sides, strict=True)]
        given = [tuple(image.shape) for image in batch.images]
        if given != expected:
            raise InputError(f"TrainStep: batch.images must be {expected}, got {given}")
        for name in ("lengths", "class_ids"):
            value = getattr(batch, name)
            if value is not None and tuple(value.shape) != (size,):
                raise InputError(f"TrainStep: batch.{name} must be [{size}], got {list(value.shape)}")
        if size < 2 * self.config.accumulate and self.processes.group is None:
            raise InputError(
                f"TrainStep: accumulate={self.config.accumulate} needs a batch of at least "
                f"{2 * self.config.accumulate}, two for each part's statistics, got {size}"
            )


class _AtOnce:
    """How all discriminators of a step judge a batch on a GPU that has room for both its halves and all their graphs:
    their weights are held together, and the logits of all meet in one loss; then one graph after the other is
    differentiated. The sums are those of each alone.
    """

    def __init__(self, step: TrainStep, batch: Batch, following: Tensor) -> None:
        self.step, self.batch, self.size = step, batch, len(batch.sentence)
        sentence = batch.sentence
        self.targets = step._targets_of(Targets.of, sentence, self.size, len(following), self.size)
        self.all_real = step._targets_of(Targets.all_real, sentence, self.size)
        dtype = AUTOCAST.get(step.config.precision, sentence.dtype)
        layout = step.layout or torch.contiguous_format
        self.sentences = spread(torch.cat((sentence, sentence, following)), dtype, layout)

    def learn(self, pictures: list[Tensor]) -> dict[str, Tensor]:
        """The losses of the discriminators, which have their gradients."""
        step, logits = self.step, []
        with ExitStack() as stack:
            with step._autocast():
                stack.enter_context(hold_weights(*step.discriminators, once=True))
            for k, (discriminator, fake) in enumerate(zip(step.discriminators, pictures, strict=True)):
                with record_function(f"discriminator_{fake.shape[-1]}"), step._autocast():
                    step.discriminator_optimizers[k].zero_grad(set_to_none=True)
                    real = step._real(self.batch, k, fake)
                    logits.append(joint_logits(discriminator, real, fake, self.sentences))
            losses, gradients = self._differentiated(logits, self.targets, step.discriminator_scalers)
            for fake, gradient in zip(pictures, gradients, strict=True):
                with record_function(f"discriminator_{fake.shape[-1]}"):
                    torch.autograd.backward(logits.pop(0), gradient)
        return {f"discriminator_{fake.shape[-1]}": loss for fake, loss in zip(pictures, losses, strict=True)}

    def image_gradients(self, pictures: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """d loss / d image for each resolution, and the losses."""
        step, logits = self.step, []
        leaves = [picture.detach().requires_grad_() for picture in pictures]
        with step._autocast(), hold_weights(*step.discriminators, once=True):
            for discriminator, leaf in zip(step.discriminators, leaves, strict=True):
                with record_function(f"adversarial_{leaf.shape[-1]}"):
                    logits.append(image_logits(discriminator, leaf, self.sentences[: self.size]))
        losses, of_logits = self._differentiated(logits, self.all_real, [step.generator_scaler] * len(leaves))
        gradients: list[Tensor] = []
        for leaf, gradient in zip(leaves, of_logits, strict=True):
            with record_function(f"adversarial_{leaf.shape[-1]}"):
                gradients += torch.autograd.grad(logits.pop(0), leaf, gradient)
        return gradients, {f"adversarial_{leaf.shape[-1]}": loss for leaf, loss in zip(leaves, losses, strict=True)}

    def _differentiated(
        self, logits: Sequence[tuple[Tensor, Tensor]], targets: Targets, scalers: Sequence[GradScaler]
    ) -> tuple[Sequence[Tensor], list[Sequence[Tensor]]]:
        """The loss of each discriminator, and its gradients by its logits."""
        joined = torch.cat([each.detach() for pair in logits for each in pair]).requires_grad_()
        losses = losses_of(joined, targets)
        one = self.step._one(losses[0])
        begin = torch.stack([s.scale(one) for s in scalers]) if scalers[0].is_enabled() else one.expand(len(scalers))
        (gradient,) = torch.autograd.grad(losses, joined, begin)
        parts = iter(gradient.split([len(each) for pair in logits for each in pair]))
        return losses.detach().unbind(), [[next(parts) for _ in pair] for pair in logits]


def _check_models(
    generator: Generator, discriminators: Sequence[Discriminator], image_encoder: nn.Module | None, config: StepConfig
) -> None:
    _refuse_wrapped("generator", generator)
    for k, discriminator in enumerate(discriminators):
        _refuse_wrapped(f"discriminators[{k}]", discriminator)
    sides = tuple(d.config.image_size for d in discriminators)
    if sides != generator.config.image_sizes:
        raise InputError(
            f"TrainStep: discriminators must be for resolutions {generator.config.image_sizes}, in order, got {sides}"
        )
    if image_encoder is None and config.damsm_weight > 0:
        raise InputError("TrainStep: image_encoder may be None only with damsm_weight = 0")
    if config.accumulate > 1 and generator.config.mask_mode == "official":
        raise InputError("accumulate does not go with mask_mode='official', which mixes the masks of a whole batch")


def _check_shared(generator: Generator, config: StepConfig, shard: bool, device_type: str) -> None:
    """What several processes can't do yet."""
    if generator.config.mask_mode == "official":
        raise InputError(
            "mask_mode='official' mixes the masks of a whole batch, of which each process has a part; train on one "
            "process, or with mask_mode='paper'"
        )
    if config.cuda_graph:
        raise InputError("cuda_graph does not go with several processes: their exchanges are not captured")
    if not shard:
        return
    refuse_to_shard(config)
    if device_type == "cuda" and apex_adam() is not None:
        raise InputError(
            "parallel.shard needs PyTorch's Adam: apex, whose Adam is taken where it is installed, knows no sharded "
            "weights; uninstall apex, or leave parallel.shard out"
        )


def _differentiated(loss: Tensor, share: Share | None) -> Tensor:
    """What this process's backward begins with."""
    return loss if share is None else share.of_loss(loss)


def _refuse_wrapped(name: str, model: nn.Module) -> None:
    """A step calls parts of a model and differentiates at the images, which a wrapper around it does not see."""
    if isinstance(getattr(model, "_orig_mod", None), nn.Module):
        raise InputError(
            f"TrainStep: {name} is wrapped by torch.compile, and its average would be too; compile with "
            f"{name}.compile() in place, which keeps the model what it is"
        )
    if hasattr(model, "config") or not isinstance(getattr(model, "module", None), nn.Module):
        return
    raise InputError(
        f"TrainStep: {name} is wrapped in {type(model).__name__}, whose sharing of gradients a step would pass by; "
        f"give the model itself ({name}.module): a step shares gradients and statistics between the processes of "
        "PyTorch's default group by itself"
    )


def _parts(size: int, length: int) -> Iterator[slice]:
    for first in range(0, size, length):
        yield slice(first, min(first + length, size))


def _part_of(loss: Tensor, images: Tensor, size: int) -> Tensor:
    """What a mean over some images adds to the mean over all ``size``."""
    return loss if len(images) == size else loss * (len(images) / size)


def _sum(losses: list[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _random(rows: int, channels: int, like: Tensor, share: Share | None) -> Tensor:
    """``randn [rows, channels]`` from PyTorch's global generator, or this process's rows of the whole batch's."""
    if share is not None:
        return share.random(channels, like)
    return torch.randn(rows, channels, device=like.device, dtype=like.dtype)


def _handed_over(parts: list[GeneratorOutput]) -> Iterator[GeneratorOutput]:
    """Each in turn, and kept no longer."""
    while parts:
        yield parts.pop(0)
