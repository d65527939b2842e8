"""The benchmark of checkpoints: both ways of saving, and a gate on the bits."""

from benchmarks import checkpoints
from benchmarks.models import tiny


def test_rows_name_both_ways_and_what_share_of_training_they_take(tmp_path):
    rows = checkpoints.rows_of(tiny(), 2, tmp_path, every=10)
    assert [row["implementation"] for row in rows] == ["in the background", "waiting"]
    for row in rows:
        assert row["correct"]
        assert row["share"] == row["median_ms"] / (row["step_ms"] * 10)
        assert row["bytes"] > 1000
    assert "at one in 10 steps" in checkpoints.table(rows).markdown()


def test_the_gate_closes_on_a_checkpoint_of_another_step(tmp_path, monkeypatch):
    from dmgan_fast.runs import checkpoints as saving

    models = checkpoints.Models.build(tiny())
    step, inputs = checkpoints.ours(models, tiny().config), checkpoints.batch_of(tiny())
    monkeypatch.setattr(saving, "snapshot", lambda state: state)  # no copy: training changes what is written
    original = saving.torch.save

    def late(content, file):
        step.generator.state_dict()["conditioning.projection.weight"].add_(1)
        original(content, file)

    monkeypatch.setattr(saving.torch, "save", late)
    assert not checkpoints.is_of_its_step(step, inputs, tmp_path)
