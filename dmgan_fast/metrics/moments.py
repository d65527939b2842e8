"""Count, mean and covariance of features in float64, chunk by chunk and over processes.

Chunks are joined by their centred second moments (Chan, Golub and LeVeque, 1983), so a large mean costs no digits and
neither the size of the chunks nor the number of processes shows, except in the last bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from dmgan_fast.errors import InputError
from dmgan_fast.metrics._checks import matrix


class FeatureMoments:
    """Moments of rows ``[N, D]``: ``count``, ``mean [D]`` and, from two rows on, ``covariance [D, D]``."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.scatter = torch.zeros(channels, channels, dtype=torch.float64)  # sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, features: Any) -> Self:
        """Moments of ``features [N, D]``."""
        rows = matrix("features", features)
        return cls(rows.shape[1]).add(rows)

    def add(self, features: Any) -> Self:
        """Take in rows ``[n, D]`` of any floating-point type.

        Raises:
            InputError: for another width, or a row that is not finite.
        """
        rows = matrix("features", features, rows=0)
        if rows.shape[1] != len(self.mean):
            raise InputError(f"features must be [n, {len(self.mean)}], got {list(rows.shape)}")
        if len(rows):
            mean = rows.mean(0)
            self._join(len(rows), mean, (rows - mean).t() @ (rows - mean))
        return self

    def merge(self, other: FeatureMoments) -> Self:
        """Take in the rows that ``other`` has seen."""
        if other.count:
            self._join(other.count, other.mean, other.scatter)
        return self

    def all_reduce(self) -> Self:
        """Take in the rows of all processes of ``torch.distributed`` (gloo: sums are on the CPU); all get the same."""
        from torch import distributed

        count = torch.tensor(float(self.count), dtype=torch.float64)
        total = self.mean * count
        distributed.all_reduce(count)
        distributed.all_reduce(total)
        mean = total / count.clamp(min=1)
        away = self.mean - mean
        scatter = self.scatter + self.count * torch.outer(away, away)
        distributed.all_reduce(scatter)
        self.count, self.mean, self.scatter = int(count), mean, scatter
        return self

    @property
    def covariance(self) -> Tensor:
        """``[D, D]``, with N - 1 in the denominator.

        Raises:
            InputError: for fewer than two rows.
        """
        if self.count < 2:
            raise InputError(f"a covariance needs at least 2 rows, got {self.count}")
        return (self.scatter + self.scatter.t()) / (2 * (self.count - 1))

    @property
    def constant(self) -> bool:
        """Whether all rows are the same, up to rounding."""
        return bool(self.scatter.diagonal().max() <= 1e-20 * self.count * (1 + self.mean.square().max()))

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        away, total = mean - self.mean, self.count + count
        self.scatter += scatter + torch.outer(away, away) * (self.count * count / total)
        self.mean += away * (count / total)
        self.count = total
