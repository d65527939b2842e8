"""Whole runs that processes train together: what is written, stops, resuming."""

import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import torch
from torch import distributed

from dmgan_fast import cli
from dmgan_fast.errors import DMGANError
from dmgan_fast.parallel.shards import held
from dmgan_fast.training import engine
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.trainer import GANTask, train
from tests.training.conftest import pretrain_config, train_config


def told(work, *arguments, **options):
    try:
        work(*arguments, **options)
    except DMGANError as error:
        return type(error).__name__, str(error), error.told_elsewhere
    return None


def begin_in_parts(rank, folder, config):
    """One of two processes that begin a run."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        train(config, Path(folder) / "run")
    finally:
        distributed.destroy_process_group()


def train_together(processes, folder, *, pictures, encoders, handed_on):
    """Runs of all processes in one folder; what each was told."""
    folder = Path(folder)
    found = {"pretrain": told(pretrain, pretrain_config(pictures), folder / "damsm")}
    gan = {"batch_size": 4, "steps": 4}
    found["train"] = told(train, train_config(pictures, encoders, **gan), folder / "gan")
    found["again"] = told(train, train_config(pictures, encoders, **gan), folder / "gan")
    found["few"] = told(train, train_config(pictures, encoders, batch_size=2), folder / "few")
    found["stopped"] = stopped_on_one(processes, train_config(pictures, encoders, **gan), folder / "stopped")
    found["resumed"] = told(train, train_config(pictures, encoders, **gan), folder / "stopped", resume=True)
    of_rows = train_config(pictures, encoders, [f"parallel.rows={processes.size}"], batch_size=2, steps=2)
    found["rows"] = told(train, of_rows, folder / "rows")
    in_parts = partial(train_config, pictures, encoders, ["parallel.shard=true"], batch_size=4)
    found["handed on"] = told(train, in_parts(steps=4), Path(handed_on), resume=True)
    every_two = in_parts(steps=4, checkpoint_every=2)
    found["in parts"] = told(train, every_two, folder / "in parts")
    if processes.first:  # as if it had been killed after the second step
        shutil.copytree(folder / "in parts", folder / "in parts again")
        shutil.rmtree(folder / "in parts again" / "checkpoints" / "step-00000004")
    processes.wait()
    found["in parts again"] = told(train, every_two, folder / "in parts again", resume=True)
    found["bad part"] = spoiled_in_one_part(processes, in_parts(steps=2, checkpoint_every=1), folder / "bad part")
    found["bad"] = spoiled_on_one(processes, train_config(pictures, encoders, **gan), folder / "bad")
    found["sample"] = sampled(folder / "sampled")
    found["no caption"] = sampled(folder / "none", "xyzzy" if processes.rank == 1 else "a red apple")
    found["threads"] = torch.get_num_threads()
    return found


def sampled(out, *captions):
    """``sample`` in this process: exit status, output, errors. Two images of three captions, in batches of two."""
    captions = captions or ("a red apple", "a blue car", "a green leaf")
    arguments = ["sample", *captions, "--count", "2", "--batch", "2", "--seed", "3", "--out", str(out)]
    before, sys.argv = sys.argv, ["dmgan-fast", *arguments]
    try:
        with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()) as errors:
            cli.main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    finally:
        sys.argv = before
    return status, said.getvalue(), errors.getvalue()


def stopped_on_one(processes, config, out):
    """Ctrl-C reaches one process only, in its second step."""
    step, count = GANTask.step, 0

    def interrupted(task, batch, epoch):
        nonlocal count
        count += 1
        if count == 2 and processes.rank == 1:
            signal.raise_signal(signal.SIGINT)
        return step(task, batch, epoch)

    GANTask.step = interrupted
    try:
        return told(train, config, out)
    finally:
        GANTask.step = step


def spoiled_on_one(processes, config, out):
    """NaN in one process's images, in the second step."""
    batches = engine._batches

    def spoiled(*arguments):
        for number, (epoch, done, batch) in enumerate(batches(*arguments)):
            if number == 1 and processes.rank == 2:
                batch.images[0][:] = torch.nan
            yield epoch, done, batch

    engine._batches = spoiled
    try:
        return told(train, config, out)
    finally:
        engine._batches = batches


def spoiled_in_one_part(processes, config, out):
    """NaN in the last process's part of the weights, after the first step."""
    step = GANTask.step

    def spoiled(task, batch, epoch):
        losses = step(task, batch, epoch)
        if processes.rank == processes.size - 1:
            held(task.train_step.generator.initial_stage.projection.weight.detach())[0] = torch.nan
        return losses

    GANTask.step = spoiled
    try:
        return told(train, config, out)
    finally:
        GANTask.step = step
