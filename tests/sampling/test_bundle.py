"""A vocabulary and the weights trained with it belong together; what does not is refused before it generates."""

import json
import shutil

import pytest
import torch

from dmgan_fast import compat
from dmgan_fast.data import Vocabulary
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.evaluation import EvaluationConfig, evaluate
from dmgan_fast.evaluation.extractors import DAMSMFeatures
from dmgan_fast.modules import Generator, GeneratorConfig, TextEncoder, TextEncoderConfig
from dmgan_fast.sampling.bundle import open_bundle, save_bundle
from dmgan_fast.sampling.sampler import Sampler
from dmgan_fast.training.trainer import train
from tests.training.conftest import train_config

PUBLISHED = Vocabulary.from_official({0: "<end>", 1: "zebra", 2: "red", 3: "a", 4: "box"})
SAME_SIZE = Vocabulary.from_captions(["a red box", "zebra"])


def generator():
    config = GeneratorConfig(
        image_sizes=(64,), base_channels=2, word_channels=8, condition_channels=4, noise_channels=4
    )
    return Generator(config)


def text_encoder(words=5):
    return TextEncoder(TextEncoderConfig(vocabulary_size=words, word_channels=8, embedding_channels=4))


def imported(**options):
    return compat.import_text_encoder(compat.export_text_encoder(text_encoder()), **options)


def bundle(folder, vocabulary=PUBLISHED, encoder=None):
    save_bundle(folder, vocabulary=vocabulary, card="", generator=generator(), text_encoder=encoder or imported())
    return folder


def test_a_fingerprint_is_of_the_words_and_their_order():
    assert PUBLISHED.fingerprint == Vocabulary(list(PUBLISHED.words)).fingerprint
    assert sorted(PUBLISHED.words) == sorted(SAME_SIZE.words)
    assert PUBLISHED.fingerprint != SAME_SIZE.fingerprint


def test_saved_models_carry_the_fingerprint_and_it_comes_back(tmp_path):
    bundle(tmp_path / "b")
    for name in ("generator", "text_encoder"):
        saved = json.loads((tmp_path / "b" / name / "config.json").read_text())
        assert saved["vocabulary_fingerprint"] == PUBLISHED.fingerprint
    again = TextEncoder.from_pretrained(tmp_path / "b" / "text_encoder")
    assert again.vocabulary_fingerprint == PUBLISHED.fingerprint
    assert again.config == text_encoder().config


def test_imported_weights_and_a_vocabulary_made_here_do_not_go_together(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not say which words.*numbered here.*captions\.pickle"):
        bundle(tmp_path / "b", SAME_SIZE)
    assert not (tmp_path / "b").exists()
    with pytest.raises(CheckpointError, match="numbered here"):
        Sampler(generator(), imported(), SAME_SIZE)
    bundle(tmp_path / "said", SAME_SIZE, imported(vocabulary=SAME_SIZE))  # the user says so
    assert Sampler.from_pretrained(tmp_path / "said").vocabulary == SAME_SIZE


def test_an_imported_encoder_put_beside_some_vocabulary_by_hand_is_refused(tmp_path):
    folder = bundle(tmp_path / "b")
    imported().save_pretrained(folder / "text_encoder")
    with pytest.raises(CheckpointError, match=r"nobody has said that they are those of .*vocabulary\.json"):
        Sampler.from_pretrained(folder)


def test_other_sizes_are_refused_with_both_of_them(tmp_path):
    longer = Vocabulary([*PUBLISHED.words, "zz"])
    for refuse in (
        lambda: bundle(tmp_path / "b", longer),
        lambda: Sampler(generator(), text_encoder(), longer),
        lambda: imported(vocabulary=longer),
    ):
        with pytest.raises(CheckpointError, match=r"5 words.*has 6"):
            refuse()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("words", [["<end>", "red", "zebra", "a", "box"], ["<end>", "a"]], ids=["order", "size"])
def test_a_vocabulary_exchanged_in_a_folder_is_refused_by_all_that_read_it(pictures, encoders, tmp_path, words):
    folder = bundle(tmp_path / "b")
    Vocabulary(words).save(folder / "vocabulary.json")
    judges = tmp_path / "judges"
    shutil.copytree(encoders / "weights", judges)
    known = Vocabulary.load(judges / "vocabulary.json").words
    Vocabulary(known[::-1] if len(words) > 2 else words).save(judges / "vocabulary.json")
    for refuse in (
        lambda: Sampler.from_pretrained(folder),
        lambda: evaluate(EvaluationConfig(weights=str(folder), data=str(pictures)), tmp_path / "out"),
        lambda: compat.export_bundle(folder, tmp_path / "out"),
        lambda: DAMSMFeatures(judges),
        lambda: train(train_config(pictures, judges), tmp_path / "out"),
    ):
        with pytest.raises(CheckpointError, match=r"another vocabulary|do not belong together"):
            refuse()
    assert not (tmp_path / "out").exists()


def test_old_weights_without_a_fingerprint_load_if_sizes_fit(tmp_path):
    folder = bundle(tmp_path / "b")
    for name in ("generator", "text_encoder"):
        file = folder / name / "config.json"
        values = json.loads(file.read_text())
        del values["vocabulary_fingerprint"]
        file.write_text(json.dumps(values))
    assert Sampler.from_pretrained(folder).sample(["a red box"])[0].words == ["a", "red", "box"]
    Vocabulary(PUBLISHED.words[:-1]).save(folder / "vocabulary.json")
    with pytest.raises(CheckpointError, match="trained with 5 words, but the vocabulary beside it has 4"):
        Sampler.from_pretrained(folder)


def test_indices_beyond_the_words_are_refused_by_name():
    with pytest.raises(InputError, match=r"indices in 0\.\.4, its words, got 5"):
        text_encoder()(torch.tensor([[1, 5]]), torch.tensor([2]))
    sampler = Sampler(generator(), text_encoder(), PUBLISHED)
    with pytest.raises(InputError, match=r"indices in 0\.\.4"):
        sampler.generate([[1, 5]], [0])


def test_generator_and_encoder_of_other_widths_are_refused_together():
    narrow = TextEncoder(TextEncoderConfig(vocabulary_size=5, word_channels=4, embedding_channels=4))
    with pytest.raises(CheckpointError, match="takes words of 8 channels, the text encoder gives 4"):
        Sampler(generator(), narrow, PUBLISHED)


def test_a_run_carries_its_words_through_checkpoints(pictures, encoders, tmp_path):
    train(train_config(pictures, encoders, steps=1), tmp_path / "run")
    words = Vocabulary.load(encoders / "weights" / "vocabulary.json").fingerprint
    for weights in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-00000001.pt"):
        assert open_bundle(weights).generator().vocabulary_fingerprint == words
