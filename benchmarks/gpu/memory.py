"""Peak memory of a step by resolution and policy, measured and as the planner predicts it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.gpu.stages import Options, Row
from benchmarks.harness import is_out_of_memory
from benchmarks.memory import POLICIES, forecast, measured_peak, setting_of
from benchmarks.models import Setting
from benchmarks.models import tiny as tiny_setting

BATCH = 10
RESOLUTIONS = ((256, "bf16"), (256, "fp32"), (512, "bf16"), (1024, "bf16"))  # what matters most comes first


def memory(options: Options) -> Iterator[Row]:
    """Above weights, optimiser states and the batch, as in docs/memory.md."""
    for setting, precision, size in _settings(options):
        predict = forecast(setting, options.device)
        for policy in POLICIES[:1] if options.tiny else POLICIES:
            row: Row = {"case": f"{setting.generator.image_sizes[-1]}²", "batch": size, "precision": precision}
            row |= {"policy": policy, "predicted_bytes": predict(size, policy)}
            try:
                row["measured_bytes"] = measured_peak(setting, size, policy, options.device)
            except (RuntimeError, MemoryError) as failure:
                if not is_out_of_memory(failure):
                    raise
                row["out_of_memory"] = True
            yield row
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()


def _settings(options: Options) -> Iterator[tuple[Setting, str, int]]:
    if options.tiny:
        small = tiny_setting()
        yield small.changed(step=replace(small.config, damsm_weight=0.0)), "fp32", 2
        return
    for side, precision in RESOLUTIONS:
        yield setting_of(side, precision), precision, BATCH
