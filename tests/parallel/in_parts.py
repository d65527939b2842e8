"""What processes find that hold a small GAN in parts."""

from copy import deepcopy

import torch
from torch import nn

from dmgan_fast.errors import DMGANError
from dmgan_fast.parallel import Processes
from dmgan_fast.parallel.shards import held, in_parts, whole_copy
from dmgan_fast.runs.config import StepConfig
from dmgan_fast.runs.snapshot import tensors
from dmgan_fast.training.finite import require_finite
from dmgan_fast.training.step import TrainStep
from tools.exact_processes import BATCH, batch_of, gathered, models, part_of

SMALL = StepConfig(damsm_weight=0.0)


def sharded_step(processes):
    generator, discriminators, _ = models()
    return TrainStep(generator, discriminators, None, SMALL, processes=processes)


def take(step, processes, number):
    batch, noise = batch_of(number)
    rows = processes.part(BATCH)
    return step(part_of(batch, rows), **{name: x[rows.start : rows.stop] for name, x in noise.items()})


def whole_state(value):
    """A state with all of its sharded tensors."""
    if isinstance(value, dict):
        return {key: whole_state(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole_state(each) for each in value]
    return gathered(value).clone() if isinstance(value, torch.Tensor) else value


def parts_of(step):
    """Of every parameter and of what optimisers remember of it: its whole shape, and the bytes of its own memory."""
    found = []
    for model in (step.generator, *step.discriminators, step.average.module):
        found += list(model.parameters())
    for optimizer in (step.generator_optimizer, *step.discriminator_optimizers):
        found += [x for x in tensors(optimizer.state_dict()["state"]) if x.dim()]
    return [(list(x.shape), held(x).nbytes, held(x).untyped_storage().nbytes()) for x in found]


def failure(work, *arguments):
    try:
        work(*arguments)
    except DMGANError as error:
        return type(error).__name__, str(error)
    return None


def hold_in_parts(processes):
    """Bytes that lie here; what is whole within ``whole``; a state that goes from process to process."""
    of = Processes.of(processes.group, shard=True)
    step = sharded_step(of)
    take(step, of, 0)
    found = {"parts": parts_of(step)}
    average = step.average.module
    with step.whole(average):
        found["whole within"] = {name: value.detach().clone() for name, value in average.named_parameters()}
        copied = whole_copy(average)
        state = copied.state_dict()  # must leave the original whole
        found["still whole"] = all(type(value) is nn.Parameter for value in average.parameters())
    found["copied"] = {name: state[name] for name in found["whole within"]}
    found["gathered"] = {name: gathered(value.detach()) for name, value in average.named_parameters()}

    saved = whole_state(step.state_dict())
    alone = sharded_step(Processes())
    alone.load_state_dict(deepcopy(saved))  # optimisers take tensors as they are, and change them
    again = sharded_step(of)
    again.load_state_dict(deepcopy(saved))
    found["parts after loading"] = parts_of(again)
    found["loaded"] = whole_state(again.state_dict())
    found["saved"] = saved
    take(step, of, 1)
    take(again, of, 1)
    take_alone(alone, 1)
    found["went on"], found["went on again"], found["went on alone"] = (
        whole_state(each.state_dict()) for each in (step, again, alone)
    )
    found["not finite"] = failure(spoil, of, step)
    found["other shapes"] = in_parts(step.generator, {"no such weight": torch.ones(3)})
    return found


def take_alone(step, number):
    batch, noise = batch_of(number)
    step(batch, **noise)


def spoil(processes, step):
    """NaN in the last process's part of a weight."""
    weight = step.generator.initial_stage.projection.weight
    if processes.rank == processes.size - 1:
        held(weight.detach())[0] = torch.nan
    with processes.agreeing():
        require_finite(step.state_dict(), 2)
