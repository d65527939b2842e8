"""A set of images of noise to look at, and what is found in it."""

import json

import numpy as np
from PIL import Image

from dmgan_fast.data import Purpose, check_data

SIZES = {"image_sizes": (8,), "max_words": 6}


def picture(file, number, size=(20, 20)):
    """Noise: no two are the same."""
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file)


def shapes(root, count=12, *, size=(20, 20), suffix="png", **columns):
    """A set of ``count`` images; ``columns`` give further values of a row by its number."""
    root.mkdir(exist_ok=True)
    rows = []
    for k in range(count):
        picture(root / f"{k:02d}.{suffix}", k, size)
        row = {"image": f"{k:02d}.{suffix}", "captions": [f"shape {k}", f"the shape number {k}"]}
        row["split"] = "test" if k % 4 == 0 else "train"
        rows.append(row | {name: value(k) for name, value in columns.items()})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def found(root, level=None, purpose=None, **options):
    """Kinds of findings, with their names."""
    report = check_data(root, purpose or Purpose(image_size=8), **options)
    return {finding.kind: finding for finding in report.findings if level in (None, finding.level)}
