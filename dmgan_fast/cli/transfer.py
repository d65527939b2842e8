"""``import`` and ``export``: weights from other code and for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmgan_fast.cli.app import WEIGHTS, app
from dmgan_fast.cli.options import Step, notices, working


@app.command(
    "import",
    rich_help_panel=WEIGHTS,
    epilog="Example: dmgan-fast import bird_DMGAN.pth text_encoder200.pth image_encoder200.pth captions.pickle "
    "--out runs/authors",
)
def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Published weights, and captions.pickle.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the weights, for --weights, --damsm and --init-from.")],
    vocabulary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the text encoder was trained with: --vocabulary captions.pickle."),
    ] = None,
    mask_mode: Annotated[
        str, typer.Option("--masks", help="The generator's attention masks: --masks official (theirs) or paper.")
    ] = "official",
) -> None:
    """Read published generators, discriminators and encoders of DM-GAN's family in any format, with their vocabulary.

    Says what each file is, and which command still lacks which file.
    """
    from dmgan_fast.compat import import_bundle

    found = import_bundle(files, out, vocabulary=vocabulary, mask_mode=mask_mode)
    for line in found.lines:
        typer.echo(line)
    for line in found.missing:
        typer.echo(f"missing: {line}", err=True)
    typer.echo(f"weights in {out}")


@app.command(rich_help_panel=WEIGHTS, epilog="Example: dmgan-fast export --weights runs/birds --out birds.onnx")
def export(
    out: Annotated[
        Path,
        typer.Option(
            help="*.onnx, *.pt2 (for torch.export.load), or a folder for the authors' netG.pth, netD0.pth and encoders."
        ),
    ],
    weights: Annotated[Path | None, typer.Option(help="A run or its weights; default: those shipped.")] = None,
    step: Step = None,
    words: Annotated[int, typer.Option(help="In a graph: words to which captions are padded with 0.")] = 25,
) -> None:
    """Write the sampler as one graph that runs without this package, or weights as files that the authors' code loads.

    The graph takes captions, lengths, noise and eps.
    """
    if out.suffix:
        from dmgan_fast.sampling.export import check, export_sampler
        from dmgan_fast.sampling.sampler import Sampler

        check(out, words)
        with working("exporting"):
            files = export_sampler(Sampler.from_pretrained(weights, device="cpu", step=step), out, words=words)
    else:
        from dmgan_fast.compat import export_bundle
        from dmgan_fast.sampling.bundle import SHIPPED

        with notices():
            files = export_bundle(weights or SHIPPED, out, step=step)
    for file in files:
        typer.echo(file)
