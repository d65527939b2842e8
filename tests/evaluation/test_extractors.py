"""Extractors against the same networks in float64, prepared step by step as their protocols say."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.models.inception import InceptionE
from torchvision.transforms.functional import pil_to_tensor

from dmgan_fast.evaluation import extractors
from dmgan_fast.evaluation.extractors import Classifier, DAMSMFeatures, TFInception, TorchvisionInception
from dmgan_fast.modules import ImageEncoder, TextEncoder
from dmgan_fast.modules.image_encoder import InceptionTrunk

from .conftest import torchvision_inception


def some_pictures(side, count=2):
    """Smooth 8-bit pictures with some noise, ``[count, 3, side, side]``."""
    random = torch.Generator().manual_seed(side)
    coarse = torch.rand(count, 3, 5, 5, generator=random)
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1) * 230
    return (smooth + 20 * torch.rand(count, 3, side, side, generator=random)).byte()


def resized_files(pictures):
    """As if saved, and opened and resized by Pillow: float64 in [0, 255]."""
    opened = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
    return torch.stack([pil_to_tensor(picture.resize((299, 299), Image.BILINEAR)) for picture in opened]).double()


def normalised(unit):
    """What the authors' FID network does to pictures in [0, 1]."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return unit * (deviation.double() / 0.5)[:, None, None] + ((mean.double() - 0.5) / 0.5)[:, None, None]


def pooled(network, inputs):
    """Input of the last layer of torchvision's network, in float64."""
    seen = []
    network.double().fc.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network.transform_input = False
    with torch.no_grad():
        logits = network(inputs)
    return seen[0], logits


BUDGET = 1e-5  # relative; rounding takes a tenth of it, resizing another way a hundred times as much


def near(got, truth):
    assert got.dtype == torch.float32
    assert (got.double() - truth).norm() < BUDGET * truth.norm()


@pytest.mark.parametrize("side", [64, 299])
def test_the_papers_fid_reads_files_resized_by_pillow(inception, side):
    pictures = some_pictures(side)
    got = TorchvisionInception(inception)(pictures)["features"]
    truth, _ = pooled(torchvision_inception(), normalised(resized_files(pictures) / 255))
    assert got.shape == (2, 2048)
    near(got, truth)


def test_the_wrappers_own_resizing_aligns_corners(inception):
    pictures = some_pictures(64)
    got = TorchvisionInception(inception, resize="align_corners")(pictures)["features"]
    scaled = F.interpolate(pictures.double() / 255, size=(299, 299), mode="bilinear", align_corners=True)
    truth, _ = pooled(torchvision_inception(), normalised(scaled))
    near(got, truth)
    by_files = TorchvisionInception(inception)(pictures)["features"]
    assert (by_files.double() - truth).norm() > 50 * BUDGET * truth.norm()


class MaxPooled(InceptionE):
    """The last block of TensorFlow's Inception of 2015, which takes the maximum where others average."""

    def forward(self, x):
        branch3x3, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(branch3x3),
                self.branch3x3_2b(branch3x3),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1)),
            ],
            1,
        )


def test_tf_inception_pools_as_tensorflow_and_leaves_the_bias_out(inception):
    """Rebuilt from torchvision's blocks; at side 299 no resizing comes in between."""
    pictures = some_pictures(299)
    got = TFInception(inception)(pictures)
    state = torch.load(inception / extractors.TF_INCEPTION.names[0], weights_only=True)
    trunk = InceptionTrunk()
    trunk.load_imagenet(state, "state")
    last = MaxPooled(2048)
    last.load_state_dict(trunk.Mixed_7c.state_dict())
    trunk.Mixed_7c = last
    extractors.leave_out_padding(trunk)
    last.branch_pool._forward_pre_hooks.clear()  # a maximum has no padding to leave out
    with torch.no_grad():
        _, truth = trunk.eval().double()((pictures.double() - 128) / 128)
    near(got["features"], truth)
    near(got["logits"], truth @ state["fc.weight"].double().t())
    assert got["logits"].shape == (2, 1008)


def test_tf_inception_resizes_as_tensorflow_or_as_pillow(inception):
    small = some_pictures(64)
    by_tf, by_pillow = (TFInception(inception, resize=how) for how in ("tf", "pil"))
    one, other = by_tf(small)["features"], by_pillow(small)["features"]
    assert (one - other).norm() > 50 * BUDGET * one.norm()
    large = resized_files(small).byte()
    assert torch.equal(by_tf(large)["features"], by_pillow(large)["features"])
    assert torch.equal(by_tf(large)["features"], by_pillow(small)["features"])


def test_a_classifier_of_any_number_of_classes(tmp_path):
    network = torchvision_inception(classes=7, seed=3)
    torch.save(network.state_dict(), tmp_path / "birds.pth")
    pictures = some_pictures(80)
    extractor = Classifier(tmp_path / "birds.pth")
    _, truth = pooled(network, resized_files(pictures) / 127.5 - 1)
    near(extractor(pictures)["logits"], truth)
    assert extractor.width == 7


def test_damsm_features_are_codes_and_sentences_of_the_encoders(encoders):
    bundle = encoders / "weights"
    extractor, pictures = DAMSMFeatures(bundle), some_pictures(48)
    image_encoder = ImageEncoder.from_pretrained(bundle / "image_encoder").double()
    with torch.no_grad():
        _, code = image_encoder(pictures.double() / 127.5 - 1)
        text_encoder = TextEncoder.from_pretrained(bundle / "text_encoder").double()
        _, sentence = text_encoder(torch.tensor([[1, 2, 3], [2, 0, 0]]), torch.tensor([3, 1]))
    near(extractor(pictures)["features"], code)
    near(extractor.sentences([[1, 2, 3], [2]]), sentence)
    assert extractor.width == code.shape[1]


def test_keys_tell_networks_weights_and_resizing_apart(inception, encoders, tmp_path):
    torch.save(torchvision_inception(classes=7, seed=3).state_dict(), tmp_path / "birds.pth")
    keys = [
        TorchvisionInception(inception).key,
        TorchvisionInception(inception, resize="align_corners").key,
        TFInception(inception).key,
        TFInception(inception, resize="pil").key,
        Classifier(tmp_path / "birds.pth").key,
        DAMSMFeatures(encoders / "weights").key,
    ]
    assert len(set(keys)) == len(keys)
    assert TorchvisionInception(inception).key == keys[0]
