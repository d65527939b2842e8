"""A set that is converted reads the same."""

import json
import logging

import pytest
from hypothesis import given

from dmgan_fast.data import Purpose, check_data, convert
from dmgan_fast.data.opening import read_set
from tests.data.trees import ROWS, cases

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def quiet():
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@cases(60)
@given(rows=ROWS)
def test_what_is_converted_reads_the_same(pool, new_tree, rows):
    with new_tree() as tree:
        for number, row in enumerate(rows):
            tree.image(pool, f"mine/{number}{row['name'].replace(chr(92), '_')}{row['suffix']}", "good.png")
        lines = [
            json.dumps(
                {
                    "image": f"{number}{row['name']}{row['suffix']}",
                    "captions": ["a", *row["captions"]],
                    "split": row.get("split"),
                    "class_id": number % 3,
                }
            )
            for number, row in enumerate(rows)
        ]
        tree.text("mine/captions.jsonl", "\n".join(lines))
        before = check_data(tree.root / "mine", Purpose(image_size=2))
        convert(before, tree.root / "out", skip_bad=len(rows))
        after = read_set(tree.root / "out")

        def told(row, role):
            return (row.record.captions, row.record.class_id, role, row.record.upright)

        kept = [
            told(row, role)
            for row, role in zip(before.facts.contents.rows, before.facts.contents.roles, strict=True)
            if not row.fault
        ]
        assert [told(row, role) for row, role in zip(after.rows, after.roles, strict=True)] == kept
        assert not [row.fault for row in after.rows if row.fault]
        assert not after.lost
