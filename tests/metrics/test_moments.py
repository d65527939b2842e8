"""Streaming moments against numpy in float64; chunks and processes do not show."""

import numpy as np
import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.metrics import FeatureMoments

ROWS, CHANNELS = 203, 6


def features(offset=0.0):
    random = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, CHANNELS, dtype=torch.float64, generator=random) * torch.arange(1, CHANNELS + 1) + offset


def close(moments, rows):
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.numpy().mean(0), rtol=1e-12, atol=1e-12)
    expected = np.cov(rows.numpy(), rowvar=False)
    np.testing.assert_allclose(moments.covariance, expected, rtol=1e-11, atol=1e-11 * expected.max())


@pytest.mark.parametrize("size", [1, 7, 64, ROWS])
def test_the_size_of_chunks_is_immaterial(size):
    moments = FeatureMoments(CHANNELS)
    for chunk in features().split(size):
        moments.add(chunk)
    close(moments, features())


def test_a_large_mean_costs_no_digits():
    moments = FeatureMoments(CHANNELS)
    for chunk in features(offset=1e7).split(10):
        moments.add(chunk)
    centred = FeatureMoments.of(features())
    assert (moments.covariance - centred.covariance).abs().max() < 1e-6 * centred.covariance.max()


def test_parts_are_merged_in_any_order():
    parts = [FeatureMoments.of(chunk) for chunk in features().split(50)]
    merged = FeatureMoments(CHANNELS)
    for part in reversed(parts):
        merged.merge(part)
    close(merged.merge(FeatureMoments(CHANNELS)), features())


def test_half_precision_and_no_rows_are_taken():
    moments = FeatureMoments(2).add(torch.ones(3, 2, dtype=torch.bfloat16)).add(torch.zeros(0, 2))
    assert (moments.count, moments.mean.tolist()) == (3, [1, 1])
    assert moments.constant
    assert not FeatureMoments.of(features()).constant
    assert FeatureMoments.of(torch.full((9, 2), 0.1)).constant


def test_bad_rows_are_refused_and_leave_the_moments_as_they_were():
    moments = FeatureMoments.of(features())
    spoilt = torch.ones(4, CHANNELS)
    spoilt[2, 1] = torch.nan
    with pytest.raises(InputError, match="features: row 2 is not finite"):
        moments.add(spoilt)
    with pytest.raises(InputError, match=r"features must be \[n, 6\], got \[2, 5\]"):
        moments.add(torch.zeros(2, 5))
    with pytest.raises(InputError, match=r"features must be \[N, D\], got \[3\]"):
        moments.add(torch.zeros(3))
    close(moments, features())
    with pytest.raises(InputError, match="a covariance needs at least 2 rows, got 1"):
        _ = FeatureMoments.of(torch.ones(1, 2)).covariance
