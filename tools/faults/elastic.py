"""One of several processes is killed or hangs: ``torchrun`` starts all of them again, and the run goes on.

    python -m torch.distributed.run ... -m tools.faults.elastic CONFIG OUT FAULT RANK

trains the run of ``CONFIG`` in ``OUT``; when process ``RANK`` has taken ``STEP`` steps for the first time, ``FAULT``
happens to it: ``killed``, ``stopped`` (it hangs), or ``nothing``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from dmgan_fast.config import load_config, to_dict
from dmgan_fast.parallel import restarted
from dmgan_fast.runs.checkpoints import steps_of
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.training.trainer import GANTask, train
from tools.faults.rig import LIMIT, Broken, Rig, other_bits, require

PROCESSES, STEP = 2, 4  # a checkpoint follows every step: that of STEP - 1 may still be on its way then
TIMEOUTS = {"stopped": 60.0}  # seconds after which a process that hangs counts as lost; else nobody waits for it
SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
ROOT = Path(__file__).parents[2]


def launch(rig: Rig, out: Path, fault: str, rank: int) -> str:
    """Train in ``out`` with two processes; what they and their launcher said."""
    config = out.with_name(f"{out.name}.json")
    config.write_text(json.dumps(to_dict(rig.config((f"parallel.timeout={TIMEOUTS.get(fault, 600.0)}",)))))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    worker = ["--max-restarts=1", "-m", "tools.faults.elastic", str(config), str(out), fault, str(rank)]
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [*launcher, *worker], cwd=ROOT, env=quiet, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = run.communicate(timeout=5 * LIMIT)
    except subprocess.TimeoutExpired:
        run.terminate()  # ends its processes too
        said, _ = run.communicate()
        raise Broken(f"{fault}, process {rank}: the run hangs: {said[:2000]}") from None
    require(run.returncode == 0, f"{fault}, process {rank}: the run did not go on: {said[:2000]}")
    return said


def goes_on(rig: Rig, folder: Path, faults: list[tuple[str, int]]) -> str:
    """Each fault on a run of its own, whose bits must be those of a run without it."""
    launch(rig, folder / "whole", "nothing", 0)
    told = []
    for fault, rank in faults:
        out = folder / f"{fault}-{rank}"
        launch(rig, out, fault, rank)
        different = other_bits(out, folder / "whole")
        require(not different, f"{fault}, process {rank}: other bits than without the fault: {', '.join(different)}")
        again = json.loads((out / "again.json").read_text())
        require(again["restarts"] == 1, f"{fault}, process {rank}: it was not started again")
        require(again["from"] >= STEP - 2, f"{fault}, process {rank}: it went on from step {again['from']}")
        told.append(f"process {rank} {fault} in step {STEP}, resumed from step {again['from']}")
    return f"{'; '.join(told)}: the same bits"


def _victim(fault: str) -> None:
    """This process: the fault happens at the end of its step ``STEP``."""
    step, taken = GANTask.step, 0

    def counted(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        losses = step(*arguments)
        if taken == STEP:
            os.kill(os.getpid(), SIGNALS[fault])
        return losses

    GANTask.step = counted  # type: ignore[method-assign]


def main(config: str, out: str, fault: str, rank: str) -> None:
    torch.set_num_threads(1)
    first_time = not restarted()
    if first_time and fault in SIGNALS and os.environ["RANK"] == rank:
        _victim(fault)
    if not first_time and os.environ["RANK"] == "0":
        newest = max(steps_of(Path(out, "checkpoints")), default=0)
        told = {"restarts": int(os.environ["TORCHELASTIC_RESTART_COUNT"]), "from": newest}
        Path(out, "again.json").write_text(json.dumps(told))
    train(load_config(TrainConfig, json.loads(Path(config).read_text())), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
