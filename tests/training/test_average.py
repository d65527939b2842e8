"""The average of weights follows the formula."""

import pytest
import torch

from dmgan_fast.training.average import WeightAverage


def test_average_follows_golden_values(golden):
    arrays = golden("ema_s0")
    model = torch.nn.ParameterDict(
        {name: torch.nn.Parameter(arrays[f"in/step0/{name}"].double()) for name in ("p0", "p1", "p2")}
    )
    average = WeightAverage(model, 0.999)
    for k in (1, 2, 3):
        for name in model:
            model[name].data.copy_(arrays[f"in/step{k}/{name}"])
        average.update(model)
        for name in model:
            expected = arrays[f"f64/after{k}/{name}"]
            assert (average.module[name] - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("buffers", [True, False])
def test_average_of_buffers_is_a_choice(buffers):
    model = torch.nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.5, buffers=buffers)
    model(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    average.update(model)
    expected = 0.5 * model.running_mean if buffers else model.running_mean
    assert torch.allclose(average.module.running_mean, expected)
    assert average.module.num_batches_tracked == 1
