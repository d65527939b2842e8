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
    from PIL.Image import Image

    from dmgan_fast.parallel import Processes
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
    written = _Written(out, steps if between else len(given), count, attention, gates)
    with Processes.joined() as processes:
        with processes.agreeing():
            results: Iterator[Sample]
            if between:
                results = iter(sampler.between(*between, steps=steps, **options))
            else:
                options |= {"count": count, "maps": attention or gates, "part": (processes.rank, processes.size)}
                results = _sampled(sampler, given, **options)
            _write(results, written, processes, at_once=batch, show=not as_json)
        written.gather(processes)
    if processes.first:
        _tell(written, written.sheets(captions=sheet), processes, as_json)


def _write(results: Iterator[Sample], written: _Written, processes: Processes, *, at_once: int, show: bool) -> None:
    """Write this process's images; ``show``: name their files as they come, if it is the only one."""
    long = processes.first and written.images > at_once
    own = -(-written.images // processes.size)
    with working("generating", own) if long else nullcontext(lambda: None) as tick:
        for result in results:
            files = written.add(result)
            if show and processes.size == 1:
                typer.echo("\n".join(files))
            tick()


def _tell(written: _Written, sheets: list[str], processes: Processes, as_json: bool) -> None:
    """What the command has not said yet of the files of all processes."""
    if as_json:
        entries = [entry for _, entry in written.entries]
        typer.echo(json.dumps({"images": entries, "sheets": sheets}, indent=2, ensure_ascii=False))
        return
    files = [file for _, entry in written.entries for file in entry["files"]] if processes.size > 1 else []
    if files or sheets:
        typer.echo("\n".join(files + sheets))


def _sampled(sampler: Sampler, given: Sequence[Given], **options: Any) -> Iterator[Sample]:
    for caption in given:
        if caption.where and not sampler.vocabulary.encode(caption.text)[0]:
            raise InputError(f"captions: {caption.where}: {caption.text!r} has no word that the model knows")
    return sampler.stream([caption.text for caption in given], **options)


class _Written:
    """Images as PNG files named after their captions, with the maps asked for.

    ``entries``: what ``--json`` says of each, by its place in the order of captions. ``shown``: those of the sheets.
    """

    def __init__(self, out: Path, captions: int, count: int, attention: bool, gates: bool) -> None:
        self.out, self.count, self.attention, self.gates = out, count, attention, gates
        self.images = captions * count
        self.digits = max(3, len(str(captions))), max(2, len(str(count)))
        self.entries: list[tuple[tuple[int, int], dict[str, Any]]] = []
        self.shown: list[Sample] = []

    def add(self, result: Sample) -> list[str]:
        """Write the files of one image."""
        if result.unknown and result.copy == 1:
            typer.echo(f"caption {result.number}: unknown words left out: {', '.join(result.unknown)}", err=True)
        if (result.number - 1) * self.count + result.copy <= SHOWN:
            self.shown.append(result)
        files = _save(self._files(result))
        entry = {"caption": result.caption, "unknown": result.unknown, "files": files}
        self.entries.append(((result.number, result.copy), entry))
        return files

    def gather(self, processes: Processes) -> None:
        """Have what all processes wrote, in order."""
        self.entries = sorted(chain(*processes.objects(self.entries)), key=lambda each: each[0])
        self.shown = sorted(chain(*processes.objects(self.shown)), key=lambda result: (result.number, result.copy))

    def _files(self, result: Sample) -> list[tuple[Path, Image]]:
        from dmgan_fast.images import pil_image, relative, shade

        stem = self.out / f"{self._place(result)}-{_short('-'.join(result.words))}"
        files = [(f"{image.shape[-1]}", pil_image(image)) for image in result.images]
        for maps in result.attention if self.attention else []:
            for position, (word, weight) in enumerate(zip(result.words, relative(maps), strict=True), start=1):
                name = f"{maps.shape[-1]}-attention-{position:02d}-{_short(word)}"
                files.append((name, shade(result.images[-1], weight)))
        for gate in result.response_gates if self.gates else []:
            files.append((f"{gate.shape[-1]}-gate", shade(result.images[-1], gate)))
        return [(Path(f"{stem}-{name}.png"), image) for name, image in files]

    def _place(self, result: Sample) -> str:
        """The number that a file's name begins with: names sort as the captions do."""
        number = f"{result.number:0{self.digits[0]}d}"
        return number if self.count == 1 else f"{number}-{result.copy:0{self.digits[1]}d}"

    def sheets(self, captions: bool) -> list[str]:
        """Write ``grid.png`` of several images, and ``sheet.png`` with ``captions`` if asked for."""
        from dmgan_fast.images import contact_sheet, grid

        shown, files = self.shown, []
        if len(shown) > 1:
            rows = [result.images for result in shown]
            if self.count > 1:  # a row for each caption, its images beside each other
                whole = len(shown) // self.count * self.count or len(shown)
                last = [result.images[-1] for result in shown[:whole]]
                rows = [last[k : k + self.count] for k in range(0, whole, self.count)]
            files.append((self.out / "grid.png", grid(rows)))
        if captions:
            sheet = contact_sheet([(result.caption, result.images[-1]) for result in shown])
            files.append((self.out / "sheet.png", sheet))
        paths = _save(files)
        if files and self.images > len(shown):
            typer.echo(f"grid.png and sheet.png show the first {len(shown)} of {self.images} images", err=True)
        return paths


def _save(files: list[tuple[Path, Image]]) -> list[str]:
    from dmgan_fast.images import save_image

    for file, image in files:
        save_image(image, file)
    return [str(file) for file, _ in files]


def _short(text: str) -> str:
    return text[:STEM].encode()[:BYTES].decode(errors="ignore")
