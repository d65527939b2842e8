"""``sample``: captions in, images out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmgan_fast.cli.app import START, app
from dmgan_fast.cli.captions import Given, gather
from dmgan_fast.cli.options import Device, Step, refuse_processes, working
from dmgan_fast.errors import InputError

if TYPE_CHECKING:
    from dmgan_fast.sampling.sampler import Sample, Sampler

HUB = "Weights on the Hub"
SHOWN = 100  # images in grid.png and sheet.png
STEM = 60  # characters of a caption in a file's name
BYTES = 120  # and bytes, for file systems that take 255 in all


@app.command(
    rich_help_panel=START,
    epilog='Example: dmgan-fast sample "a red apple" "a blue car" --seed 3 --out samples --attention',
)
def sample(
    captions: Annotated[
        list[str] | None,
        typer.Argument(metavar="CAPTION...", help="What to generate; - reads standard input.", show_default=False),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|OWNER/NAME",
            help="A run, its weights, one of its checkpoints, or a Hub id: --weights runs/gan; default: those shipped.",
        ),
    ] = None,
    step: Step = None,
    revision: Annotated[
        str | None, typer.Option(help="Of a Hub id: a branch, tag or commit: --revision v1.", rich_help_panel=HUB)
    ] = None,
    subfolder: Annotated[
        str, typer.Option(help="Of a Hub id: where its weights are: --subfolder weights.", rich_help_panel=HUB)
    ] = "",
    token: Annotated[
        str | None,
        typer.Option(help="For a private Hub id; default: HF_TOKEN, or that of `hf auth login`.", rich_help_panel=HUB),
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where to keep what the Hub sends; default: its cache.", rich_help_panel=HUB)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--captions", metavar="FILE", help="Captions, one per line, or JSONL: --captions birds.txt; - reads stdin."
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Images of each caption: --count 4.")] = 1,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="FROM TO",
            help='Images on the way between two captions: --between "a red bird" "a blue bird" --steps 8.',
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Of --between, both captions included.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the noise: another seed gives another image.")] = 0,
    truncation: Annotated[
        float | None,
        typer.Option(help="Keep the noise within so many deviations: --truncation 0.7 is more typical, less varied."),
    ] = None,
    noise: Annotated[
        float, typer.Option(help="Multiply the noise: --noise 0.5; at 0 every seed generates the same image.")
    ] = 1.0,
    batch: Annotated[int, typer.Option(help="Images generated at once.")] = 16,
    tile: Annotated[
        int | None, typer.Option(help="Generate in windows of this size, 64 or more: large images in little memory.")
    ] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("samples"),
    sheet: Annotated[bool, typer.Option("--sheet", help="Also sheet.png: images with their captions.")] = False,
    attention: Annotated[bool, typer.Option("--attention", help="Also a map for each word.")] = False,
    gates: Annotated[bool, typer.Option("--gates", help="Also the response gates.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: captions, unknown words and files, once all are written.")
    ] = False,
) -> None:
    """Generate images from captions, at every resolution.

    Under torchrun its processes share them: torchrun --nproc-per-node 4 -m dmgan_fast sample --captions birds.txt ...
    """
    from dmgan_fast.parallel import Processes
    from dmgan_fast.sampling.sampler import Sampler

    if between:
        refuse_processes("sample --between")
    given = [] if between and not captions and file is None else gather(captions or [], file)
    if between and (given or count != 1 or attention or gates):
        raise InputError("--between takes two captions only; leave out CAPTION, --captions, --count and maps")
    download = {"revision": revision, "token": token, "cache_dir": cache_dir}
    download = {name: value for name, value in download.items() if value is not None}
    sampler = Sampler.from_pretrained(weights, device=device, step=step, subfolder=subfolder, **download)
    config = sampler.generator.config
    if gates and (config.refinement == "attention" or not config.response_gate):
        raise InputError("--gates: this model has no response gates")
    options: dict[str, Any] = {"seed": seed, "batch_size": batch, "tile": tile}
    options |= {"truncation": truncation, "noise_strength": noise}
    total = steps if between else len(given)
    shown: list[Sample] = []
    told: list[tuple[int, int, dict[str, Any]]] = []
    with Processes.joined() as processes:
        with processes.agreeing():
            results: Iterator[Sample]
            if between:
                results = iter(sampler.between(*between, steps=steps, **options))
            else:
                options |= {"count": count, "maps": attention or gates, "part": (processes.rank, processes.size)}
                results = _sampled(sampler, given, **options)
            at_once = processes.first and total * count > batch
            own = -(-total * count // processes.size)
            with working("generating", own) if at_once else nullcontext(lambda: None) as tick:
                for result in results:
                    if result.unknown and result.copy == 1:
                        unknown = ", ".join(result.unknown)
                        typer.echo(f"caption {result.number}: unknown words left out: {unknown}", err=True)
                    files = list(map(str, _write(result, _place(result, total, count), out, attention, gates)))
                    if not as_json and processes.size == 1:
                        typer.echo("\n".join(files))
                    entry = {"caption": result.caption, "unknown": result.unknown, "files": files}
                    told.append((result.number, result.copy, entry))
                    if (result.number - 1) * count + result.copy <= SHOWN:
                        shown.append(result)
                    tick()
        ordered = sorted(chain(*processes.objects(told)), key=lambda each: each[:2])
        entries = [entry for _, _, entry in ordered]
        shown = sorted(chain(*processes.objects(shown)), key=lambda result: (result.number, result.copy))
    if not processes.first:
        return
    if not as_json and processes.size > 1:
        typer.echo("\n".join(file for each in entries for file in each["files"]))
    sheets = _write_sheets(shown, total * count, count, out, sheet)
    if as_json:
        typer.echo(json.dumps({"images": entries, "sheets": list(map(str, sheets))}, indent=2, ensure_ascii=False))
    else:
        for path in sheets:
            typer.echo(path)


def _sampled(sampler: Sampler, given: Sequence[Given], **options: Any) -> Iterator[Sample]:
    for caption in given:
        if caption.where and not sampler.vocabulary.encode(caption.text)[0]:
            raise InputError(f"captions: {caption.where}: {caption.text!r} has no word that the model knows")
    return sampler.stream([caption.text for caption in given], **options)


def _place(result: Sample, total: int, count: int) -> str:
    """The number that a file's name begins with: names sort as the captions do."""
    number = f"{result.number:0{max(3, len(str(total)))}d}"
    return number if count == 1 else f"{number}-{result.copy:0{max(2, len(str(count)))}d}"


def _write(result: Sample, place: str, out: Path, attention: bool, gates: bool) -> list[Path]:
    """Images, and the maps asked for, as PNG files named after the caption."""
    from dmgan_fast.images import pil_image, relative, save_image, shade

    stem = f"{place}-{_short('-'.join(result.words))}"
    files = [(out / f"{stem}-{image.shape[-1]}.png", pil_image(image)) for image in result.images]
    for maps in result.attention if attention else []:
        for position, (word, weight) in enumerate(zip(result.words, relative(maps), strict=True), start=1):
            name = f"{stem}-{maps.shape[-1]}-attention-{position:02d}-{_short(word)}.png"
            files.append((out / name, shade(result.images[-1], weight)))
    for gate in result.response_gates if gates else []:
        files.append((out / f"{stem}-{gate.shape[-1]}-gate.png", shade(result.images[-1], gate)))
    for file, image in files:
        save_image(image, file)
    return [file for file, _ in files]


def _short(text: str) -> str:
    return text[:STEM].encode()[:BYTES].decode(errors="ignore")


def _write_sheets(shown: list[Sample], total: int, count: int, out: Path, sheet: bool) -> list[Path]:
    """``grid.png`` of several images; ``sheet.png`` with captions if asked for."""
    from dmgan_fast.images import contact_sheet, grid, save_image

    files = []
    if len(shown) > 1:
        rows = [result.images for result in shown]
        if count > 1:  # a row for each caption, its images beside each other
            whole = len(shown) // count * count or len(shown)
            last = [result.images[-1] for result in shown[:whole]]
            rows = [last[k : k + count] for k in range(0, whole, count)]
        files.append((out / "grid.png", grid(rows)))
    if sheet:
        files.append((out / "sheet.png", contact_sheet([(result.caption, result.images[-1]) for result in shown])))
    for file, image in files:
        save_image(image, file)
    if files and total > len(shown):
        typer.echo(f"grid.png and sheet.png show the first {len(shown)} of {total} images", err=True)
    return [file for file, _ in files]
