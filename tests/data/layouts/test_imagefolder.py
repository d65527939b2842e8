"""Hugging Face's imagefolder, and the parquet files of its hub."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from dmgan_fast.data import open_dataset
from dmgan_fast.data.opening import read_set
from dmgan_fast.errors import DataError
from tests.data.published import draw, image_bytes, opened, put, write_metadata


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("parts", [True, False], ids=["train and test", "one folder"])
def test_imagefolder_metadata(tmp_path, kind, parts):
    for part, numbers in (("train", range(4)), ("test", range(4, 6))):
        folder = tmp_path / part if parts else tmp_path
        names = [f"{number}.png" for number in numbers]
        draw(folder, *names)
        rows = [{"file_name": name, "text": f"field number {name[0]}", "split": part} for name in names]
        if parts:
            rows = [{"file_name": row["file_name"], "text": row["text"]} for row in rows]
        write_metadata(folder / f"metadata.{kind}", rows)
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [record.key.split("/")[-1] for record in train.records] == ["0.png", "1.png", "2.png", "3.png"]
    assert [record.captions for record in test.records] == [("field number 4",), ("field number 5",)]


def test_imagefolder_captions_and_classes_by_other_names(tmp_path):
    draw(tmp_path, "a.png", "b.png", "c.png")
    rows = [
        {"file_name": "a.png", "Prompt": ["one", "two"], "label": "cat"},
        {"file_name": "b.png", "Prompt": "three", "label": "dog"},
        {"file_name": "c.png", "Prompt": "four", "label": "cat"},
        {"file_name": "b.png", "Prompt": "five", "label": "dog"},
    ]
    put(tmp_path / "metadata.jsonl", "\n".join(json.dumps(row) for row in rows))
    found = {row.record.key: row.record for row in read_set(tmp_path).rows}
    assert {key: record.captions for key, record in found.items()} == {
        "a.png": ("one", "two"),
        "b.png": ("three", "five"),
        "c.png": ("four",),
    }
    assert found["a.png"].class_id == found["c.png"].class_id != found["b.png"].class_id


def test_imagefolder_without_a_column_of_captions_names_those_there_are(tmp_path):
    draw(tmp_path, "a.png")
    put(tmp_path / "metadata.csv", "file_name,note,other\na.png,red,blue\n")
    with pytest.raises(DataError, match=r"no column of captions; one of text, caption.*has file_name, note, other"):
        open_dataset(tmp_path)


def test_parquet_files_of_the_hub_with_images_inside(tmp_path):
    for part, numbers in (("train", range(5)), ("test", range(5, 7))):
        table = pyarrow.table(
            {
                "image": [{"bytes": image_bytes(k), "path": None} for k in numbers],
                "text": [f"field number {k}" for k in numbers],
                "label": [k % 2 for k in numbers],
            }
        )
        (tmp_path / "data").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, tmp_path / f"data/{part}-00000-of-00001.parquet", row_group_size=2)
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert [record.captions[0] for record in train.records] == [f"field number {k}" for k in range(5)]
    assert [record.class_id for record in test.records] == [1, 0]
    assert any("dmgan-fast convert" in note for note in read_set(tmp_path).notes)
