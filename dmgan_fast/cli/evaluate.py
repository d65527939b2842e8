"""``evaluate``: how good images are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand

from dmgan_fast.cli.app import MEASURE, app
from dmgan_fast.cli.options import SkipBad, Step, Threads, first_process, pair, split_names, use_threads


class _TakesOldNames(TyperCommand):
    """Takes options by the names that they had in earlier versions too, and says what they are called now."""

    old: ClassVar = {"--pictures": "--images", "--save-pictures": "--save-images"}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [self._now(argument) for argument in args])

    def _now(self, argument: str) -> str:
        name, given, value = argument.partition("=")
        if name not in self.old:
            return argument
        typer.echo(f"{name} is called {self.old[name]} now", err=True)
        return self.old[name] + given + value


@app.command(
    cls=_TakesOldNames,
    rich_help_panel=MEASURE,
    epilog="Example: dmgan-fast evaluate --weights runs/birds --data data/birds --out runs/birds/evaluation",
)
def evaluate(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for the report; the same command continues after a stop.")],
    weights: Annotated[str | None, typer.Option(help="A run or its weights; default: those shipped.")] = None,
    step: Step = None,
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="Evaluate these images instead, whoever generated them.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Whose test split gives captions and real images: a folder or 'demo'; default: the run's."),
    ] = None,
    damsm: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Encoders for R-precision; default: those the run was trained with."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Images; default: 30000 to generate, all in --images.", show_default=False)
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Only these; default: all that the weights here allow.")
    ] = None,
    inception: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of Inception weights; default: PyTorch's cache.")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(metavar="FILE", help="Inception-v3 fine-tuned on birds, for is-birds.")
    ] = None,
    statistics: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=FILE", help="An .npz of mu and sigma for the real images; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of noise, captions and candidates.")] = 0,
    max_words: Annotated[int, typer.Option(help="Words a caption is cut to; the paper: 25 for CUB, 20 for COCO.")] = 25,
    batch_size: Annotated[int, typer.Option("--batch", help="Images at once.")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    skip_bad: SkipBad = None,
    cache: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for features of real images; default: the user's cache.")
    ] = None,
    save_images: Annotated[bool, typer.Option("--save-images", help="Also write the generated images.")] = False,
    keep_features: Annotated[bool, typer.Option("--keep-features", help="Keep features of generated images.")] = False,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report, which --out gets too, as JSON.")] = False,
) -> None:
    """Measure generated images: Inception Score, FID, KID, R-precision (docs/evaluation.md).

    Metrics: is-tf, is-coco, is-birds, fid-paper, fid-align-corners, fid-tf, fid-damsm, kid-tf, kid-damsm, r-precision,
    r-precision-official.

    Under torchrun the work is shared: torchrun --nproc-per-node 4 -m dmgan_fast evaluate ...
    """
    from dmgan_fast.config import load_config
    from dmgan_fast.evaluation import EvaluationConfig
    from dmgan_fast.evaluation import evaluate as run
    from dmgan_fast.evaluation.summary import JSON_NAME, MARKDOWN_NAME, by_reason, shown

    use_threads(threads)
    settings = {name: value for name, value in context.params.items() if name not in ("out", "threads", "as_json")}
    settings["metrics"] = split_names(metrics)
    settings["statistics"] = dict(pair(given) for given in statistics or [])
    settings["skip_bad"] = skip_bad or 0
    report = run(load_config(EvaluationConfig, settings, where="evaluate"), out)
    if not first_process():
        return
    if as_json:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for metric in report["metrics"]:
        typer.echo(f"{metric['title']}: {shown(metric)}")
        for note in metric["warnings"]:
            typer.echo(f"  warning: {note}")
    for why, names in by_reason(report["left_out"]).items():
        typer.echo(f"left out {names}: {why}", err=True)
    for why in (report["real"] or {}).get("left_out", ()):
        typer.echo(f"left out of the real images: {why}", err=True)
    typer.echo(f"{out / JSON_NAME}\n{out / MARKDOWN_NAME}")
