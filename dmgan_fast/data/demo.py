"""The embedded demo set: OpenMoji drawings at 128² with captions that name things and colours (see ATTRIBUTION.md)."""

from __future__ import annotations

import json
from pathlib import Path

from dmgan_fast.data.record import Record
from dmgan_fast.data.rows import Contents, Row
from dmgan_fast.errors import DataError

FOLDER = Path(__file__).parent / "demo_set"


def read() -> Contents:
    """The set; its images fill their frame, so they are not enlarged before the crop."""
    try:
        lines = (FOLDER / "captions.jsonl").read_text(encoding="utf-8").strip().split("\n")
    except OSError as error:
        raise DataError(f"the embedded demo set is missing from this installation: {error}") from None
    rows = [json.loads(line) for line in lines]
    records = (
        Record(
            key=row["key"],
            file=FOLDER / "pictures.zip",
            member=f"{row['key']}.png",
            captions=tuple(row["captions"]),
            class_id=row["class_id"],
        )
        for row in rows
    )
    read = tuple(Row(record, row["split"], own_class=False) for record, row in zip(records, rows, strict=True))
    return Contents("demo", "the embedded set", read, margin=1.0, embedded=True)
