"""What a run saved last."""

from dmgan_fast.runs.checkpoints import latest_checkpoint, load_checkpoint


def state(out):
    return load_checkpoint(latest_checkpoint(out / "checkpoints"), "gan")
