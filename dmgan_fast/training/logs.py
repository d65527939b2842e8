"""What a run reports while it trains: tables, and a board, TensorBoard or Weights & Biases, with curves and samples."""

from __future__ import annotations

import csv
import json
import logging
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image
from typing_extensions import Self

from dmgan_fast.config import to_dict
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.files import load_json, replace_file, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WANDB_NAME = "wandb.json"  # which run of Weights & Biases a folder's run is
PROJECT = "dmgan_fast"

_log = logging.getLogger("dmgan_fast.runs")


class Board(Protocol):
    """Where curves and samples are looked at. ``group``: ``metrics``, ``validation``, ``gates``, ``measures`` or
    ``throughput``."""

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None: ...
    def image(self, name: str, file: Path, step: int) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


def check_logger(logger: str) -> None:
    """Raise ``InputError`` if it is not installed."""
    if logger == "wandb" and find_spec("wandb") is None:
        raise InputError(
            "loop.logger=wandb: Weights & Biases is not installed; `pip install wandb`, or leave the setting out to "
            "log to TensorBoard"
        )


def open_board(config: Any, out: Path, done: int, *, writes: bool = True) -> Board:
    """The board that ``config.loop.logger`` names, for the run in ``out`` after ``done`` steps; one that takes nothing
    for a process that does not write."""
    if not writes:
        return NoBoard()
    return WeightsAndBiases(config, out) if config.loop.logger == "wandb" else TensorBoard(out / "tensorboard", done)


class NoBoard:
    """Of processes that another one reports for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        pass

    def image(self, name: str, file: Path, step: int) -> None:
        pass


class TensorBoard:
    """Event files in ``folder``, those of each group but the metrics in a folder of its own."""

    def __init__(self, folder: Path, done: int) -> None:
        self.folder, self.done = folder, done
        self._writers: dict[str, SummaryWriter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer(group).add_scalar(name, value, step)

    def image(self, name: str, file: Path, step: int) -> None:
        import numpy as np

        with Image.open(file) as image:
            self._writer("metrics").add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def _writer(self, group: str) -> SummaryWriter:
        if group not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.folder if group == "metrics" else self.folder / group
            purge = self.done + 1 if self.done else None
            self._writers[group] = SummaryWriter(str(folder), purge_step=purge)
        return self._writers[group]


class WeightsAndBiases:
    """One run there for the run in ``out``, which a resumed run continues with; offline with ``WANDB_MODE=offline``."""

    def __init__(self, config: Any, out: Path) -> None:
        self.config, self.out = config, out
        self._run: Any = None

    def __enter__(self) -> Self:
        import wandb

        options: dict[str, Any] = {"project": PROJECT, "name": self.out.absolute().name, "dir": str(self.out)}
        options |= {"id": self._id(), "resume": "allow", "config": to_dict(self.config)}
        try:
            self._run = wandb.init(**options)
        except Exception as error:  # the client raises many unrelated types
            said = " ".join(str(error).split())
            raise InputError(
                f"loop.logger=wandb: Weights & Biases could not begin: {said}; with WANDB_MODE=offline it logs "
                "to this machine only"
            ) from error
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")  # a resumed run may go back some steps
        return self

    def __exit__(self, *raised: object) -> None:
        self._run.finish(exit_code=0 if raised[0] is None else 1)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        self._run.log({"step": step, **{f"{group}/{name}": value for name, value in values.items()}})

    def image(self, name: str, file: Path, step: int) -> None:
        import wandb

        self._run.log({"step": step, name: wandb.Image(str(file))})

    def _id(self) -> str:
        file = self.out / WANDB_NAME
        try:
            return str(load_json(file)["id"])
        except FileNotFoundError:
            name = uuid.uuid4().hex[:12]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} does not say which run of Weights & Biases this is: {error}; remove it") from None
        write_text(file, json.dumps({"id": name}) + "\n")
        return name


class Log:
    """A table, told to the board as well; on resuming, rows after the resumed step are dropped. Of several processes
    only one ``writes``."""

    def __init__(self, file: Path, board: Board, done: int, *, writes: bool = True) -> None:
        self.file, self.board, self.done, self.writes = file, board, done, writes
        self.begun = False  # has its header

    def __enter__(self) -> Self:
        if self.writes and self.file.exists():
            rows = _rows_until(self.file, self.done) if self.done else []
            with replace_file(self.file) as temporary:
                _write_rows(temporary, rows)
            self.begun = bool(rows)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """A row; none without values."""
        if not (values and self.writes):
            return
        row = {"step": str(step), "seconds": f"{seconds:.3f}"} | {name: repr(value) for name, value in values.items()}
        with self.file.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, list(row))
            if not self.begun:
                writer.writeheader()
            writer.writerow(row)
        self.begun = True
        self.board.scalars(self.file.stem, values, step)


def _rows_until(file: Path, done: int) -> list[dict[str, str]]:
    """Rows of a table up to a step; those that a crash left half written are told and left out.

    Raises:
        CheckpointError: if it is no table any more.
    """
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = [(reader.line_num, row) for reader in [csv.DictReader(stream)] for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}; move it away, and --resume goes on without it") from None
    kept = []
    for line, row in rows:
        whole = None not in row and all(isinstance(value, str) for value in row.values())
        if not whole or not row.get("step", "").isdecimal():
            _log.warning("%s:%d is not a whole row and is left out: %s", file, line, list(row.values())[:3])
        elif int(row["step"]) <= done:
            kept.append(row)
    return kept


def _write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as stream:
        if rows:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
