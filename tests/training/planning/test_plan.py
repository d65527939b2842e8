"""Plans are data that programs and people read."""

import json
from dataclasses import asdict

from dmgan_fast.runs.policy import MemoryPolicy
from dmgan_fast.training.planning.planner import plan
from tests.training.planning.test_measure import MiB, config


def test_a_plan_can_be_read_by_programs_and_by_people():
    made = plan(config(), batch_size=3, memory_bytes=100 * MiB, device="cpu")
    values = json.loads(made.to_json())
    wanted = {"fits", "policy", "peak_bytes", "bytes_per_picture", "largest_batch", "recompute_flops"}
    assert wanted <= values.keys()
    assert (
        MemoryPolicy(**{k: tuple(v) if isinstance(v, list) else v for k, v in values["policy"].items()}) == made.policy
    )
    assert values["peak_bytes"] == made.peak_bytes == sum(values["peak"].values())
    for word in ("policy", "weights", "optimiser", "saved", "TFLOP", "one image", "batch", "resolution"):
        assert word in made.explain()


def test_a_plan_is_data_alone():
    made = plan(config(), batch_size=2, memory_bytes=100 * MiB, device="cpu")
    assert json.loads(json.dumps(asdict(made)))["tried"][0]["phases"]["draw"]["weights"] > 0
