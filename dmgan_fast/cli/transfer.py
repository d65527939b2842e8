"""``export``: weights for other code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from dmgan_fast.cli.app import app
from dmgan_fast.cli.options import working


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
        with working("exporting"):
            files = export_sampler(Sampler.from_pretrained(weights), out, words=words)
    else:
        from dmgan_fast.compat import export_bundle
        from dmgan_fast.training.weights import SHIPPED

        files = export_bundle(weights or SHIPPED, out)
    for file in files:
        typer.echo(file)
