"""The image encoders, compact and Inception."""

import pytest
import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.modules import ImageEncoder, ImageEncoderConfig
from dmgan_fast.modules.image_encoder import INCEPTION_FILE


def test_compact_encoder_takes_any_side():
    encoder = ImageEncoder(ImageEncoderConfig(kind="compact", channels=8, image_size=64, base_channels=2)).eval()
    for side in (64, 128):
        regions, code = encoder(torch.rand(2, 3, side, side))
        assert regions.shape == (2, 8, 8, 8)
        assert code.shape == (2, 8)


def test_inception_encoder_shapes_and_local_weights(tmp_path, monkeypatch):
    from torchvision.models import inception_v3

    encoder = ImageEncoder(ImageEncoderConfig(channels=8)).eval()
    assert not any(p.requires_grad for p in encoder.trunk.parameters())
    with torch.no_grad():
        regions, code = encoder(torch.rand(1, 3, 64, 64))
    assert regions.shape == (1, 8, 17, 17)
    assert code.shape == (1, 8)
    with pytest.raises(CheckpointError, match=INCEPTION_FILE):
        encoder.load_inception(tmp_path / INCEPTION_FILE)
    whole = inception_v3(weights=None, init_weights=False)
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole.state_dict(), tmp_path / "checkpoints" / INCEPTION_FILE)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    encoder.load_inception()
    assert torch.equal(encoder.trunk.Mixed_6e.branch1x1.conv.weight, whole.Mixed_6e.branch1x1.conv.weight)
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        encoder.load_inception(tmp_path / "cut.pth")
