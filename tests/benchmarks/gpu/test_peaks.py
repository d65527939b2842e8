"""Rates, and their share of a device's peak."""

from dataclasses import replace

import pytest
import torch

from benchmarks import roofline
from benchmarks.common import Target
from benchmarks.gpu import peaks
from benchmarks.models import tiny as tiny_setting


def test_rates_are_of_the_time_a_step_takes():
    assert peaks.rates(50.0, 10, 10**12, measured=1e14, makers=2e14) == {
        "images_per_second": 200.0,
        "operations": 10**12,
        "operations_per_second": 2e13,
        "of_measured_peak": pytest.approx(0.2),
        "of_makers_peak": pytest.approx(0.1),
    }
    assert "of_makers_peak" not in peaks.rates(50.0, 10, 10**12, measured=1e14, makers=None)


def test_a_cpu_has_images_a_second_alone():
    share = peaks.shares(tiny_setting(), Target())
    assert share({"median_ms": 100.0}, 4) == {"images_per_second": 40.0}
    assert share({"out_of_memory": True}, 4) == {}


def test_a_row_on_a_gpu_has_its_share_of_both_peaks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(peaks, "product_rate", lambda target, side: 700e12)
    monkeypatch.setattr(peaks, "step_operations", lambda setting, batch, device: 7 * 10**12)
    row = peaks.shares(tiny_setting(), Target("cuda", "bf16"))({"median_ms": 100.0}, 10)
    assert row["of_measured_peak"] == pytest.approx(0.1)
    assert row["of_makers_peak"] == pytest.approx(70 / 989)


def test_the_makers_peak_goes_by_the_drivers_name_and_the_precision():
    name = "NVIDIA H100 80GB HBM3"
    found = {precision: roofline.makers_peak(name, precision) for precision in ("fp32", "tf32", "bf16", "fp16")}
    assert found == {"fp32": 67e12, "tf32": 494e12, "bf16": 989e12, "fp16": 989e12}
    assert roofline.makers_peak("NVIDIA H100 NVL", "bf16") is None, "another board has other peaks"


def test_a_gpus_step_has_all_its_products_counted():
    """A CPU's are fewer: its kernels save products of the same convolutions."""
    setting = tiny_setting()
    setting = setting.changed(step=replace(setting.config, damsm_weight=0.0))  # no Inception
    there, here = (peaks.step_operations(setting, 2, device) for device in ("cuda", "cpu"))
    assert here < there < 4 * here


def test_what_a_device_does_at_best_is_measured_in_every_precision():
    rows = list(peaks.rows_of("cpu", ("fp32", "bf16"), tiny=True))
    assert [(row["case"], row.get("precision")) for row in rows] == [
        ("copy", None),
        ("product", "fp32"),
        ("product", "bf16"),
    ]
    assert all(row["per_second"] > 0 for row in rows)
