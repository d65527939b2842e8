"""The authors' checkpoints round-trip with the same keys and the same bits."""

import pickle

import pytest
import torch
from torch import nn
from torchvision.models import inception_v3

from dmgan_fast import compat
from dmgan_fast.data import Vocabulary
from dmgan_fast.errors import CheckpointError
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
from dmgan_fast.sampling.bundle import save_bundle

SMALL = {"base_channels": 4, "word_channels": 16, "condition_channels": 12, "noise_channels": 10}


def same(one, other):
    assert list(one) == list(other)
    for key in one:
        assert one[key].dtype == other[key].dtype, key
        assert torch.equal(one[key], other[key]), key


def small_generator(**changes):
    return Generator(GeneratorConfig(**SMALL | changes))


@pytest.mark.parametrize("counters", [True, False], ids=["counters", "before 0.4.1"])
@pytest.mark.parametrize("sides", [(64,), (64, 128), (64, 128, 256, 512)])
def test_generator_round_trip(sides, counters):
    model = small_generator(image_sizes=sides, residual_blocks=3)
    state = compat.export_generator(model, batch_counters=counters)
    again = compat.import_generator(state)
    expected = model.config
    assert again.config.image_sizes == sides
    assert again.config.residual_blocks == (expected.residual_blocks if len(sides) > 1 else 1)
    assert (again.config.base_channels, again.config.noise_channels) == (4, 10)
    assert again.config.mask_mode == "official"
    same(compat.export_generator(again, batch_counters=counters), state)


def test_imported_generator_has_every_tensor():
    model = small_generator()
    again = compat.import_generator(compat.export_generator(model))
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("side", [64, 128, 256, 512])
def test_discriminator_round_trip(side):
    model = Discriminator(DiscriminatorConfig(image_size=side, base_channels=2, sentence_channels=16))
    state = compat.export_discriminator(model)
    again = compat.import_discriminator(state, spectral_norm="paper")
    assert again.config == model.config
    same(compat.export_discriminator(again), state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("rnn", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
def test_text_encoder_round_trip(rnn, layers):
    model = TextEncoder(
        TextEncoderConfig(vocabulary_size=11, word_channels=8, embedding_channels=5, rnn=rnn, layers=layers)
    )
    state = compat.export_text_encoder(model)
    assert "encoder.weight" in state
    assert "rnn.weight_ih_l0_reverse" in state
    again = compat.import_text_encoder(state)
    assert again.config == model.config
    same(compat.export_text_encoder(again), state)


def test_image_encoder_round_trip():
    model = ImageEncoder(ImageEncoderConfig(kind="inception", channels=8))
    state = compat.export_image_encoder(model)
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.bn.bias", "emb_features.weight"} <= state.keys()
    same(compat.export_image_encoder(compat.import_image_encoder(state)), state)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "old .pth"])
def test_files_of_both_formats_are_read(tmp_path, new_format):
    state = compat.export_generator(small_generator())
    torch.save(state, tmp_path / "netG.pth", _use_new_zipfile_serialization=new_format)
    same(compat.load_checkpoint(tmp_path / "netG.pth"), state)


def test_data_parallel_prefix_is_dropped():
    state = compat.export_generator(small_generator())
    again = compat.import_generator({f"module.{key}": value for key, value in state.items()})
    same(compat.export_generator(again), state)


def test_float64_stays_float64():
    state = {
        k: v.double() if v.is_floating_point() else v for k, v in compat.export_generator(small_generator()).items()
    }
    same(compat.export_generator(compat.import_generator(state)), state)


def test_wrong_checkpoint_says_which_keys_and_shapes():
    state = compat.export_generator(small_generator())
    state["h_net2.A.weight"] = torch.zeros(1, 17)
    del state["h_net3.B.weight"]
    state["spare.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        compat.import_generator(state)
    message = str(caught.value)
    assert "h_net2.A.weight is [1, 17], the model has [1, 16]" in message
    assert "missing h_net3.B.weight" in message
    assert "unexpected spare.weight" in message


@pytest.mark.parametrize(
    "read",
    [compat.import_generator, compat.import_discriminator, compat.import_text_encoder, compat.import_image_encoder],
)
def test_another_model_is_refused(read):
    with pytest.raises(CheckpointError, match=r"not the authors' .* is missing; found conv\.weight"):
        read({"conv.weight": torch.zeros(3)})


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_hostile_checkpoint_executes_nothing(tmp_path, capsys):
    torch.save({"x": Hostile()}, tmp_path / "bad.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Hostile()))
    for name in ("bad.pth", "raw.pth"):
        with pytest.raises(CheckpointError, match="not a checkpoint of tensors only"):
            compat.load_checkpoint(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        compat.load_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pth"):
        compat.load_checkpoint(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="expected a state dict"):
        compat.load_checkpoint(tmp_path / "list.pth")


def test_exports_that_the_authors_cannot_hold_are_refused():
    with pytest.raises(CheckpointError, match="has none"):
        compat.export_discriminator(
            Discriminator(DiscriminatorConfig(image_size=64, base_channels=2, spectral_norm="none"))
        )
    with pytest.raises(CheckpointError, match="compact"):
        compat.export_image_encoder(ImageEncoder(ImageEncoderConfig(kind="compact", base_channels=2)))


def authors_encoders(words, channels):
    """Modules with the attributes of the authors' RNN_ENCODER and CNN_ENCODER."""
    text, image = nn.Module(), nn.Module()
    text.encoder = nn.Embedding(words, 6)
    text.rnn = nn.LSTM(6, channels // 2, batch_first=True, bidirectional=True)
    for name, child in inception_v3(weights=None, init_weights=False).named_children():
        if name.startswith(("Conv2d", "Mixed")):
            setattr(image, name, child)
    image.emb_features = nn.Conv2d(768, channels, 1, bias=False)
    image.emb_cnn_code = nn.Linear(2048, channels)
    return text, image


def test_exported_files_load_in_modules_built_as_the_authors_build_them(tmp_path):
    config = TextEncoderConfig(vocabulary_size=4, word_channels=8, embedding_channels=6)
    models = {
        "text_encoder": TextEncoder(config),
        "image_encoder": ImageEncoder(ImageEncoderConfig(kind="inception", channels=8)),
        "generator": small_generator(),
    }
    save_bundle(tmp_path / "run" / "weights", vocabulary=Vocabulary(["<end>", "a", "b", "c"]), card="", **models)
    files = compat.export_bundle(tmp_path / "run", tmp_path / "out")
    assert [file.name for file in files] == ["netG.pth", "text_encoder.pth", "image_encoder.pth"]
    generator, text, image = (compat.load_checkpoint(file) for file in files)
    assert files[0].read_bytes()[:2] != b"PK"  # PyTorch 0.4 knows no zip files
    same(generator, compat.export_generator(models["generator"]))
    for plain, state in zip(authors_encoders(4, 8), (text, image), strict=True):
        plain.load_state_dict(state, strict=True)


def test_nothing_is_exported_if_one_model_is_not_theirs(tmp_path):
    config = TextEncoderConfig(vocabulary_size=2, word_channels=8, embedding_channels=6)
    compact = ImageEncoder(ImageEncoderConfig(kind="compact", channels=8, base_channels=2, image_size=32))
    vocabulary = Vocabulary(["<end>", "a"])
    save_bundle(tmp_path, vocabulary=vocabulary, card="", text_encoder=TextEncoder(config), image_encoder=compact)
    with pytest.raises(CheckpointError, match="compact"):
        compat.export_bundle(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
