"""All that a GPU can tell, in one command: ``python -m benchmarks.card --out DIR --minutes 8``.

For a machine with a GPU and no network, on the Python that is there: nothing is installed. Small packages that it
lacks are taken from a folder of wheels (``--wheels``), which are unpacked for this run alone.
Native libraries are built before, or brought (``dmgan_fast/*.so``).

Stages run in order, each in a process of its own under its own part of the time; ``DIR/card.jsonl`` gets every row as
it is found, ``DIR/card.log`` what the stages print, and after each stage ``DIR/card.md`` all tables: what is there when
the command is stopped stays. Nothing else is put into ``DIR``. ``--device cpu --tiny`` tries all of it on small shapes.
docs/gpu.md says what each figure means.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
import zipfile
from functools import partial
from pathlib import Path

# What the stages import beside PyTorch.
NEEDED = ("numpy", "PIL", "pydantic", "yaml", "rich", "jinja2", "matplotlib", "safetensors", "torchvision")
NEEDED += ("huggingface_hub",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder for the results: new, or without a `card.jsonl`"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all stages together (default 8)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the command itself")
    workers = max(1, min(12, (os.cpu_count() or 1) - 2))
    parser.add_argument(
        "-n", "--workers", type=int, default=workers, help=f"processes that check ops at once (here {workers})"
    )
    parser.add_argument("--only", help="some stages, with commas between")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of packages that this Python lacks")
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or arguments.workers < 1:
        parser.error("--minutes and --workers must be more than 0")
    if (arguments.out / "card.jsonl").exists():
        parser.error(f"--out: {arguments.out} holds results already; give another folder")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dmgan-fast-card-") as scratch:
        prepare_and_run(arguments, Path(scratch), parser)


def prepare_and_run(arguments: argparse.Namespace, scratch: Path, parser: argparse.ArgumentParser) -> None:
    """With what is missing in ``scratch``, where stages also put what nobody needs afterwards."""
    if arguments.wheels:
        unpack(arguments.wheels, scratch / "site", parser)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"this Python lacks {', '.join(missing)}: put their wheels into a folder and name it by --wheels")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # of the processes of stages, and of theirs
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("ended by SIGTERM"))
    try:
        run(arguments, scratch, parser)
    finally:
        signal.signal(signal.SIGTERM, before)


def unpack(wheels: Path, site: Path, parser: argparse.ArgumentParser) -> None:
    """Unpacks every wheel into ``site``, which comes first among the places of modules."""
    files = sorted(wheels.glob("*.whl"))
    if not files:
        parser.error(f"--wheels: {wheels} holds no file that ends in .whl")
    for file in files:
        try:
            with zipfile.ZipFile(file) as wheel:
                wheel.extractall(site)
        except zipfile.BadZipFile as error:
            parser.error(f"--wheels: {file} is not a wheel: {error}")
    sys.path.insert(0, str(site.resolve()))
    importlib.invalidate_caches()


def run(arguments: argparse.Namespace, scratch: Path, parser: argparse.ArgumentParser) -> None:
    """The stages, those first that decide whether the GPU is verified, and the tables."""
    from benchmarks.gpu.stages import Options, Stage, run_all
    from benchmarks.gpu.summary import summarise

    stages = [
        Stage("environment", "benchmarks.gpu.checks:environment", 0.04, least=90.0),  # imports from a cold disk
        Stage("check", "benchmarks.gpu.checks:check", 0.14),
        Stage("steps", "benchmarks.gpu.speed:steps", 0.14),
        Stage("sanitizer", "benchmarks.gpu.tools:sanitizer", 0.12),
        Stage("ops", "benchmarks.gpu.speed:ops", 0.08),
        Stage("memory", "benchmarks.gpu.memory:memory", 0.06),
        Stage("profiler", "benchmarks.gpu.tools:profiler", 0.06),
        Stage("training", "benchmarks.gpu.training:training", 0.36),  # and what the others leave
    ]
    names = [stage.name for stage in stages]
    chosen = arguments.only.split(",") if arguments.only else names
    unknown = [name for name in chosen if name not in names]
    if unknown:
        parser.error(f"--only: no stage {', '.join(unknown)}; there are {', '.join(names)}")
    chosen_options = (arguments.out.resolve(), arguments.device, arguments.tiny, arguments.workers)
    options = Options(*chosen_options, scratch=scratch, needed=NEEDED)
    chosen_stages = [stage for stage in stages if stage.name in ("environment", *chosen)]
    run_all(chosen_stages, options, 60 * arguments.minutes, after_each=partial(summarise, options, quiet=True))
    if not summarise(options):
        sys.exit(f"a stage failed or a result is wrong: see {options.out / 'card.md'}")


if __name__ == "__main__":
    main()
