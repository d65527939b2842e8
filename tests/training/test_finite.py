"""Weights that a NaN got into are not saved over good ones."""

import pytest
import torch

from dmgan_fast.errors import NonFiniteLossError
from dmgan_fast.runs.checkpoints import steps_of
from dmgan_fast.training.finite import require_finite
from dmgan_fast.training.trainer import GANTask, train
from tests.training.conftest import train_config


def test_a_number_that_is_none_is_found_wherever_it_is():
    good = {"a": [torch.ones(2), (torch.tensor(3),)], "b": "text", "c": torch.ones(0)}
    require_finite(good, 7)
    bad = good | {"d": {"e": [torch.ones(1), torch.tensor([1.0, torch.inf])]}}
    with pytest.raises(NonFiniteLossError, match=r"^d\.e\.1 is not finite after step 7: a gradient was NaN"):
        require_finite(bad, 7)


def test_a_nan_in_a_gradient_reaches_no_checkpoint(pictures, encoders, tmp_path, monkeypatch):
    step = GANTask.step

    def spoil(task, batch, epoch):
        task.count = getattr(task, "count", 0) + 1
        if task.count == 3:  # losses are of before the step, and finite
            hook = task.train_step.generator.image_heads[0].register_full_backward_hook(
                lambda module, given, got: tuple(None if x is None else x * torch.nan for x in given)
            )
            losses = step(task, batch, epoch)
            hook.remove()
            return losses
        return step(task, batch, epoch)

    monkeypatch.setattr(GANTask, "step", spoil)
    config = train_config(pictures, encoders, steps=6, log_every=6, checkpoint_every=1, keep_checkpoints=9)
    with pytest.raises(NonFiniteLossError, match=r"is not finite (after|at) step 3"):
        train(config, tmp_path)
    assert steps_of(tmp_path / "checkpoints") == [1, 2]
