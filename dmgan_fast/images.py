"""Tensors as images people look at, and the other way round.

torchvision takes about as long to import as PyTorch; it is imported where its functions are called.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dmgan_fast.files import replace_file

SHEET_SIDE, SHEET_LARGEST = 128, 512  # of an image on a contact sheet
SHEET_TEXT, LINE, SHEET_LINES, MARGIN = 12, 15, 4, 10
HEAT = torch.tensor([0.85, 0.15, 0.1])  # maps are laid over the image in red


def to_bytes(images: Tensor) -> Tensor:
    """``[..., 3, H, W]`` in [-1, 1] → uint8, cut and not rounded, as the authors' files are."""
    return ((images.float() / 2 + 0.5).clamp(0, 1) * 255).byte()


def pil_image(image: Tensor) -> Image.Image:
    """``[3, H, W]`` in [-1, 1] → RGB."""
    return Image.fromarray(to_bytes(image).permute(1, 2, 0).cpu().numpy())


def pixels_of(image: Image.Image) -> Tensor:
    """``[3, H, W]`` uint8 of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def shade(image: Tensor, weight: Tensor) -> Image.Image:
    """A map ``[h, w]`` in [0, 1] in red over the faded image ``[3, H, W]``."""
    from torchvision.transforms.functional import to_pil_image

    wide = torch.nn.functional.interpolate(weight[None, None].float(), size=image.shape[1:], mode="nearest")[0]
    gray = (image.float() / 2 + 0.5).clamp(0, 1).mean(0, keepdim=True) * 0.5 + 0.5
    return to_pil_image((1 - 0.85 * wide) * gray + 0.85 * wide * HEAT[:, None, None])


def relative(maps: Tensor) -> Tensor:
    """Maps ``[T, h, w]`` on one scale, the largest weight of any of them as 1."""
    return maps / maps.max().clamp(min=1e-12)


def grid(rows: Sequence[Sequence[Tensor]]) -> Image.Image:
    """A row for each caption, its images ``[3, S, S]`` in [-1, 1] side by side at the highest resolution."""
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    side = max(image.shape[-1] for row in rows for image in row)
    tiles = [
        torch.nn.functional.interpolate(image[None].float(), size=(side, side), mode="nearest")[0]
        for row in rows
        for image in row
    ]
    return to_pil_image(make_grid((torch.stack(tiles) / 2 + 0.5).clamp(0, 1), nrow=len(rows[0])))


def save_rows(rows: Sequence[Tensor], file: Path) -> None:
    """Batches ``[B, 3, S, S]`` in [-1, 1], all of one resolution, in one image, eight beside each other."""
    from torchvision.utils import save_image

    save_image(torch.cat(list(rows)) / 2 + 0.5, file, nrow=8)


def contact_sheet(images: Sequence[tuple[str, Tensor]], columns: int = 4) -> Image.Image:
    """Images ``[3, S, S]`` in [-1, 1], all of one resolution, each above its caption."""
    side = max(SHEET_SIDE, images[0][1].shape[-1]) if images[0][1].shape[-1] <= SHEET_LARGEST else SHEET_LARGEST
    columns = min(columns, len(images))
    texts = [textwrap.wrap(caption, max(8, side // 7))[:SHEET_LINES] for caption, _ in images]
    font = ImageFont.load_default(size=SHEET_TEXT)
    height = side + MARGIN + max(map(len, texts)) * LINE
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (MARGIN + columns * (side + MARGIN), MARGIN + rows * (height + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, ((_, image), lines) in enumerate(zip(images, texts, strict=True)):
        x, y = MARGIN + k % columns * (side + MARGIN), MARGIN + k // columns * (height + MARGIN)
        shown = pil_image(image)
        sheet.paste(shown if shown.width == side else shown.resize((side, side)), (x, y))
        for number, line in enumerate(lines):
            draw.text((x, y + side + MARGIN // 2 + number * LINE), line, fill="black", font=font)
    return sheet


def save_image(image: Image.Image, file: str | os.PathLike[str]) -> None:
    """Write PNG, whole or not at all."""
    with replace_file(file) as temporary:
        image.save(temporary, "PNG")
