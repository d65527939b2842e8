"""R-precision with R = 1: how often an image's own caption matches it best among captions that do not belong to it.

Each image's code is compared, by cosine, with its caption's code and with 99 codes of mismatching captions (AttnGAN,
section 4). All images are ranked at once, by batched products.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from dmgan_fast.errors import InputError
from dmgan_fast.metrics._checks import at_least, matrix, numbers, random_of, warn

TIE = 1e-12  # cosines this close are equal
ROWS_AT_ONCE = 256  # [256, 100, 256] float64 is 52 MB


def r_precision(
    image_codes: Any,
    text_codes: Any,
    *,
    candidates: int = 100,
    folds: int = 10,
    seed: int = 0,
    class_ids: Any = None,
    slicing: Literal["exact", "official"] = "exact",
) -> tuple[float, float]:
    """Share of images whose own caption ranks first, in per cent.

    Row k of both codes belongs together. An image whose caption is tied with t others for the first place counts as
    1 / (t + 1), so codes that tell nothing apart score chance, 100 / candidates.

    Args:
        image_codes: ``[N, D]``.
        text_codes: ``[N, D]``.
        candidates: captions each image chooses from: its own and ``candidates - 1`` others, without replacement.
        folds: the images are shuffled and cut into this many parts for the standard deviation.
        seed: of the mismatching captions and of the folds.
        class_ids: ``[N]`` int64; captions of an image's own class are then no candidates (as the authors do). None:
            any other row is.
        slicing: ``"exact"`` counts every image. ``"official"`` is the authors' slicing for comparison: the mean over
            folds of ``N // folds`` images without the last one of each.

    Returns:
        mean and standard deviation over the folds (``folds`` in the denominator), both in per cent.

    Raises:
        InputError: for shapes that do not fit, codes of length zero, or too few rows for ``candidates`` or ``folds``.
    """
    at_least("r_precision: candidates", candidates, 2)
    at_least("r_precision: folds", folds, 1)
    if slicing not in ("exact", "official"):
        raise InputError(f"r_precision: slicing must be 'exact' or 'official', got {slicing!r}")
    least = max(candidates, folds * (2 if slicing == "official" else 1))
    images = _directions("image_codes", image_codes, least)
    texts = _directions("text_codes", text_codes, least)
    if images.shape != texts.shape:
        raise InputError(f"r_precision: text_codes must be {list(images.shape)}, got {list(texts.shape)}")
    random = random_of("r_precision: seed", seed)
    others = _mismatching(len(images), candidates - 1, class_ids, random)
    hits = torch.cat(
        [
            _hits(images[rows], texts[rows], texts[others[rows]])
            for rows in torch.arange(len(images)).split(ROWS_AT_ONCE)
        ]
    )
    hits = 100 * hits[torch.randperm(len(hits), generator=random)]
    if slicing == "official":
        size = len(hits) // folds
        means = torch.stack([hits[k * size : (k + 1) * size - 1].mean() for k in range(folds)])
        return float(means.mean()), float(means.std(correction=0))
    means = torch.stack([fold.mean() for fold in hits.tensor_split(folds)])
    return float(hits.mean()), float(means.std(correction=0))


def _directions(name: str, values: Any, least: int) -> Tensor:
    """Rows scaled to length one."""
    codes = matrix(f"r_precision: {name}", values, rows=least)
    lengths = codes.norm(dim=1, keepdim=True)
    if float(lengths.min()) < 1e-8:
        raise InputError(f"r_precision: row {int(lengths.argmin())} of {name} has length zero, it points nowhere")
    if float((codes.amax(0) - codes.amin(0)).max()) == 0:
        warn(f"r_precision: all {len(codes)} rows of {name} are the same, so the result is chance")
    return codes / lengths


def _hits(images: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """``[n]``: 1 where the own caption is first, 1 / (ties + 1) where it is so with others, else 0."""
    ahead = torch.einsum("nd,nkd->nk", images, others) - (images * own).sum(1, keepdim=True)
    tied = (ahead.abs() <= TIE).sum(1)
    return torch.where((ahead > TIE).any(1), 0.0, 1 / (tied + 1.0)).double()


def _mismatching(count: int, wanted: int, class_ids: Any, random: torch.Generator) -> Tensor:
    """``[N, wanted]`` rows of other classes (None: other rows), without repetition in a line, uniformly.

    Sorted by class, a class is one stretch; sampling from what lies outside it needs no list of allowed rows. Floyd's
    method samples without replacement: for each k a number up to k, or k itself if that number is taken.
    """
    if class_ids is not None:
        numbers("r_precision: class_ids", class_ids)  # which would round large ones
    classes = torch.arange(count) if class_ids is None else torch.as_tensor(class_ids).detach().cpu()
    if tuple(classes.shape) != (count,):
        raise InputError(f"r_precision: class_ids must be [{count}], got {list(classes.shape)}")
    order = classes.argsort(stable=True)
    _, place, sizes = classes.unique(return_inverse=True, return_counts=True)
    starts = sizes.cumsum(0) - sizes
    start, size = starts[place], sizes[place]
    outside = count - size
    if int(outside.min()) < wanted:
        row = int(outside.argmin())
        raise InputError(
            f"r_precision: row {row} has {int(outside[row])} captions of other classes, but candidates={wanted + 1} "
            f"needs {wanted}"
        )
    chosen = torch.empty(count, wanted, dtype=torch.int64)
    for k in range(wanted):
        last = outside - wanted + k
        draw = (torch.rand(count, dtype=torch.float64, generator=random) * (last + 1)).long()
        taken = (chosen[:, :k] == draw[:, None]).any(1)
        chosen[:, k] = torch.where(taken, last, draw)
    return order[torch.where(chosen < start[:, None], chosen, chosen + size[:, None])]
