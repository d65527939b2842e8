"""The processes that ``torchrun`` started: joining them, and agreeing with them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from dmgan_fast.errors import DMGANError, InputError, ProcessError
from dmgan_fast.parallel.collectives import exchanging, gather
from dmgan_fast.parallel.ending import end_after_gloo
from dmgan_fast.parallel.rows import FIRST, RowSplit
from dmgan_fast.parallel.share import Share

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

P = TypeVar("P", bound="Processes")
T = TypeVar("T")
TIMEOUT = 1800.0  # seconds: longer than a measurement or a checkpoint that the others wait for
NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # beside WORLD_SIZE; torchrun sets them


def rows_of(total: int, rank: int, size: int) -> range:
    """Which of ``total`` rows process ``rank`` of ``size`` takes: as equal numbers as can be, in order."""
    return range(total * rank // size, total * (rank + 1) // size)


def expected() -> int:
    """How many processes there are or, before they have joined, will be."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdigit() else 1


def restarted() -> bool:
    """Whether ``torchrun --max-restarts`` has started these processes again, after one of them had ended."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


@dataclass(frozen=True)
class Processes:
    """This process's place among those of ``group``; alone it is 0 of 1, and has none.

    ``rows``: which rows of its images it holds, if several processes hold an image together. ``shard``: whether each
    holds a part of the weights, of their average and of what optimisers remember.
    """

    rank: int = 0
    size: int = 1
    group: ProcessGroup | None = None
    rows: RowSplit | None = None
    shard: bool = False

    @classmethod
    def of(
        cls: type[P],
        group: ProcessGroup | None = None,
        *,
        rows: int = 1,
        shard: bool = False,
        timeout: float = TIMEOUT,
    ) -> P:
        """Those of ``group``, by default of PyTorch's default group; alone where nothing was initialised.

        Args:
            rows: so many processes after another hold an image together, each some of its rows; the batch is divided
                among such groups. All processes of ``group`` call this alike.
            shard: a ``TrainStep`` shards weights, their average and what optimisers remember over all processes.
            timeout: seconds after which a process of such a group that does not answer counts as lost.

        Raises:
            InputError: unless ``rows`` divides the number of processes and 64 rows are enough for them; if one process
                alone should ``shard``.
        """
        from torch import distributed

        if group is None and distributed.is_available() and distributed.is_initialized():
            group = distributed.group.WORLD
        size = 1 if group is None else group.size()
        if not 1 <= rows <= FIRST or size % rows:
            raise InputError(
                f"parallel.rows={rows}: so many processes hold an image together, at most {FIRST}, and all processes "
                f"must form such groups, but there {'is 1 process' if size == 1 else f'are {size} processes'}; start "
                f"{rows} or a multiple with torchrun --nproc-per-node"
            )
        if shard and size == 1:
            raise InputError(
                "parallel.shard=True: weights and optimisers are divided among processes, but there is 1 process; "
                "start 2 or more with torchrun --nproc-per-node, or leave it out, also to resume a sharded run alone"
            )
        if group is None or size == 1:
            return cls()
        end_after_gloo()
        return cls(group.rank(), size, group, None if rows == 1 else _split(group, rows, timeout), shard)

    @classmethod
    @contextmanager
    def joined(cls: type[P], timeout: float = TIMEOUT, *, rows: int = 1, shard: bool = False) -> Iterator[P]:
        """Join the processes that ``torchrun`` started; without it, nothing happens.

        Tensors on the CPU go through gloo, those on GPUs through NCCL.

        Args:
            timeout: seconds after which a process that does not answer counts as lost.
            rows, shard: as in ``of``.

        Raises:
            InputError: if ``WORLD_SIZE`` is set and what else ``torchrun`` sets is not, or as in ``of``.
            ProcessError: if the others are not there in time.
        """
        from torch import distributed

        if distributed.is_initialized() or expected() == 1:
            yield cls.of(rows=rows, shard=shard, timeout=timeout)
            return
        missing = [name for name in NEEDED if name not in os.environ]
        if missing:
            raise InputError(
                f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that this is one of several processes, but "
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set; start them with torchrun: "
                "torchrun --nproc-per-node 2 -m dmgan_fast ..., or unset WORLD_SIZE to run alone"
            )
        gpus = torch.cuda.is_available() and distributed.is_nccl_available()
        if gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        try:
            backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
            _meet(backend, timedelta(seconds=timeout))
        except (RuntimeError, ValueError) as error:
            raise ProcessError(
                f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} could not meet the others at "
                f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: {str(error).splitlines()[0]}"
            ) from error
        try:
            yield cls.of(rows=rows, shard=shard, timeout=timeout)
        finally:
            distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes files and says what happens."""
        return self.rank == 0

    def own(self, chunks: Sequence[T]) -> Sequence[T]:
        """Every ``size``-th, from this process's on."""
        return chunks[self.rank :: self.size]

    def wait(self) -> None:
        """Until all processes are here."""
        self.exchange([0])

    def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
        """A few whole numbers of each process, as many of each."""
        if self.group is None:
            return [list(numbers)]
        from torch.distributed import get_backend_config

        # A group for both kinds of device exchanges on the CPU, and waits for no GPU.
        device = "cpu" if "cpu:" in get_backend_config(self.group) else "cuda"
        return gather(torch.tensor(list(numbers), device=device), self.group).tolist()  # type: ignore[no-any-return]

    def objects(self, own: T) -> list[T]:
        """What each process gives; slow."""
        if self.group is None:
            return [own]
        from torch import distributed

        given: list[Any] = [None] * self.size
        with exchanging(self.group):
            distributed.all_gather_object(given, own, group=self.group)
        return given

    def from_first(self, result: T) -> T:
        """What process 0 has, on all of them."""
        if self.group is None:
            return result
        from torch import distributed

        held = [result]
        with exchanging(self.group):
            distributed.broadcast_object_list(held, group=self.group, group_src=0)
        return held[0]

    def any(self, here: bool) -> bool:
        """Whether it is so on any process."""
        return here if self.group is None else any(number for (number,) in self.exchange([int(here)]))

    @contextmanager
    def agreeing(self, quick: bool = False) -> Iterator[None]:
        """Within, each process does the same without the others; if one of them fails, all do.

        Args:
            quick: exchange messages only once something failed, for what is done again and again.

        Raises:
            ProcessError: where another process failed, with its message.
        """
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.group is None:
                raise
            own = error
        if self.group is None or (quick and not self.any(own is not None)):
            return
        told = f"{type(own).__name__}: {own}" if own and not isinstance(own, DMGANError) else str(own)
        failures = self.objects(f"on {socket.gethostname()}: {told}" if own else "")
        failed = next((rank for rank, failure in enumerate(failures) if failure), None)
        if failed is None:
            return
        stopped = own or ProcessError(f"process {failed} of {self.size} stopped, {failures[failed]}")
        if isinstance(stopped, DMGANError):
            stopped.told_elsewhere = self.rank not in (0, failed)
        raise stopped

    def same(self, what: str, value: Any) -> None:
        """Raise ``ProcessError`` unless ``value`` is alike on all processes."""
        given = self.objects(value)
        other = next((rank for rank, each in enumerate(given) if each != given[0]), None)
        if other is not None:
            raise ProcessError(
                f"{what} must be the same on all processes: {given[0]} on process 0, {given[other]} on process {other}"
            )

    def side_by_side(self, items: Iterable[T]) -> Iterator[T]:
        """Items of this process, one whenever all have one: if one fails, all do, and if one ends, all end."""
        if self.group is None:
            yield from items
            return
        iterator = iter(items)
        while True:
            item, failure = _END, None
            try:
                item = next(iterator, _END)
            except Exception as error:
                failure = error
            state = _FAILED if failure else _ENDED if item is _END else _GOES_ON
            states = [state for (state,) in self.exchange([state])]
            if _FAILED in states:
                with self.agreeing():
                    if failure is not None:
                        raise failure
            if _ENDED in states:
                return
            yield item

    def share(self, rows: int, **alike: int) -> Share | None:
        """This process's ``rows`` of the batch that is made of all processes'; None if it is alone.

        Args:
            rows: images, 1 or more; processes that hold images together have the same.
            alike: numbers that must be the same on all processes, by what they are called.

        Raises:
            InputError: on all processes, if one has no rows, or something else than the others.
        """
        if self.group is None:
            return None
        given = self.exchange([rows, *alike.values()])
        sizes = tuple(numbers[0] for numbers in given)
        if min(sizes) < 1:
            raise InputError(f"every process needs a part of the batch, the processes have {list(sizes)} rows")
        copies = self.size // self.parts
        if sizes != tuple(size for size in sizes[::copies] for _ in range(copies)):
            raise InputError(f"{copies} processes hold each image together, but they have {list(sizes)} images")
        for place, name in enumerate(alike, 1):
            values = [numbers[place] for numbers in given]
            if len(set(values)) > 1:
                raise InputError(f"{name} must be the same on all processes, which have {values}")
        if self.rows is None:
            return Share(self.group, sizes)
        return Share(self.rows.peers, sizes[::copies], copies, self.group)

    def align(self, modules: Iterable[nn.Module]) -> None:
        """Parameters and buffers of process 0 on all."""
        if self.group is None:
            return
        from torch import distributed

        with torch.no_grad(), exchanging(self.group):
            for module in modules:
                for tensor in (*module.parameters(), *module.buffers()):
                    whole = tensor.detach().contiguous()
                    distributed.broadcast(whole, group=self.group, group_src=0)
                    if whole.data_ptr() != tensor.data_ptr():
                        tensor.copy_(whole)

    def part(self, total: int) -> range:
        """Which of so many images are this process's."""
        copies = self.size // self.parts
        return rows_of(total, self.rank // copies, self.parts)

    @property
    def parts(self) -> int:
        """Of a batch: so many processes, or groups of those that hold images together, share it."""
        return self.size // (1 if self.rows is None else self.rows.size)


def _meet(backend: str, timeout: timedelta) -> None:
    """Initialise PyTorch's default group as ``torchrun`` says.

    Started again, processes find the launcher's store with the addresses of those before them, and may wait for them
    for ever: so each start has keys of its own.
    """
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=timeout))
    store = PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def _split(group: ProcessGroup, rows: int, timeout: float) -> RowSplit:
    """Neighbours hold images together; of each such group, the first have the same rows, the second, and so on."""
    from torch import distributed

    ranks, place, wait = distributed.get_process_group_ranks(group), group.rank(), timedelta(seconds=timeout)

    def among(members: list[int]) -> ProcessGroup:
        made: Any = distributed.new_group(members, timeout=wait, use_local_synchronization=True)
        return made  # type: ignore[no-any-return]

    first = place - place % rows
    return RowSplit(among(ranks[first : first + rows]), among(ranks[place % rows :: rows]))


_END: Any = object()
_GOES_ON, _ENDED, _FAILED = range(3)
