"""What a run was trained on, by content: the same data or encoders are known again wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from torch import nn

from dmgan_fast.data import CaptionedImages, Record


def data_fingerprint(dataset: CaptionedImages) -> str:
    """Of keys, captions, classes, boxes and the sizes of the images' files, in their order; reads no image."""
    digest = hashlib.sha256()
    for record in dataset.records:
        row = [record.key, list(record.captions), record.class_id, record.box, _size(record)]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def encoders_fingerprint(models: Iterable[nn.Module], vocabulary: str) -> str:
    """Of the models' tensors, bit for bit, and of the vocabulary's fingerprint."""
    digest = hashlib.sha256(vocabulary.encode())
    for model in models:
        for name, tensor in model.state_dict().items():
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(f"{name} {flat.dtype} {list(tensor.shape)}".encode())
            digest.update(flat.view(-1).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def _size(record: Record) -> int:
    if record.remote is not None:
        return record.remote.size
    try:
        return record.file.stat().st_size
    except OSError:
        return -1
