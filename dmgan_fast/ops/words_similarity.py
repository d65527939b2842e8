"""Words similarity of all pictures and captions: checks and dispatch."""

from __future__ import annotations

from torch import Tensor

from dmgan_fast.errors import InputError
from dmgan_fast.ops import _backends, _checks

OP = "words_similarity"


def words_similarity(
    regions: Tensor, words: Tensor, lengths: Tensor, *, gamma1: float, gamma2: float, backend: str | None = None
) -> Tensor:
    _checks.shape(OP, "regions", regions, ("B", "D", "H", "W"))
    _checks.shape(OP, "words", words, ("B'", regions.shape[1], "T"))
    _checks.shape(OP, "lengths", lengths, (words.shape[0],))
    if lengths.is_floating_point() or lengths.is_complex():
        raise InputError(f"{OP}: lengths must be integers, got {lengths.dtype}")
    _checks.same_kind(OP, "regions", {"regions": regions, "words": words})
    if lengths.device != regions.device:
        raise InputError(f"{OP}: lengths is on {lengths.device}, regions is on {regions.device}")
    result: Tensor = _backends.choose(OP, backend)(regions, words, lengths, gamma1=gamma1, gamma2=gamma2)
    return result
