"""A run so small that it is over in a second, in processes that are forked from one that has PyTorch loaded."""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from rich.console import Console
from torch.utils import tensorboard  # noqa: F401  (loaded once, before processes are forked)

from dmgan_fast.cli import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_REQUEUE
from dmgan_fast.errors import DMGANError, Interrupted, Preempted
from dmgan_fast.runs import checkpoints
from dmgan_fast.runs.checkpoints import load_checkpoint, newest_whole, step_of, steps_of
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.runs.snapshot import leaves
from dmgan_fast.training.damsm import pretrain
from dmgan_fast.training.trainer import GANTask, train

STEPS, SIDE = 6, 64
LOOP = (
    f"steps={STEPS}",
    "batch_size=4",
    "log_every=1",
    "sample_every=3",
    "measure_every=2",
    "measure_images=8",
    "checkpoint_every=1",
    "keep_checkpoints=2",
)
PHASES = ("step", "save", "sample", "evaluation")
LIMIT = 120.0  # seconds after which a run hangs
PAUSE = 0.5  # more than this between two looks means that all processes were halted for a while
EXIT_BROKEN = 70  # something else than an error of the project's own
_SAID = 8192
_NUMBER = struct.Struct("<q")
FIELDS = (*PHASES, "completed")


class Broken(Exception):
    """A promise that a fault has broken."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise Broken(message)


# ------------------------------------------------------------------------------------------------------------ processes


class Board:
    """What a run in another process says, in memory that outlives it."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 8 * len(FIELDS) + _SAID)

    def get(self, name: str) -> int:
        """How often a phase has begun; ``completed``: the step of the last checkpoint whose writing had ended."""
        value: int = _NUMBER.unpack_from(self.memory, 8 * FIELDS.index(name))[0]
        return value

    def set(self, name: str, value: int) -> None:
        _NUMBER.pack_into(self.memory, 8 * FIELDS.index(name), value)

    def say(self, text: str) -> None:
        content, start = text.encode(errors="replace")[: _SAID - 1], 8 * len(FIELDS)
        self.memory[start : start + len(content) + 1] = content + b"\0"

    @property
    def completed(self) -> int:
        return self.get("completed")

    @property
    def said(self) -> str:
        return bytes(self.memory[8 * len(FIELDS) :]).split(b"\0")[0].decode(errors="replace")

    def __str__(self) -> str:
        return ", ".join(f"{name} {self.get(name)}" for name in FIELDS)


class Patience:
    """So many seconds in which this process could look; those in which all processes were halted do not count."""

    def __init__(self, seconds: float) -> None:
        self.left, self.last = seconds, time.monotonic()

    def over(self) -> bool:
        now = time.monotonic()
        self.left, self.last = self.left - min(now - self.last, PAUSE), now
        return self.left < 0


@dataclass
class Run:
    """A process that trains. ``status``: its exit status, negative for the signal that ended it."""

    pid: int
    board: Board
    began: float
    status: int | None = None

    def alive(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is None

    def wait(self, limit: float = LIMIT) -> int:
        """Its status.

        Raises:
            Broken: if it does not end.
        """
        patience = Patience(limit)
        while self.alive():
            if patience.over():
                self.kill()
                raise Broken(f"the run did not end within {limit:g} s, after {self.board}")
            time.sleep(0.005)
        assert self.status is not None
        return self.status

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Whether the condition came true while it ran."""
        patience = Patience(LIMIT)
        while self.alive():
            if condition():
                return True
            if patience.over():
                self.kill()
                raise Broken(f"the run did not get so far within {LIMIT:g} s, but to {self.board}")
            time.sleep(0.0005)
        return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process and those that read for it."""
        if self.alive():
            os.killpg(self.pid, number)
        if number == signal.SIGKILL:
            while self.alive():
                time.sleep(0.001)

    def children(self) -> list[int]:
        """Processes that read for it."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []


def fork(work: Callable[[Board], None], **_: Any) -> Run:
    """Do ``work`` in a process of its own."""
    board = Board()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = EXIT_BROKEN
        try:
            os.setpgid(0, 0)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            status = _status(work, board)
        finally:
            os._exit(status)
    with suppress(OSError):  # it may have done so itself
        os.setpgid(pid, pid)
    return Run(pid, board, time.monotonic())


def _status(work: Callable[[Board], None], board: Board) -> int:
    """As the command line ends."""
    try:
        work(board)
        return 0
    except DMGANError as error:
        board.say(str(error))
        if isinstance(error, Preempted):
            return EXIT_REQUEUE
        return EXIT_INTERRUPTED if isinstance(error, Interrupted) else EXIT_BAD_INPUT
    except BaseException as error:
        board.say(f"{type(error).__name__}: {error}")
        return EXIT_BROKEN


def _watch(board: Board) -> None:
    """Tell phases and completed checkpoints of this process."""

    def counted(owner: Any, name: str, phase: str, then: Callable[..., None] = lambda *_: None) -> None:
        inner = getattr(owner, name)

        def run(*args: Any, **options: Any) -> Any:
            board.set(phase, board.get(phase) + 1)
            result = inner(*args, **options)
            then(*args)
            return result

        setattr(owner, name, run)

    counted(GANTask, "step", "step")
    counted(GANTask, "sample", "sample")
    counted(GANTask, "measure", "evaluation")
    counted(checkpoints, "save_checkpoint", "save", lambda file, *_: board.set("completed", step_of(file)))


# ------------------------------------------------------------------------------------------------------------- the run


class Rig:
    """Images, encoders, settings, and a run that nobody disturbed."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.folder = folder
        self.images, self.encoders = folder / "images", folder / "encoders"
        draw_images(self.images)
        settings = {
            "data": {"source": str(self.images), "max_words": 4},
            "word_channels": 4,
            "embedding_channels": 4,
            "image_encoder": {"kind": "compact", "channels": 4, "image_size": 32, "base_channels": 1},
            "image_size": 32,
            "loop": {"steps": 2, "batch_size": 4},
        }
        made = fork(lambda board: _pretrain(build_config(PretrainConfig, values=settings), self.encoders))
        require(made.wait() == 0, f"the encoders could not be trained: {made.board.said}")
        began = time.monotonic()
        run = self.start(folder / "whole")
        require(run.wait() == 0, f"the undisturbed run failed: {run.board.said}")
        self.seconds = time.monotonic() - began
        self.whole = folder / "whole"

    def config(self, overrides: tuple[str, ...] = (), images: Path | None = None) -> TrainConfig:
        """Settings of the run; overrides win."""
        values: dict[str, Any] = {
            "encoders": str(self.encoders),
            "data": {"source": str(images or self.images), "max_words": 4},
            "generator": {
                "image_sizes": [SIDE],
                "base_channels": 1,
                "word_channels": 4,
                "condition_channels": 2,
                "noise_channels": 2,
                "residual_blocks": 1,
            },
            "discriminator_channels": 1,
        }
        return build_config(TrainConfig, values=values, overrides=(*(f"loop.{each}" for each in LOOP), *overrides))

    def start(
        self,
        out: Path,
        *overrides: str,
        before: Callable[[], None] = lambda: None,
        images: Path | None = None,
    ) -> Run:
        """Begin the run in ``out``, or continue with it if it has begun; ``before`` is done in its process first."""
        config = self.config(overrides, images)

        def work(board: Board) -> None:
            torch.set_num_threads(1)
            _watch(board)
            before()
            resume = bool(steps_of(out / "checkpoints")) if (out / "checkpoints").is_dir() else False
            with open(os.devnull, "w") as null:
                train(config, out, resume=resume, console=Console(file=null))

        return fork(work)

    def finish(self, out: Path, *overrides: str, images: Path | None = None) -> Run:
        """Let the run end, and compare it with the undisturbed one.

        Raises:
            Broken: if it fails, or if a bit differs.
        """
        run = self.start(out, *overrides, images=images)
        status = run.wait()
        require(status == 0, f"it did not go on (status {status}): {run.board.said}")
        self.compare(out, but=() if images is None else ("weights/README.md",))  # which names the images
        return run

    def compare(self, out: Path, but: tuple[str, ...] = ()) -> None:
        """Raise ``Broken`` unless a finished run has the bits of the undisturbed one."""
        different = [name for name in other_bits(out, self.whole) if name not in but]
        require(not different, f"other bits than without the fault: {', '.join(different)}")
        left = [path.name for path in (out / "checkpoints").iterdir() if path.name.startswith(".step")]
        require(not left, f"left behind: {', '.join(left)}")
        require(not (out / ".lock").exists(), "the lock was left behind")

    def survives(self, out: Path, completed: int) -> int:
        """The step that a stopped run continues from.

        Raises:
            Broken: if a completed checkpoint is lost or torn.
        """
        folder = out / "checkpoints"
        if not folder.is_dir():
            require(completed == 0, f"the checkpoint of step {completed} is gone")
            return 0
        path, damaged = newest_whole(folder)
        require(not damaged, f"torn: {'; '.join(map(str, damaged))}")
        step = 0 if path is None else step_of(path)
        require(step >= completed, f"the checkpoint of step {completed} was complete, the newest is of step {step}")
        return step


def _pretrain(config: PretrainConfig, out: Path) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as null:
        pretrain(config, out, console=Console(file=null))


def draw_images(folder: Path) -> None:
    """Eight coloured shapes, each for training and held out."""
    folder.mkdir(parents=True)
    lines = []
    for split in ("train", "test"):
        for number, (colour, shape) in enumerate(
            (c, s) for c in ("red", "green", "blue", "yellow") for s in ("circle", "square")
        ):
            image = Image.new("RGB", (SIDE, SIDE), "white")
            draw = ImageDraw.Draw(image)
            (draw.ellipse if shape == "circle" else draw.rectangle)((12, 12, 52, 52), fill=colour)
            name = f"{split}-{colour}-{shape}.png"
            image.save(folder / name)
            said = [f"a {colour} {shape}", f"one {shape} in {colour}"]
            lines.append({"image": name, "captions": said, "class_id": number, "split": split})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def other_bits(out: Path, whole: Path) -> list[str]:
    """Names of what a finished run does not have as the undisturbed one in ``whole`` has it."""
    found, wanted = final_bits(out), final_bits(whole)
    return sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))


def final_bits(out: Path) -> dict[str, str]:
    """Digests of all that a finished run has learned, generated and logged, by name; of logs without times."""
    state = load_checkpoint(checkpoints.checkpoint_file(out / "checkpoints", STEPS), "gan")
    found = {
        f"state {name}": _digest(value) for name, value in leaves({"task": state["task"], "random": state["random"]})
    }
    for file in sorted((out / "weights").rglob("*")):
        if file.is_file():
            found[str(file.relative_to(out))] = hashlib.sha256(file.read_bytes()).hexdigest()
    for name in ("metrics.csv", "measures.csv"):
        rows = [line.split(",") for line in (out / name).read_text().splitlines()]
        found[name] = repr([[row[0], *row[2:]] for row in rows])
    for file in sorted((out / "samples").glob("*.png")):
        found[f"samples/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def _digest(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        return hashlib.sha256(content + repr((value.dtype, tuple(value.shape))).encode()).hexdigest()
    return repr(value)


# ------------------------------------------------------------------------------------------------- what a system can do


class Impossible(Exception):
    """This machine does not let a fault be made; the message says why."""


_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NAMESPACE, _PRIVATE, _REMOUNT, _READ_ONLY, _BIND = 0x20000, 0x44000, 32, 1, 4096


def own_mounts() -> None:
    """Let this process mount what no other sees.

    Raises:
        Impossible: if it may not.
    """
    if _LIBC.unshare(_NEW_NAMESPACE):
        raise Impossible(f"unshare: {os.strerror(ctypes.get_errno())}")
    mount("none", "/", "", _PRIVATE)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """As mount(2)."""
    arguments = (source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    if _LIBC.mount(*arguments):
        raise Impossible(f"mount: {os.strerror(ctypes.get_errno())}")


def small_disk(folder: Path, size: int) -> None:
    """A file system of so many bytes at ``folder``; again: of another size."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("none", str(folder), "tmpfs", _REMOUNT if folder.is_mount() else 0, f"size={size}")


def read_only(folder: Path, on: bool = True) -> None:
    """Nobody can write below ``folder``, or can again."""
    if on:
        mount(str(folder), str(folder), "", _BIND)
        mount("none", str(folder), "", _BIND | _REMOUNT | _READ_ONLY)
    elif _LIBC.umount(str(folder).encode()):
        raise Impossible(f"umount: {os.strerror(ctypes.get_errno())}")


def largest_file(size: int) -> None:
    """Let this process write no file of more bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextmanager
def folder_in(rig: Rig, name: str) -> Iterator[Path]:
    """A folder for a run, removed once it was right."""
    out = rig.folder / name
    shutil.rmtree(out, ignore_errors=True)
    yield out
    shutil.rmtree(out, ignore_errors=True)
