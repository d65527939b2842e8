"""What docs/evaluation.md tells users works."""

import re
from pathlib import Path

import torch

from dmgan_fast.compat import export_generator, export_image_encoder, export_text_encoder
from dmgan_fast.config import load_config
from dmgan_fast.evaluation import EvaluationConfig, evaluate, extractors
from dmgan_fast.evaluation.catalogue import METRICS
from dmgan_fast.modules import (
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
)
from tests.data.miniature import write_pickle, write_picture

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()


def test_the_page_names_every_metric_and_the_weights_that_are_looked_for():
    assert [name for name in METRICS if f"`{name}`" not in PAGE] == []
    for file in (extractors.TORCHVISION_INCEPTION, extractors.TF_INCEPTION):
        assert [text for text in (*file.names, file.url, file.sha256) if text not in PAGE] == []


def birds(root):
    """CUB with two images."""
    keys, words = ["001.A/a", "002.B/b"], {0: "<end>", 1: "a", 2: "red", 3: "blue", 4: "bird"}
    for split in ("train", "test"):
        write_pickle(root / split / "filenames.pickle", keys)
    write_pickle(root / "captions.pickle", [[[1, 2, 4], [1, 3, 4]]] * 2 + [words, {}])
    for number, (key, colour) in enumerate(zip(keys, ("red", "blue"), strict=True), start=1):
        write_picture(root / f"CUB_200_2011/images/{key}.jpg", colour=colour)
        with (root / "CUB_200_2011/images.txt").open("a") as names:
            names.write(f"{number} {key}.jpg\n")
        with (root / "CUB_200_2011/bounding_boxes.txt").open("a") as boxes:
            boxes.write(f"{number} 10 10 20 20\n")


def test_the_authors_weights_are_evaluated_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    birds(Path("data/birds"))
    torch.manual_seed(0)
    generator = GeneratorConfig(base_channels=2, word_channels=8, condition_channels=4, noise_channels=4)
    text_encoder = TextEncoderConfig(vocabulary_size=5, word_channels=8, embedding_channels=4)
    torch.save(export_generator(Generator(generator)), "bird_DMGAN.pth")
    torch.save(export_text_encoder(TextEncoder(text_encoder)), "text_encoder200.pth")
    torch.save(export_image_encoder(ImageEncoder(ImageEncoderConfig(channels=8))), "image_encoder200.pth")
    (code,) = re.findall(r"```python\n(from dmgan_fast\.compat.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/evaluation.md", "exec"), {})
    values = {"weights": "runs/authors", "damsm": "runs/authors", "data": "data/birds", "count": 4, "batch_size": 2}
    values |= {"metrics": ["fid-damsm"], "cache": "cache"}
    report = evaluate(load_config(EvaluationConfig, values), Path("out"))
    assert report["generator"]["mask_mode"] == "official"
    assert report["generated"]["resolution"] == 256
    assert report["metrics"][0]["value"] > 0
