"""``dmgan-fast``: train, sample, and look at what runs where."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from dmgan_fast._version import __version__
from dmgan_fast.errors import DMGANError, InputError, Interrupted

if TYPE_CHECKING:
    from dmgan_fast.data import Report
    from dmgan_fast.training.sampling import Drawing

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_DOES_NOT_FIT = 1
EXIT_BAD_DATA = 1
DEFAULT_SIZE = 256

app = typer.Typer(
    name="dmgan-fast",
    help="DM-GAN: text to picture by memory-driven refinement.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Preset = Annotated[str, typer.Option(help="Settings to start from: birds, coco, attngan-birds, attngan-coco or demo.")]
ConfigFile = Annotated[Optional[Path], typer.Option("--config", help="YAML file over the preset.")]  # noqa: UP045
Settings = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, as loop.steps=500; may be repeated."),
]
DataFolder = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--data", help="'demo' or a folder: CUB, COCO, flowers, or your own (docs/data.md)."),
]
SkipBad = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--skip-bad",
        metavar="N",
        min=0,
        help="Go on without at most N images that are missing, damaged or without a caption, as --skip-bad 3; they are "
        "named. Default: none, the run refuses.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint in --out.")]
Threads = Annotated[Optional[int], typer.Option(min=1, help="CPU threads.")]  # noqa: UP045


Size = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Largest side: 64, 128, 256, 512, 1024, ...; default: the preset's."),
]
Precision = Annotated[Optional[str], typer.Option("--dtype", help="fp32, bf16 or fp16.")]  # noqa: UP045


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dmgan-fast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Listed for the help: main() reads --debug."""


@app.command(epilog="Example: dmgan-fast demo --out demo_out")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("demo_out"),
    pretrain_steps: Annotated[int, typer.Option(min=1, help="Steps of the encoders.")] = 300,
    train_steps: Annotated[int, typer.Option(min=1, help="Steps of the GAN.")] = 300,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train on the embedded pictures for a few minutes, draw from captions, write index.html."""
    from dmgan_fast.demo import run_demo

    page = run_demo(out, pretrain_steps=pretrain_steps, train_steps=train_steps, seed=seed)
    typer.echo(f"open {page}")


@app.command(epilog="Example: dmgan-fast pretrain --data data/birds --out runs/damsm")
def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for logs, checkpoints and weights.")],
    data: DataFolder = None,
    config: ConfigFile = None,
    preset: Preset = "birds",
    settings: Settings = None,
    skip_bad: SkipBad = None,
    resume: Resume = False,
    threads: Threads = None,
) -> None:
    """Train the text and image encoders (DAMSM)."""
    from dmgan_fast.training import damsm
    from dmgan_fast.training.config import PretrainConfig, build_config

    _use_threads(threads)
    values = _data_values(data, skip_bad)
    built = build_config(PretrainConfig, preset=preset, file=config, overrides=settings or [], values=values)
    damsm.pretrain(built, out, resume=resume)
    typer.echo(f"weights in {out / 'weights'}")


@app.command(epilog="Example: dmgan-fast train --data data/birds --damsm runs/damsm --out runs/birds --resume")
def train(
    out: Annotated[Path, typer.Option(help="Folder for logs, checkpoints and weights.")],
    damsm: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of a finished `pretrain`; or `encoders:` in the config."),
    ] = None,
    data: DataFolder = None,
    config: ConfigFile = None,
    preset: Preset = "birds",
    settings: Settings = None,
    size: Size = None,
    dtype: Precision = None,
    memory: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Budget, as 24GiB: choose what is kept and what is computed again so that a step fits."),
    ] = None,
    init_from: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--init-from", help="A run or weights of a smaller model: grow from it, new stages start fresh."),
    ] = None,
    skip_bad: SkipBad = None,
    resume: Resume = False,
    threads: Threads = None,
) -> None:
    """Train the GAN."""
    from dmgan_fast.training import trainer
    from dmgan_fast.training.config import TrainConfig, build_config
    from dmgan_fast.training.planner import fit

    _use_threads(threads)
    values = _data_values(data, skip_bad)
    values |= {"encoders": str(damsm)} if damsm else {}
    values |= {"init_from": str(init_from)} if init_from else {}
    values |= _generator_values(size, dtype)
    built = build_config(TrainConfig, preset=preset, file=config, overrides=settings or [], values=values)
    if memory is not None:
        built, plan = fit(built, memory)
        typer.echo(plan.explain(), err=True)
    trainer.train(built, out, resume=resume)
    typer.echo(f"weights in {out / 'weights'}")


@app.command(epilog="Example: dmgan-fast plan --size 1024 --batch 10 --dtype bf16 --memory 24GiB")
def plan(
    size: Size = None,
    batch: Annotated[Optional[int], typer.Option(help="Pictures a step; default: the preset's.")] = None,  # noqa: UP045
    dtype: Precision = None,
    memory: Annotated[Optional[str], typer.Option(help="Budget, as 24GiB; default: all the device has.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="cpu or cuda, which need not be here.")] = None,  # noqa: UP045
    config: ConfigFile = None,
    preset: Preset = "birds",
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What a training step needs in memory, and the cheapest way to make it fit."""
    from dmgan_fast.training import planner
    from dmgan_fast.training.config import TrainConfig, build_config

    values = _generator_values(size, dtype)
    built = build_config(TrainConfig, preset=preset, file=config, overrides=settings or [], values=values)
    budget = planner.parse_size(memory) if memory else planner.device_memory(device)
    batch_size = batch or built.loop.batch_size
    with _working("running steps without data"):
        found = planner.plan(built, batch_size=batch_size, memory_bytes=budget, device=device)
        text = found.to_json() if as_json else found.explain()  # looks for the largest batch and side
    typer.echo(text)
    if not found.fits:
        raise typer.Exit(EXIT_DOES_NOT_FIT)


@app.command(epilog="Example: dmgan-fast check data/birds --damsm runs/damsm --json")
def check(
    data: Annotated[str, typer.Argument(metavar="DATA", help="'demo' or a folder, in any layout of docs/data.md.")],
    size: Annotated[
        int, typer.Option(min=1, help="Name images smaller than this resolution, as --size 512.")
    ] = DEFAULT_SIZE,
    damsm: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Encoders whose words to compare with the captions', as --damsm runs/damsm."),
    ] = None,
    batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Images a step that training images must suffice for, as --batch 48."),
    ] = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Read all of every image: dmgan-fast check DATA --decode. Default: all of a small set, else headers "
            "and ends of 10,000.",
        ),
    ] = False,
    skip_bad: SkipBad = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs, with all names: dmgan-fast check DATA --json.")
    ] = False,
) -> None:
    """Look at a data set before training: what is missing, damaged or doubled, and what would teach nothing.

    Every run does so in its first seconds. Exit status 1: a run would refuse this set.
    """
    report = _look(data, size=size, damsm=damsm, batch=batch, decode=decode, skip_bad=skip_bad)
    typer.echo(report.to_json() if as_json else report.text())
    if report.errors:
        raise typer.Exit(EXIT_BAD_DATA)


@app.command(epilog="Example: dmgan-fast convert data/coco --out data/mine")
def convert(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder in any layout of docs/data.md.")],
    out: Annotated[Path, typer.Option(help="Folder to write: images and captions.jsonl; not there yet, or empty.")],
    skip_bad: SkipBad = None,
) -> None:
    """Copy a data set of any layout to a folder with captions.jsonl; images stay as they are."""
    from dmgan_fast.data import convert as write

    report = _look(data, size=1)
    with _working("copying images"):
        count, left_out = write(report, out, skip_bad=skip_bad or 0)
    for item in left_out:
        typer.echo(f"left out: {item.why}", err=True)
    typer.echo(f"{count} images in {out}")


@app.command(epilog='Example: dmgan-fast sample "a red apple" "a blue car" --seed 3 --out pictures --attention')
def sample(
    captions: Annotated[list[str], typer.Argument(metavar="CAPTION...", help="What to draw.", show_default=False)],
    weights: Annotated[Optional[Path], typer.Option(help="A run or its weights; default: those shipped.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Another seed, another picture.")] = 0,
    batch: Annotated[int, typer.Option(help="Captions drawn at once.")] = 16,
    tile: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Draw in windows of this side, 64 or more: large pictures in little memory."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("samples"),
    attention: Annotated[bool, typer.Option("--attention", help="Also a map for each word.")] = False,
    gates: Annotated[bool, typer.Option("--gates", help="Also the response gates.")] = False,
) -> None:
    """Draw pictures from captions, at every side."""
    from dmgan_fast.pictures import grid, save_picture
    from dmgan_fast.training.sampling import Sampler

    sampler = Sampler.from_pretrained(weights)
    config = sampler.generator.config
    if gates and (config.refinement == "attention" or not config.response_gate):
        raise InputError("--gates: this model has no response gates")
    drawings = sampler.draw(captions, seed=seed, batch_size=batch, maps=attention or gates, tile=tile)
    for number, drawing in enumerate(drawings, start=1):
        if drawing.unknown:
            typer.echo(f"caption {number}: unknown words left out: {', '.join(drawing.unknown)}", err=True)
        for file in _write(drawing, number, out, attention, gates):
            typer.echo(file)
    if len(drawings) > 1:
        save_picture(grid([drawing.images for drawing in drawings]), out / "grid.png")
        typer.echo(out / "grid.png")


@app.command(epilog="Example: dmgan-fast export --weights runs/birds --out birds.onnx")
def export(
    out: Annotated[
        Path,
        typer.Option(help="*.onnx, *.pt2 (for torch.export.load), or a folder for the authors' netG.pth and encoders."),
    ],
    weights: Annotated[Optional[Path], typer.Option(help="A run or its weights; default: those shipped.")] = None,  # noqa: UP045
    words: Annotated[int, typer.Option(help="In a graph: words to which captions are padded with 0.")] = 25,
) -> None:
    """Write the sampler as one graph that runs without this package, or weights as files that the authors' code loads.

    The graph takes captions, lengths, noise and eps.
    """
    if out.suffix:
        from dmgan_fast.training.export import check, export_sampler
        from dmgan_fast.training.sampling import Sampler

        check(out, words)
        with _working("exporting"):
            files = export_sampler(Sampler.from_pretrained(weights), out, words=words)
    else:
        from dmgan_fast.compat import export_bundle
        from dmgan_fast.training.weights import SHIPPED

        files = export_bundle(weights or SHIPPED, out)
    for file in files:
        typer.echo(file)


@app.command(epilog="Example: dmgan-fast evaluate --weights runs/birds --data data/birds --out runs/birds/evaluation")
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for the report; the same command goes on after a stop.")],
    weights: Annotated[Optional[str], typer.Option(help="A run or its weights; default: those shipped.")] = None,  # noqa: UP045
    pictures: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="DIR", help="Evaluate these pictures instead, whoever drew them."),
    ] = None,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Whose test split is drawn and compared with: a folder or 'demo'; default: the run's."),
    ] = None,
    damsm: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="DIR", help="Encoders for R-precision; default: those the run was trained with."),
    ] = None,
    count: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Pictures; default: 30000 to draw, all in --pictures.", show_default=False),
    ] = None,
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME,...", help="Only these; default: all that the weights here allow."),
    ] = None,
    inception: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="DIR", help="Folder of Inception weights; default: PyTorch's cache."),
    ] = None,
    classifier: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="FILE", help="Inception-v3 fine-tuned on birds, for is-birds."),
    ] = None,
    statistics: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="METRIC=FILE", help="An .npz of mu and sigma for the real pictures; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of noise, captions and candidates.")] = 0,
    max_words: Annotated[int, typer.Option(help="Words a caption is cut to; the paper: 25 for CUB, 20 for COCO.")] = 25,
    batch: Annotated[int, typer.Option(help="Pictures at once.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    skip_bad: SkipBad = None,
    cache: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="DIR", help="Features of real pictures; default: the user's cache."),
    ] = None,
    save_pictures: Annotated[bool, typer.Option("--save-pictures", help="Also write the drawn pictures.")] = False,
    keep_features: Annotated[bool, typer.Option("--keep-features", help="Keep the drawn pictures' features.")] = False,
    threads: Threads = None,
) -> None:
    """Measure drawn pictures: Inception Score, FID, KID, R-precision (docs/evaluation.md).

    Metrics: is-tf, is-coco, is-birds, fid-paper, fid-align-corners, fid-tf, fid-damsm, kid-tf, kid-damsm, r-precision,
    r-precision-official.

    Under torchrun the work is shared: torchrun --nproc-per-node 4 -m dmgan_fast evaluate ...
    """
    from dmgan_fast.config import load_config
    from dmgan_fast.evaluation import EvaluationConfig
    from dmgan_fast.evaluation import evaluate as run
    from dmgan_fast.evaluation.summary import JSON_NAME, MARKDOWN_NAME, by_reason, shown

    _use_threads(threads)
    values = {
        "weights": weights,
        "pictures": pictures,
        "data": data,
        "damsm": damsm,
        "count": count,
        "metrics": _names(metrics),
        "inception": inception,
        "classifier": classifier,
        "statistics": dict(_pair(given) for given in statistics or []),
        "seed": seed,
        "max_words": max_words,
        "batch_size": batch,
        "device": device,
        "skip_bad": skip_bad or 0,
        "cache": cache,
        "save_pictures": save_pictures,
        "keep_features": keep_features,
    }
    report = run(load_config(EvaluationConfig, values, where="evaluate"), out)
    if os.environ.get("RANK", "0") != "0":
        return
    for metric in report["metrics"]:
        typer.echo(f"{metric['title']}: {shown(metric)}")
        for note in metric["warnings"]:
            typer.echo(f"  warning: {note}")
    for why, names in by_reason(report["left_out"]).items():
        typer.echo(f"left out {names}: {why}", err=True)
    for why in (report["real"] or {}).get("left_out", ()):
        typer.echo(f"left out of the real pictures: {why}", err=True)
    typer.echo(f"{out / JSON_NAME}\n{out / MARKDOWN_NAME}")


@app.command(
    epilog="Example: dmgan-fast ablate --variants dm-gan,attention,no-text --set loop.steps=400 --out runs/ablation"
)
def ablate(
    out: Annotated[
        Path, typer.Option(help="Folder for runs, table and figure; the same command goes on after a stop.")
    ],
    variants: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME,...", help="What to compare with the first; also KEY=VALUE. Default: the paper's."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each variant.")] = 3,
    count: Annotated[int, typer.Option(min=2, help="Pictures drawn for each evaluation.")] = 2000,
    metrics: Annotated[Optional[str], typer.Option(metavar="NAME,...", help="Those of evaluate.")] = None,  # noqa: UP045
    damsm: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="DIR", help="Folder of a finished `pretrain`; default: the preset's, trained first."),
    ] = None,
    judge: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="DIR", help="Encoders to measure with; default: those of the training."),
    ] = None,
    data: DataFolder = None,
    config: ConfigFile = None,
    preset: Preset = "demo",
    settings: Settings = None,
    threads: Threads = None,
) -> None:
    """Train variants of one GAN from the same seeds for the same steps, and compare them.

    Variants: dm-gan, attention, memory, memory+writing-gate, memory+response-gate, words-only, sentence-only, no-text,
    no-damsm, official-masks, no-refinement, one-refinement, two-refinements, or any setting, as step.damsm_weight=5.
    """
    from dmgan_fast.experiments import ablation

    _use_threads(threads)
    ablation.ablate(
        out,
        variants=_names(variants) or ablation.PAPER,
        seeds=seeds,
        metrics=_names(metrics) or ablation.MEASURES,
        count=count,
        preset=preset,
        file=config,
        settings=settings or [],
        data=data,
        damsm=damsm,
        judge=judge,
    )
    typer.echo((out / ablation.MARKDOWN_NAME).read_text(encoding="utf-8"))


@app.command(epilog="Example: dmgan-fast study recovery --runs runs/ablation --out runs/studies")
def study(
    name: Annotated[str, typer.Argument(help="recovery, writing-gate, memory or gates.")],
    runs: Annotated[Path, typer.Option(help="What ablate wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for NAME.json, NAME.md and NAME.png.")],
    threads: Threads = None,
) -> None:
    """What the memory does, measured on the runs of an ablation (docs/studies.md)."""
    from dmgan_fast import experiments

    _use_threads(threads)
    typer.echo(experiments.study(name, runs, out).read_text(encoding="utf-8"))


@app.command(epilog="Example: dmgan-fast benchmark --report benchmarks.html")
def benchmark(
    report: Annotated[Path, typer.Option(metavar="FILE", help="The page to write: one HTML file with all figures.")],
    run: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="PART,...", help="Measure first: all, or some of the parts; default: only committed results."
        ),
    ] = None,
    authors: Annotated[Optional[Path], typer.Option(help="A checkout of the authors' DM-GAN, also timed.")] = None,  # noqa: UP045
) -> None:
    """Speed and memory against the authors' code and other rivals, as a page; in a checkout of this project."""
    import subprocess

    root = Path(__file__).parents[1]
    if not (root / "benchmarks" / "all.py").is_file():
        raise InputError("benchmark: the benchmarks are not in the package; run it in a checkout of the project")
    if run is None and authors is not None:
        raise InputError("benchmark: --authors times their code, which needs --run")
    command = [sys.executable, "-m", "benchmarks.page", str(report.absolute())]
    if run is not None:
        command = [sys.executable, "-m", "benchmarks.all", "--report", str(report.absolute())]
        command += [] if run == "all" else ["--only", run]
        command += ["--authors", str(authors.absolute())] if authors else []
    status = subprocess.run(command, cwd=root).returncode
    if status:
        raise typer.Exit(status)
    typer.echo(report)


@app.command(epilog="Example: dmgan-fast info --json")
def info(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Versions, devices, and which backend can run each op here."""
    from dmgan_fast.info import collect

    table = collect()
    if as_json:
        typer.echo(json.dumps(table, indent=2))
        return
    for name, value in table.items():
        if name == "ops":
            for op, backends in value.items():
                typer.echo(f"{op}:")
                for backend, answer in backends.items():
                    typer.echo(f"  {backend:<10} {answer}")
        elif isinstance(value, dict):
            typer.echo(f"{name}: " + ", ".join(f"{key} {text}" for key, text in value.items()))
        else:
            typer.echo(f"{name}: {', '.join(value) or 'none' if isinstance(value, list) else value}")


def _look(
    data: str,
    *,
    size: int,
    damsm: Path | None = None,
    batch: int | None = None,
    decode: bool = False,
    skip_bad: int | None = None,
) -> Report:
    from dmgan_fast.data import Purpose, Vocabulary, check_data
    from dmgan_fast.training.weights import VOCABULARY_NAME, find_bundle

    words = Vocabulary.load(find_bundle(damsm, "text_encoder") / VOCABULARY_NAME) if damsm else None
    with _working("looking at the images"):
        purpose = Purpose(side=size, batch_size=batch, skip_bad=skip_bad or 0)
        return check_data(data, purpose, vocabulary=words, decode=decode)


def _data_values(data: str | None, skip_bad: int | None) -> dict[str, object]:
    """Settings of ``--data`` and ``--skip-bad``."""
    given = {"source": data or None, "skip_bad": skip_bad}
    values = {name: value for name, value in given.items() if value is not None}
    return {"data": values} if values else {}


def _generator_values(size: int | None, dtype: str | None) -> dict[str, object]:
    """Settings of ``--size`` and ``--dtype``."""
    from dmgan_fast.modules.generator import sides_up_to

    values: dict[str, object] = {"generator": {"image_sizes": sides_up_to(size)}} if size is not None else {}
    return values | ({"step": {"precision": dtype}} if dtype else {})


@contextmanager
def _working(what: str) -> Iterator[None]:
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _use_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _names(given: str | None) -> list[str]:
    return [name.strip() for name in (given or "").split(",") if name.strip()]


def _pair(given: str) -> tuple[str, str]:
    name, separator, value = given.partition("=")
    if not separator:
        raise InputError(f"--statistics is written METRIC=FILE, got {given!r}")
    return name, value


def _write(drawing: Drawing, number: int, out: Path, attention: bool, gates: bool) -> list[Path]:
    """Pictures, and the maps asked for, as PNG files named after the caption."""
    from dmgan_fast.pictures import picture_of, relative, save_picture, shade

    stem = f"{number:03d}-" + "-".join(drawing.words)[:60]
    files = [(out / f"{stem}-{image.shape[-1]}.png", picture_of(image)) for image in drawing.images]
    for maps in drawing.attention if attention else []:
        for position, (word, weight) in enumerate(zip(drawing.words, relative(maps), strict=True), start=1):
            name = f"{stem}-{maps.shape[-1]}-attention-{position:02d}-{word}.png"
            files.append((out / name, shade(drawing.images[-1], weight)))
    for gate in drawing.response_gates if gates else []:
        files.append((out / f"{stem}-{gate.shape[-1]}-gate.png", shade(drawing.images[-1], gate)))
    for file, picture in files:
        save_picture(picture, file)
    return [file for file, _ in files]


def main() -> None:
    """Run; errors a user can act on are one paragraph and exit with 2, Ctrl-C with 130."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments  # wherever it stands
    try:
        status = app([argument for argument in arguments if argument != "--debug"], standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)  # what typer.Exit carried, if a command raised it
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except DMGANError as error:
        if debug:
            raise
        print(f"dmgan-fast: {error}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED if isinstance(error, Interrupted) else EXIT_BAD_INPUT)
    except Exception as error:
        if debug or not hasattr(error, "format_message"):  # click's own: bad options
            raise
        print(f"dmgan-fast: {error.format_message()}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
