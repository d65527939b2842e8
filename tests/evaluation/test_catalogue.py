"""Metrics, and the networks whose features they take."""

import pytest
import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.evaluation.catalogue import METRICS, Weights


def test_every_metric_has_an_extractor_of_its_protocol(inception, encoders, tmp_path):
    torch.save({"fc.weight": torch.zeros(2, 5), "fc.bias": torch.zeros(2)}, tmp_path / "birds.pth")
    weights = Weights(inception=inception, classifier=tmp_path / "birds.pth", damsm=encoders / "weights")
    keys = {}
    for metric in METRICS.values():
        if metric.extractor != "classifier":
            keys[metric.name] = weights.load(metric.extractor, torch.device("cpu")).key.split(" ")
    assert [keys[name][0] for name in ("fid-paper", "fid-align-corners")] == ["torchvision-inception-v3"] * 2
    assert [keys[name][2] for name in ("fid-paper", "fid-align-corners")] == ["resize=pil", "resize=align_corners"]
    assert {keys[name][0] for name in ("is-tf", "is-coco", "fid-tf", "kid-tf")} == {"tf-inception-2015-12-05"}
    assert [keys[name][2] for name in ("is-tf", "is-coco")] == ["resize=tf", "resize=pil"]
    assert {keys[name][0] for name in ("fid-damsm", "kid-damsm", "r-precision", "r-precision-official")} == {"damsm"}
    with pytest.raises(CheckpointError, match=r"birds\.pth: not an Inception-v3 classifier"):
        weights.load(METRICS["is-birds"].extractor, torch.device("cpu"))
