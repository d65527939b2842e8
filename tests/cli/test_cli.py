"""The command line and the sampler behind it, as a user meets them."""

import shutil
import sys

import pytest
import torch
from PIL import Image

from dmgan_fast import cli
from dmgan_fast.data import Vocabulary
from dmgan_fast.errors import InputError
from dmgan_fast.modules import AttnGenerator, Generator, GeneratorConfig, TextEncoder, TextEncoderConfig
from dmgan_fast.sampling.bundle import save_bundle
from dmgan_fast.sampling.sampler import Sampler
from tests.cli.calls import call


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Untrained weights of a small model that knows five words."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    vocabulary = Vocabulary.from_captions(["a red apple", "a blue car"])
    save_bundle(
        folder,
        vocabulary=vocabulary,
        card="untrained\n",
        generator=Generator(
            GeneratorConfig(
                image_sizes=(64, 128), base_channels=2, word_channels=8, condition_channels=4, noise_channels=4
            )
        ),
        text_encoder=TextEncoder(
            TextEncoderConfig(vocabulary_size=len(vocabulary), word_channels=8, embedding_channels=4)
        ),
    )
    return folder


def test_export_writes_their_files_and_gates_that_are_not_there_are_refused(weights, monkeypatch, capsys, tmp_path):
    status, out, _ = call(monkeypatch, capsys, "export", "--weights", weights, "--out", tmp_path / "theirs")
    assert status == 0
    assert out.split() == [str(tmp_path / "theirs" / name) for name in ("netG.pth", "text_encoder.pth")]
    model = AttnGenerator(GeneratorConfig(image_sizes=(64,), base_channels=2, word_channels=8, noise_channels=4))
    shutil.copytree(weights, tmp_path / "attention")
    model.save_pretrained(tmp_path / "attention" / "generator")
    arguments = ("sample", "a red apple", "--weights", tmp_path / "attention", "--out", tmp_path / "drawn", "--gates")
    status, _, error = call(monkeypatch, capsys, *arguments)
    assert (status, error) == (2, "dmgan-fast: --gates: this model has no response gates\n")
    assert not (tmp_path / "drawn").exists()


def test_sample_writes_every_stage_and_the_maps_asked_for(monkeypatch, capsys, weights, tmp_path):
    arguments = ("sample", "A red, shiny apple!", "--weights", weights, "--out", tmp_path, "--attention", "--gates")
    status, out, err = call(monkeypatch, capsys, *arguments)
    assert status == 0
    assert "caption 1: unknown words left out: shiny" in err
    names = sorted(file.name for file in tmp_path.iterdir())
    assert sorted(line.rsplit("/")[-1] for line in out.split()) == names
    assert names == [
        "001-a-red-apple-128.png",
        "001-a-red-apple-64-attention-01-a.png",
        "001-a-red-apple-64-attention-02-red.png",
        "001-a-red-apple-64-attention-03-apple.png",
        "001-a-red-apple-64-gate.png",
        "001-a-red-apple-64.png",
    ]
    assert Image.open(tmp_path / names[0]).size == (128, 128)
    assert Image.open(tmp_path / names[-1]).size == (64, 64)


def test_sample_without_flags_writes_no_maps(monkeypatch, capsys, weights, tmp_path):
    call(monkeypatch, capsys, "sample", "a car", "blue", "--weights", weights, "--out", tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "001-a-car-128.png",
        "001-a-car-64.png",
        "002-blue-128.png",
        "002-blue-64.png",
        "grid.png",
    ]
    assert Image.open(tmp_path / "grid.png").width > 2 * 128  # both sides of a caption beside each other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", " "], "caption 1 is empty"),
        (["sample", "a car", "quux flib"], "caption 2, 'quux flib', has no word that the model knows"),
        (["sample", "a car", "--batch", "0"], "batch_size must be at least 1, got 0"),
        (["sample", "a car", "--seed", "-1"], "seed must be 0 or more, got -1"),
        (
            ["sample", "a car", "--weights", "nowhere"],
            "no weights at 'nowhere': vocabulary.json, generator, text_encoder",
        ),
        (["sample"], "CAPTION"),
        (
            ["train", "--out", "o", "--damsm", "d", "--set", "loop.stps=3"],
            "unknown key 'loop.stps'; did you mean 'steps'",
        ),
        (
            ["train", "--out", "o", "--damsm", "d", "--preset", "brids"],
            "preset must be one of birds, coco, attngan-birds, attngan-coco, demo",
        ),
        (["train", "--out", "o", "--damsm", "d"], "no weights at 'd'"),
        (["train", "--out", "o"], "encoders: the folder of a finished pretraining is needed"),
        (["train", "--out", "o", "--damsm", "d", "--config", "none.yaml"], "config none.yaml can't be read"),
        (["pretrain", "--out", "o", "--data", "nowhere"], "no data set at 'nowhere'"),
        (["pretrain", "--out", "o", "--flag"], "No such option"),
        (["evaluate"], "Missing option '--out'"),
        (["evaluate", "--out", "o", "--metrics", "fid"], "metrics: 'fid' is not one of is-tf, is-coco"),
        (
            ["evaluate", "--out", "o", "--count", "1"],
            "evaluate: count: Input should be greater than or equal to 2, got 1",
        ),
        (["evaluate", "--out", "o", "--statistics", "x.npz"], "--statistics is written METRIC=FILE, got 'x.npz'"),
        (
            ["evaluate", "--out", "o", "--data", "demo", "--images", "nowhere"],
            "no images at 'nowhere': not a folder",
        ),
        (["export", "--out", "o.txt"], "export: the file must end in .onnx or .pt2, got 'o.txt'"),
        (
            ["benchmark", "--report", "o.html", "--authors", "x"],
            "benchmark: --authors times their code, which needs --run",
        ),
        (["paint"], "No such command 'paint'"),
    ],
)
def test_bad_input_is_one_paragraph_and_writes_nothing(monkeypatch, capsys, weights, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "sample" and "--weights" not in arguments:
        arguments = [*arguments, "--weights", weights]
    status, _, err = call(monkeypatch, capsys, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_export_writes_a_graph_and_its_vocabulary(monkeypatch, capsys, weights, tmp_path):
    file = tmp_path / "sampler.pt2"
    status, out, _ = call(monkeypatch, capsys, "export", "--weights", weights, "--out", file, "--words", 3)
    assert status == 0
    assert out.split() == [str(file), f"{file}.vocabulary.json"]
    images = torch.export.load(file).module()(
        captions=torch.ones(1, 3, dtype=torch.int64),
        lengths=torch.tensor([2]),
        noise=torch.zeros(1, 4),
        eps=torch.zeros(1, 4),
    )
    assert [tuple(image.shape) for image in images] == [(1, 3, 64, 64), (1, 3, 128, 128)]


def test_debug_shows_the_error_itself(monkeypatch, capsys, weights):
    monkeypatch.setattr(sys, "argv", ["dmgan-fast", "sample", " ", "--weights", str(weights), "--debug"])
    with pytest.raises(InputError):
        cli.main()
    capsys.readouterr()


def test_a_picture_depends_on_its_caption_seed_and_place_only(weights):
    sampler = Sampler.from_pretrained(weights)
    captions = ["a red apple", "blue", "a red car apple"]
    together = sampler.sample(captions, seed=3)
    one_by_one = sampler.sample(captions, seed=3, batch_size=1)
    for a, b in zip(together, one_by_one, strict=True):
        assert (a.images[-1] - b.images[-1]).abs().max() < 1e-5
    assert torch.equal(sampler.sample(captions, seed=3)[1].images[-1], together[1].images[-1])
    assert not torch.equal(sampler.sample(captions, seed=4)[1].images[-1], together[1].images[-1])
    swapped = sampler.sample(["a blue car", "blue", "apple"], seed=3)
    assert (swapped[1].images[-1] - together[1].images[-1]).abs().max() < 1e-5


def test_tiles_draw_the_same_pictures(weights, monkeypatch, capsys, tmp_path):
    sampler = Sampler.from_pretrained(weights)
    captions = ["a red apple", "blue"]
    for whole, tiled in zip(sampler.sample(captions, seed=3), sampler.sample(captions, seed=3, tile=64), strict=True):
        for ours, true in zip(tiled.images, whole.images, strict=True):
            assert (ours - true).abs().max() < 1e-5
    with pytest.raises(InputError, match="tiles give no maps"):
        sampler.sample(captions, maps=True, tile=64)
    code, _, error = call(
        monkeypatch, capsys, "sample", "blue", "--weights", str(weights), "--tile", "32", "--out", str(tmp_path / "o")
    )
    assert code == 2
    assert "tile must be at least 64" in error


def test_maps_fit_the_words(weights):
    (drawing,) = Sampler.from_pretrained(weights).sample(["a red apple"], maps=True)
    assert drawing.words == ["a", "red", "apple"]
    assert drawing.attention[0].shape == (3, 64, 64)
    assert torch.allclose(drawing.attention[0].sum(0), torch.ones(64, 64), atol=1e-5)
    assert drawing.response_gates[0].shape == (64, 64)
    assert Sampler.from_pretrained(weights).sample(["a"])[0].attention == []
