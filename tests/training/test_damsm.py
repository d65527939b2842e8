"""Pretraining: resumed bit by bit, measured on held-out images."""

import csv
from dataclasses import replace

import torch

from dmgan_fast.data import make_loader, open_dataset
from dmgan_fast.training.damsm import DAMSMTask, pretrain
from tests.training.test_engine import checkpoint, same

from .conftest import pretrain_config


def test_damsm_resumes_bit_exactly_dropout_included(pictures, tmp_path):
    pretrain(pretrain_config(pictures, steps=5), tmp_path / "whole")
    pretrain(pretrain_config(pictures, steps=2), tmp_path / "parts")
    torch.manual_seed(123)
    pretrain(pretrain_config(pictures, steps=5), tmp_path / "parts", resume=True)
    same(checkpoint(tmp_path / "whole", "damsm")["task"], checkpoint(tmp_path / "parts", "damsm")["task"])


def test_pretraining_measures_retrieval_of_held_out_images_in_its_history_and_card(pictures, tmp_path):
    pretrain(pretrain_config(pictures, steps=3, sample_every=2), tmp_path)
    with (tmp_path / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "3"]
    for row in rows:
        assert float(row["chance"]) == 12.5  # 8 held-out images, each of a class of its own
        assert 0 < float(row["words"]) < 100
        assert 0 <= float(row["image_to_caption"]) <= 100
    card = (tmp_path / "weights" / "README.md").read_text()
    assert f"{float(rows[-1]['image_to_caption']):.1f} % find their caption among 8" in card
    assert f"{float(rows[-1]['caption_to_image']):.1f} % of captions" in card
    pretrain(pretrain_config(pictures, steps=5, sample_every=2), tmp_path, resume=True)
    with (tmp_path / "validation.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "3", "4", "5"]


def test_retrieval_is_perfect_for_encoders_that_agree_and_counts_every_held_out_image(pictures):
    config = pretrain_config(pictures, batch_size=3)
    held_out = open_dataset(str(pictures), "test", image_sizes=(32,), max_words=4)
    task = DAMSMTask(config, held_out, held_out)
    agreed = torch.eye(8)
    seen = iter(agreed.split(3)), iter(agreed.split(3))
    task.image_encoder.forward = lambda images: (torch.randn(len(images), 8, 2, 2), next(seen[0]))
    task.text_encoder.forward = lambda captions, lengths: (torch.randn(len(captions), 8, 4), next(seen[1]))
    found = task.validate()
    assert len(found.codes) == 8
    assert found.measures["image_to_caption"] == found.measures["caption_to_image"] == 100


def test_images_of_one_class_are_not_held_against_each_other(pictures):
    dataset = open_dataset(str(pictures), "train", image_sizes=(32,), max_words=4)
    task = DAMSMTask(pretrain_config(pictures), dataset, dataset)
    batch = next(iter(make_loader(dataset, 4)))
    assert task.step(batch, 0)["total"] > 1
    assert task.step(batch._replace(class_ids=torch.zeros(4, dtype=torch.int64)), 0)["total"] == 0


def test_the_whole_text_encoder_is_clipped(pictures):
    config = replace(pretrain_config(pictures), clip=1e-3)
    dataset = open_dataset(str(pictures), "train", image_sizes=(32,), max_words=4)
    task = DAMSMTask(config, dataset, dataset)
    task.step(next(iter(make_loader(dataset, 4))), 0)
    norm = torch.stack([p.grad.norm() for p in task.text_encoder.parameters()]).norm()
    assert norm <= 1.001e-3
    assert task.text_encoder.embedding.weight.grad.any()
    assert torch.stack([p.grad.norm() for p in task.image_encoder.parameters()]).norm() > 1e-3
