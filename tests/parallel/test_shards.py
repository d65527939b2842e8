"""Three processes that hold a GAN in parts; that they learn what one learns is in ``test_exact.py``."""

import math

import pytest
import torch
from torch import nn

from dmgan_fast.config import load_config
from dmgan_fast.errors import InputError
from dmgan_fast.parallel import Processes
from dmgan_fast.parallel.shards import held, in_parts, whole_copy
from dmgan_fast.runs.config import PretrainConfig, StepConfig, TrainConfig
from dmgan_fast.training import step as step_module
from tests.parallel.conftest import SIZE
from tests.parallel.in_parts import parts_of, sharded_step, take_alone
from tests.training.test_engine import same
from tools.exact_processes import LIMIT

DOUBLE = 8  # bytes of a number


def parts(of_three, name):
    return [found["parts"][name] for found in of_three[0]]


@pytest.fixture(scope="module")
def whole():
    """Bytes of the same step on one process."""
    step = sharded_step(Processes())
    take_alone(step, 0)
    return parts_of(step)


@pytest.mark.parametrize("name", ["parts", "parts after loading"])
def test_weights_average_and_moments_lie_on_one_process_each(of_three, whole, name):
    """Together the processes hold what one alone holds, and none more than its rows of each tensor."""
    for (shape, alone, _), *parts_of_all in zip(whole, *parts(of_three, name), strict=True):
        assert [each[0] for each in parts_of_all] == [shape] * SIZE
        assert sum(own for _, own, _ in parts_of_all) == alone == DOUBLE * math.prod(shape)
        most = DOUBLE * math.ceil(shape[0] / SIZE) * math.prod(shape[1:])
        assert all(own <= memory <= most for _, own, memory in parts_of_all)


def test_a_third_of_the_memory_is_left(of_three, whole):
    alone = sum(memory for _, _, memory in whole)
    for found in parts(of_three, "parts"):
        assert sum(memory for _, _, memory in found) <= 0.4 * alone  # tensors of a few rows divide badly


def test_a_model_is_an_ordinary_one_while_it_is_whole(of_three):
    for found in (each["parts"] for each in of_three[0]):
        same(found["whole within"], found["gathered"])
        same(found["copied"], found["gathered"])
        assert found["still whole"]


def test_a_state_goes_from_processes_in_parts_to_one_and_back(of_three):
    for found in (each["parts"] for each in of_three[0]):
        same(found["loaded"], found["saved"])
        same(found["went on again"], found["went on"])
        for model in ("generator", "average"):
            for name, value in found["went on"][model].items():
                other = found["went on alone"][model][name]
                assert (value - other).abs().max() <= LIMIT * max(1e-3, float(other.abs().max())), name


def test_all_processes_gather_the_same_bits(of_three):
    first, *others = parts(of_three, "went on")
    for other in others:
        same(other, first)


def test_a_number_that_is_none_in_one_part_is_told_by_all(of_three):
    *others, last = parts(of_three, "not finite")
    wanted = "generator.initial_stage.projection.weight is not finite after step 2"
    assert last[0] == "NonFiniteLossError"
    assert wanted in last[1]
    for kind, message in others:
        assert kind == "ProcessError"
        assert wanted in message


def test_of_what_is_not_in_parts_all_is_held():
    tensor, model = torch.ones(3, requires_grad=True), nn.Linear(2, 2)
    assert held(tensor) is tensor
    state = model.state_dict()
    same(in_parts(model, state), dict(state))
    same(in_parts(None, {"scale": 2.0}), {"scale": 2.0})


def test_a_copy_shares_nothing():
    model = nn.Linear(2, 2)
    copied = whole_copy(model)
    same(dict(copied.state_dict()), dict(model.state_dict()))
    assert copied.weight.data_ptr() != model.weight.data_ptr()


def test_what_the_model_does_not_have_is_left_to_load_state_dict(of_three):
    for found in parts(of_three, "other shapes"):
        same(found, {"no such weight": torch.ones(3)})


def test_one_process_has_nobody_to_share_weights_with():
    with pytest.raises(InputError, match=r"parallel\.shard=True: .* there is 1 process; start 2 or more with torchrun"):
        Processes.of(shard=True)


def test_scaling_in_fp16_is_refused_before_anything_is_read(of_three):
    with pytest.raises(InputError, match=r"parallel\.shard does not go with step\.precision='fp16'.*use 'bf16' or"):
        load_config(TrainConfig, {"parallel": {"shard": True}, "step": {"precision": "fp16"}})
    for found in of_three[0]:
        kind, message, _ = found["refuse"]["scaling of parts"]
        assert kind == "InputError"
        assert "parallel.shard does not go with step.precision='fp16'" in message


def test_an_optimiser_that_knows_no_parts_is_refused(monkeypatch):
    generator = sharded_step(Processes()).generator
    monkeypatch.setattr(step_module, "apex_adam", lambda: object)
    step_module._check_shared(generator, StepConfig(), True, "cpu")
    step_module._check_shared(generator, StepConfig(), False, "cuda")
    with pytest.raises(InputError, match=r"parallel\.shard needs PyTorch's Adam: .*uninstall apex"):
        step_module._check_shared(generator, StepConfig(), True, "cuda")


def test_encoders_are_not_trained_in_parts():
    with pytest.raises(InputError, match=r"parallel\.shard=True is for training the GAN"):
        load_config(PretrainConfig, {"parallel": {"shard": True}})
