"""``sample``: captions in, pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from dmgan_fast.cli.app import app
from dmgan_fast.errors import InputError

if TYPE_CHECKING:
    from dmgan_fast.training.sampling import Drawing


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
