"""`import`: published files become one folder that the other commands take."""

import pickle

import pytest
import torch

from dmgan_fast import compat
from dmgan_fast.data import Vocabulary
from dmgan_fast.modules import (
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    ImageEncoder,
    ImageEncoderConfig,
    TextEncoder,
    TextEncoderConfig,
)
from dmgan_fast.sampling.bundle import open_bundle
from dmgan_fast.sampling.sampler import Sampler
from tests.cli.calls import call

WORDS = ["<end>", "a", "red", "box"]


def generator(sides=(64, 128), channels=8):
    torch.manual_seed(0)
    widths = {"base_channels": 2, "word_channels": channels, "condition_channels": 4, "noise_channels": 4}
    return compat.export_generator(Generator(GeneratorConfig(image_sizes=sides, residual_blocks=1, **widths)))


def discriminator(side):
    config = DiscriminatorConfig(image_size=side, base_channels=2, sentence_channels=8, spectral_norm="official")
    return compat.export_discriminator(Discriminator(config))


def text_encoder(words=4):
    config = TextEncoderConfig(vocabulary_size=words, word_channels=8, embedding_channels=4)
    return compat.export_text_encoder(TextEncoder(config))


def captions(file, words=WORDS):
    numbered = dict(enumerate(words))
    file.write_bytes(pickle.dumps([[[1]], [[2]], numbered, {w: k for k, w in numbered.items()}], 2))
    return file


@pytest.fixture
def files(tmp_path):
    """As people have them: bare, in an envelope, from several cards."""
    torch.save(generator(), tmp_path / "netG.pth")
    torch.save({"netD": discriminator(64), "epoch": 3}, tmp_path / "netD0.pth")
    torch.save({f"module.{k}": v for k, v in discriminator(128).items()}, tmp_path / "netD1.pth")
    torch.save({"state_dict": text_encoder()}, tmp_path / "text_encoder200.pth")
    names = ("netG.pth", "netD0.pth", "netD1.pth", "text_encoder200.pth")
    return [*(tmp_path / name for name in names), captions(tmp_path / "captions.pickle")]


def test_everything_is_said_and_written_and_draws(files, monkeypatch, capsys, tmp_path):
    out = tmp_path / "bundle"
    status, text, errors = call(monkeypatch, capsys, "import", *files, "--out", out)
    assert status == 0
    for said in (
        f"{files[0]}: DM-GAN generator for resolutions 64, 128; base_channels 2, residual_blocks 1",
        f"{files[1]}, in 'netD': discriminator for resolution 64",
        f"{files[2]}, in 'module': discriminator for resolution 128",
        f"{files[3]}, in 'state_dict': text encoder (lstm) of 4 words, 8 channels",
        f"{files[4]}: vocabulary of 4 words (a, red, box, ...)",
        f"weights in {out}",
    ):
        assert said in text
    assert "missing: no image encoder, which train (--damsm) and R-precision need" in errors
    sampler = Sampler.from_pretrained(out)
    assert sampler.sample(["a red box"])[0].words == ["a", "red", "box"]
    assert sampler.generator.config.mask_mode == "official"
    assert open_bundle(out).sides() == [64, 128]
    assert text.splitlines()[0] in (out / "README.md").read_text()
    status, text, _ = call(monkeypatch, capsys, "export", "--weights", out, "--out", tmp_path / "theirs")
    assert [line.rsplit("/")[-1] for line in text.split()] == ["netG.pth", "netD0.pth", "netD1.pth", "text_encoder.pth"]
    for name, state in (("netG.pth", generator()), ("netD0.pth", torch.load(files[1])["netD"])):
        again = compat.load_checkpoint(tmp_path / "theirs" / name)
        assert all(torch.equal(again[key], state[key]) for key in state)


def test_a_generator_alone_is_imported_and_it_is_said_what_is_missing(monkeypatch, capsys, tmp_path):
    torch.save(generator((64,)), tmp_path / "netG.pth")
    status, _, errors = call(monkeypatch, capsys, "import", tmp_path / "netG.pth", "--out", tmp_path / "b")
    assert status == 0
    assert "no text encoder, which sample, train and evaluate need" in errors
    assert "no discriminators for resolutions 64" in errors
    status, _, errors = call(monkeypatch, capsys, "sample", "a", "--weights", tmp_path / "b", "--out", tmp_path / "s")
    assert status == 2
    assert "vocabulary.json, text_encoder missing there" in errors


def test_encoders_alone_serve_a_training(monkeypatch, capsys, tmp_path):
    torch.save(text_encoder(), tmp_path / "text.pth")
    torch.save(compat.export_image_encoder(ImageEncoder(ImageEncoderConfig(channels=8))), tmp_path / "image.pth")
    given = (tmp_path / "text.pth", tmp_path / "image.pth", "--vocabulary", captions(tmp_path / "c.pickle"))
    assert call(monkeypatch, capsys, "import", *given, "--out", tmp_path / "b")[0] == 0
    bundle = open_bundle(tmp_path / "b", "text_encoder", "image_encoder")
    assert bundle.vocabulary.words == WORDS
    assert bundle.image_encoder().vocabulary_fingerprint == Vocabulary(WORDS).fingerprint


def a_page(folder):
    (folder / "netG.pth").write_text("<html><title>Quota exceeded</title>")
    return [folder / "netG.pth"]


def no_words(folder):
    torch.save(text_encoder(), folder / "t.pth")
    return [folder / "t.pth"]


def other_words(folder):
    return [*no_words(folder), captions(folder / "captions.pickle", [*WORDS, "more"])]


def two_generators(folder):
    for name in ("one.pth", "two.pth"):
        torch.save(generator((64,)), folder / name)
    return [folder / "one.pth", folder / "two.pth"]


def other_widths(folder):
    torch.save(generator((64,), channels=16), folder / "g.pth")
    return [folder / "g.pth", *no_words(folder), captions(folder / "captions.pickle")]


def other_sides(folder):
    torch.save(generator((64,)), folder / "g.pth")
    torch.save(discriminator(128), folder / "d.pth")
    return [folder / "g.pth", folder / "d.pth"]


def another_family(folder):
    torch.save({"fc.weight": torch.ones(2), "block0.c1.weight": torch.ones(2)}, folder / "netG_DF.pth")
    return [folder / "netG_DF.pth"]


def half_a_generator(folder):
    state = generator((64,))
    del state["h_net1.fc.0.weight"]
    torch.save(state, folder / "g.pth")
    return [folder / "g.pth"]


REFUSED = {
    a_page: r"netG\.pth.*a web page \('Quota exceeded'\)",
    no_words: r"knows 4 words by their numbers only.*captions\.pickle",
    other_words: r"t\.pth has 4 words, .*captions\.pickle has 5: they do not belong together",
    two_generators: r"both .*one\.pth and .*two\.pth hold a generator",
    other_widths: r"do not belong together.*generator \(.*g\.pth\): 16; text encoder \(.*t\.pth\): 8",
    other_sides: r"d\.pth judges images of resolution 128, but .*g\.pth generates 64",
    another_family: r"netG_DF\.pth: no model of the family in it.*fc\.weight, block0",
    half_a_generator: r"g\.pth: looks like a generator of the family, but .*h_net1\.fc\.0\.weight",
    lambda folder: [folder / "none.pth"]: r"file not found: .*none\.pth",
    lambda folder: [folder]: r"is a folder; give the files in it",
    lambda folder: [captions(folder / "captions.pickle")]: r"a vocabulary alone; give weights too",
}


@pytest.mark.parametrize("make", REFUSED)
def test_what_does_not_fit_is_refused_by_file_and_nothing_is_written(monkeypatch, capsys, tmp_path, make):
    import re

    status, out, errors = call(monkeypatch, capsys, "import", *make(tmp_path), "--out", tmp_path / "b")
    assert (status, out) == (2, "")
    assert re.search(REFUSED[make], errors), errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_a_folder_that_holds_weights_is_not_written_over(files, monkeypatch, capsys, tmp_path):
    assert call(monkeypatch, capsys, "import", *files, "--out", tmp_path / "b")[0] == 0
    status, _, errors = call(monkeypatch, capsys, "import", *files, "--out", tmp_path / "b")
    assert status == 2
    assert "already holds vocabulary.json; give another --out" in errors
