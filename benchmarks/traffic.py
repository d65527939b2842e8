"""What processes send each other in a step: bytes counted in a real step, and step times computed from them.

    python -m benchmarks.traffic                 # counts a birds step on two processes; tables for 8, 64, 512 GPUs
    python -m benchmarks.traffic --check 2,3,4   # as root: counts on wires, and throttles them (docs/scaling.md)

Every exchange of a step on two processes is counted by what it is for. From the payloads follow the bytes on the wire
on any number of processes (a ring sends a gathered payload on P - 1 times, of a sum twice (P - 1) / P). Step times of
GPUs are **computed**: operations counted by the planner and payloads counted here, divided by rates that are assumed
and printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, distributed, multiprocessing

from benchmarks.common import Row, Rows, Table, environment, finish, write_json
from benchmarks.models import Models, Setting, batch_of, ours, preset, tiny
from benchmarks.processes import part_of
from dmgan_fast.parallel import Processes, collectives, processes
from dmgan_fast.training.planning.planner import plan

SETTINGS = {"birds": preset("birds", 4), "demo": preset("demo", 12), "tiny": tiny()}
# Who asks for an exchange → what it is for.
KINDS = {
    "share_statistics": "norms: statistics",
    "share_sums": "norms: sums of gradients",
    "gather_rows": "captions and scores",
    "total_of": "losses",
    "exchange": "sizes",
    "_send": "gradients",
}
Exchange = tuple[str, str, int]  # what for; "gather", "merge" or "sum"; this process's payload in bytes


# ------------------------------------------------------------------------------------------------------------- counting


@contextmanager
def counted() -> Iterator[list[Exchange]]:
    """Exchanges within, in order."""
    found: list[Exchange] = []
    places: list[tuple[Any, str, str]] = [
        (collectives, "merged", "merge"),
        (collectives, "gather", "gather"),
        (processes, "gather", "gather"),
        (distributed, "all_reduce", "sum"),
    ]
    inside = False  # one exchange may be made of others

    def watch(function: Any, how: str) -> Any:
        def exchange(own: Tensor, *arguments: Any, **options: Any) -> Any:
            nonlocal inside
            if inside:
                return function(own, *arguments, **options)
            found.append((_asked_for(), how, own.nbytes))
            inside = True
            try:
                return function(own, *arguments, **options)
            finally:
                inside = False

        return exchange

    with ExitStack() as patches:
        for owner, name, how in places:
            patches.enter_context(patch.object(owner, name, watch(getattr(owner, name), how)))
        yield found


def _asked_for() -> str:
    """By the names of those who called: the outermost that is known."""
    frame, found = sys._getframe(2), "others"
    for _ in range(4):
        found = KINDS.get(frame.f_code.co_name, found)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def count(rank: int, size: int, name: str, folder: str) -> None:
    """One of ``size`` processes: the exchanges of its second step."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    setting = SETTINGS[name]
    step, part = ours(Models.build(setting), setting.config), part_of(batch_of(setting), Processes.of())
    step(**part)  # begins with the weights of process 0
    with counted() as found:
        step(**part)
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def exchanges_of(name: str) -> list[Exchange]:
    with TemporaryDirectory() as folder:
        multiprocessing.spawn(count, (2, name, folder), nprocs=2)
        return [tuple(each) for each in json.loads(Path(folder, "found.json").read_text())]


@dataclass(frozen=True)
class Payloads:
    """Of one step, of a process with ``batch / 2`` images: its exchanges, as ``counted`` gives them."""

    setting: Setting
    exchanges: list[Exchange]

    def at(self, processes: int, images: float) -> list[tuple[str, str, float]]:
        """The same with so many images a process: captions grow with them, rows of scores with the whole batch too."""
        own = self.setting.batch / 2
        scores = 4 * own * self.setting.batch  # bytes of rows [b, B] of a similarity
        found = []
        for kind, how, size in self.exchanges:
            grown = float(size)
            if kind == "captions and scores":
                grown *= images / own * (images * processes / self.setting.batch if size == scores else 1)
            found.append((kind, how, grown))
        return found

    def sent(self, processes: int, images: float) -> Counter[str]:
        """Bytes that a process sends in a step, on rings."""
        sent: Counter[str] = Counter()
        for kind, how, size in self.at(processes, images):
            ring = how == "sum" or (how == "merge" and processes * size > collectives.GATHERED)
            times = 2 * (processes - 1) / processes if ring else processes - 1
            sent[kind] += round(size * times)
        return sent


# ------------------------------------------------------------------------------------------------------------ computing


@dataclass(frozen=True)
class Assumed:
    """Of a GPU and its network: operations a second that a step sustains; bytes a second and seconds of one exchange,
    within a machine of 8 and between machines."""

    flops: float = 100e12
    near: tuple[float, float] = (300e9, 20e-6)
    far: tuple[float, float] = (40e9, 60e-6)

    def network(self, processes: int) -> tuple[float, float]:
        return self.near if processes <= 8 else self.far


def step_time(payloads: Payloads, flops: float, pairs: float, processes: int, images: int, assumed: Assumed) -> Row:
    """Computed milliseconds. ``flops``: of an image; ``pairs``: of an image with a caption in the words loss."""
    rate, latency = assumed.network(processes)
    sent, found = payloads.sent(processes, images), payloads.at(processes, images)
    waiting = sum(how != "sum" for _, how, _ in found) * latency
    gradients = sent["gradients"] / rate
    others = (sum(sent.values()) - sent["gradients"]) / rate
    matching = pairs * images * images * processes / assumed.flops
    computing = flops * images / assumed.flops
    parts = {
        "computing": computing,
        "words loss": matching,
        "gradients": gradients,
        "captions, scores, statistics": others,
        "waiting for exchanges": waiting,
    }
    # At best gradients travel while the rest is computed; at worst they wait for it.
    best = computing + matching + others + waiting + max(0.0, gradients - computing)
    return {name: 1e3 * value for name, value in parts.items()} | {
        "best": 1e3 * best,
        "worst": 1e3 * sum(parts.values()),
        "sent": sum(sent.values()),
    }


def pairs_flops(setting: Setting) -> float:
    """Of one image and one caption in the words loss, forward and backward: six products of regions and words."""
    regions, words, channels = 17 * 17, setting.train.data.max_words, setting.generator.word_channels
    return 6 * 2.0 * regions * words * channels


def tables(payloads: Payloads, sizes: list[int], images: int, assumed: Assumed) -> list[tuple[str, Table]]:
    setting, own = payloads.setting, payloads.setting.batch // 2
    by_kind: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for kind, _, size in payloads.exchanges:
        by_kind[kind] += size
        calls[kind] += 1
    counted_table = Table(
        ["exchange", "times", f"bytes of a process at {own} images"],
        [[kind, calls[kind], f"{by_kind[kind]:,}"] for kind in by_kind],
    )
    flops = plan(setting.train, batch_size=setting.batch, memory_bytes=1 << 60, device="cuda").flops / setting.batch
    heads = ["GPUs", "batch", "sent by each, MB", "computing", "words loss", "gradients", "others", "waiting"]
    lines = []
    for size in sizes:
        row = step_time(payloads, flops, pairs_flops(setting), size, images, assumed)
        parts = ("computing", "words loss", "gradients", "captions, scores, statistics", "waiting for exchanges")
        alone = 1e3 * flops * images / assumed.flops
        lines.append(
            [
                size,
                size * images,
                f"{row['sent'] / 1e6:.0f}",
                *(f"{row[part]:.1f}" for part in parts),
                f"{row['best']:.1f}–{row['worst']:.1f}",
                f"{100 * alone / row['worst']:.0f}–{100 * alone / row['best']:.0f}",
                max(parts[1:], key=lambda part: row[part]),
            ]
        )
    times = Table([*heads, "step, ms", "efficiency, %", "largest beside computing"], lines)
    title = f"computed: {setting.name.split()[0]}, {images} images a GPU, {flops / 1e9:.0f} GFLOP an image"
    return [("counted in a step on two processes", counted_table), (title, times)]


# ------------------------------------------------------------------------------------------------------------- checking


def in_namespace(arguments: argparse.Namespace) -> None:
    """One of the processes of ``check``, in a network of its own: times of its steps and bytes that left it."""
    torch.set_num_threads(1)
    rank, size = arguments.rank, arguments.size
    address = "tcp://10.99.0.1:29500"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    setting, all_ = SETTINGS[arguments.setting], Processes.of()
    step, part = ours(Models.build(setting), setting.config), part_of(batch_of(setting), all_)
    step(**part)
    left = Path(f"/sys/class/net/eth{rank}/statistics/tx_bytes")
    times, sent = [], []
    for _ in range(arguments.repeats):
        all_.wait()
        before, begin = int(left.read_text()), time.perf_counter()
        step(**part)
        times.append(1e3 * (time.perf_counter() - begin))
        all_.wait()
        sent.append(int(left.read_text()) - before)
    if rank == 0:
        found = {"ms": statistics.median(times), "sent": statistics.median(sent)}
        Path(arguments.out).write_text(json.dumps(found))
    distributed.destroy_process_group()


def script(size: int, rate: str | None, setting: str, repeats: int, out: Path) -> str:
    """Shell: a network namespace for each process on one bridge; what each sends is throttled to ``rate``."""
    lines = ["set -e", "mount -t tmpfs none /run", "mkdir /run/netns", "ip link add bridge0 type bridge"]
    lines += ["ip link set bridge0 up"]
    for rank in range(size):
        inside = f"ip netns exec p{rank}"
        lines += [
            f"ip netns add p{rank}",
            f"ip link add eth{rank} netns p{rank} type veth peer name to{rank}",
            f"ip link set to{rank} master bridge0",
            f"ip link set to{rank} up",
            f"{inside} ip addr add 10.99.0.{rank + 1}/24 dev eth{rank}",
            f"{inside} ip link set eth{rank} up",
            f"{inside} ip link set lo up",
        ]
        if rate:
            lines.append(f"{inside} tc qdisc add dev eth{rank} root tbf rate {rate} burst 256kb latency 400ms")
    for rank in range(size):
        command = (
            f"GLOO_SOCKET_IFNAME=eth{rank} ip netns exec p{rank} {sys.executable} -m benchmarks.traffic "
            f"--rank {rank} --size {size} --setting {setting} --repeats {repeats} --out {out}"
        )
        lines.append(f'{command} & pids="$pids $!"')
    lines.append("for pid in $pids; do wait $pid; done")
    return "\n".join(lines)


def check(payloads: Payloads, name: str, sizes: list[int], rates: list[str], repeats: int) -> Rows:
    """Bytes on the wire and step times of processes in networks of their own, against what was computed."""
    rows: Rows = []
    machine = environment()
    for size in sizes:
        images = payloads.setting.batch / size
        computed = payloads.sent(size, images)
        free = 0.0
        for rate in [None, *rates]:
            with TemporaryDirectory() as folder:
                out = Path(folder) / "found.json"
                shell = script(size, rate, name, repeats, out)
                subprocess.run(["unshare", "-n", "-m", "bash", "-c", shell], check=True, env=os.environ)
                found = json.loads(out.read_text())
            free = found["ms"] if rate is None else free
            row: Row = {"op": "traffic", "case": payloads.setting.name, "implementation": f"{size} processes"} | machine
            row |= {"rate": rate, "median_ms": found["ms"], "sent": found["sent"], "computed": sum(computed.values())}
            if rate is not None:
                second = float(rate.removesuffix("mbit")) * 1e6 / 8
                others = sum(computed.values()) - computed["gradients"]
                row |= {
                    "best_ms": free + 1e3 * others / second + max(0.0, 1e3 * computed["gradients"] / second - free),
                    "worst_ms": free + 1e3 * sum(computed.values()) / second,
                }
            rows.append(row | {"direction": "step", "correct": True})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="birds")
    parser.add_argument("--gpus", default="8,64,512", help="how many, with commas (default 8,64,512)")
    parser.add_argument("--images", type=int, default=10, help="of a GPU (default 10)")
    parser.add_argument("--flops", type=float, default=Assumed.flops, help="a second that a GPU sustains")
    parser.add_argument("--check", metavar="P,...", help="processes on throttled wires here; needs root")
    parser.add_argument("--rates", default="1000mbit,200mbit", help="of --check (default 1000mbit,200mbit)")
    parser.add_argument("--repeats", type=int, default=5, help="steps of --check (default 5)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--json", type=Path, help="write what was counted here")
    for internal in ("rank", "size"):
        parser.add_argument(f"--{internal}", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        in_namespace(arguments)
        return
    payloads = Payloads(SETTINGS[arguments.setting], exchanges_of(arguments.setting))
    if arguments.check:
        sizes = [int(size) for size in arguments.check.split(",")]
        rows = check(payloads, arguments.setting, sizes, arguments.rates.split(","), arguments.repeats)
        found = [("measured on wires", _checked(rows))]
        finish(rows, arguments.json)
    else:
        assumed = Assumed(flops=arguments.flops)
        found = tables(payloads, [int(n) for n in arguments.gpus.split(",")], arguments.images, assumed)
        print(f"assumed: {assumed}")
        if arguments.json:
            write_json(arguments.json, payloads.exchanges)
    for title, table in found:
        print(f"\n{title}\n\n{table.markdown()}") if arguments.markdown else table.print(title)


def _checked(rows: Rows) -> Table:
    lines = []
    for row in rows:
        between = f"{row['best_ms']:.0f}–{row['worst_ms']:.0f}" if row["rate"] else "(what is added to)"
        sent = [f"{row[name] / 1e6:.2f}" for name in ("sent", "computed")]
        lines.append([row["implementation"], row["rate"] or "free", *sent, f"{row['median_ms']:.0f}", between])
    return Table(["on", "rate", "sent by the first, MB", "computed, MB", "step, ms", "computed, ms"], lines)


if __name__ == "__main__":
    main()
