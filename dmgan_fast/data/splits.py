"""Names of splits as people write them, and what stands for training and for held-out images."""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Iterable

TEST_SHARE = 10  # of images without a split, one in so many is held out

_NAMES = {
    "train": "train training trn trainset trainingset traindata trainval trainvalid trainvalidation trainandval "
    "trainvalset restval",
    "val": "val valid validation validate dev devel development eval evaluation minival valset validset devset "
    "validationset",
    "test": "test testing tst testset testdata testval heldout holdout",
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}


def role_of(name: str) -> str | None:
    """``"train"``, ``"val"`` or ``"test"`` for ``Train``, ``validation``, ``test2014``, ...; None if it is none."""
    letters = re.sub(r"[\W\d_]+", "", unicodedata.normalize("NFKC", name).casefold())
    return _ROLES.get(letters)


def nearest(name: str) -> str | None:
    """The known name that ``name`` may be meant for."""
    found = difflib.get_close_matches(name.strip().casefold(), _ROLES, n=1, cutoff=0.75)
    return found[0] if found else None


def assign(names: Iterable[tuple[str, str]]) -> list[str | None]:
    """``"train"``, ``"test"`` or None (neither) for each ``(key, name of its split)``.

    Without a test split, the validation split is held out; with both, validation is used for neither. An image without
    a split is held out by the hash of its key, one in ``TEST_SHARE``; if no image has a split, neither part is empty.
    """
    given = list(names)
    roles = [role_of(name) if name else None for _, name in given]
    val = None if "test" in roles else "test"
    by_hash = [number for number, (_, name) in enumerate(given) if not name]
    for number in by_hash:
        roles[number] = "test" if _hash(given[number][0]) % TEST_SHARE == 0 else "train"
    if 1 < len(by_hash) == len(given):
        order = sorted(by_hash, key=lambda number: (_hash(given[number][0]), number))
        if "test" not in roles:
            roles[order[0]] = "test"
        if "train" not in roles:
            roles[order[0]] = "train"
    return [val if role == "val" else role for role in roles]


def _hash(key: str) -> int:
    return int(hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest(), 16)
