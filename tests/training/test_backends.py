"""Training on the fused kernels and on the plain reference, from one seed, gives the same curves."""

import csv

import pytest

from dmgan_fast.ops import _backends
from dmgan_fast.training.trainer import train

from .conftest import train_config

STEPS = 12


def curves(pictures, encoders, out):
    train(train_config(pictures, encoders, steps=STEPS), out)
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == STEPS
    return {name: [float(row[name]) for row in rows] for name in rows[0] if name not in ("step", "seconds")}


def test_fused_and_reference_runs_have_the_same_curves(pictures, encoders, tmp_path, monkeypatch):
    fused = curves(pictures, encoders, tmp_path / "fused")
    monkeypatch.setenv(_backends.VARIABLE, "reference")
    reference = curves(pictures, encoders, tmp_path / "reference")
    assert fused.keys() == reference.keys()
    for name, values in fused.items():
        assert values == pytest.approx(reference[name], rel=2e-3, abs=2e-4), name
    assert fused != reference, "the two runs did not use different kernels"
