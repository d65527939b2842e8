"""Files of weights in the published formats, with random numbers in them, and runs small enough to evaluate."""

import hashlib
from dataclasses import replace

import pytest
import torch

from dmgan_fast.config import load_config
from dmgan_fast.evaluation import EvaluationConfig, extractors
from dmgan_fast.modules import Generator
from dmgan_fast.training.trainer import train
from tests.evaluation.runs import COUNT
from tests.training.conftest import encoders, one_thread, pictures, train_config  # noqa: F401


def randomise(model, seed):
    """Weights that keep activations of size one, and running statistics as after training."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def torchvision_inception(classes=1000, seed=0):
    from torchvision.models import inception_v3

    return randomise(inception_v3(weights=None, num_classes=classes, init_weights=False), seed)


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory):
    """Both published files, in the two formats that torch.save has had."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    folder = tmp_path_factory.mktemp("inception")
    torch.save(torchvision_inception().state_dict(), folder / extractors.TORCHVISION_INCEPTION.names[0])
    # The network loads weights when it is made, so it is made without that.
    network = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.torch.load", lambda *_, **__: {})
        network.__init__("inception", ["2048"], "none")
    state = randomise(network, 1).state_dict()
    torch.save(state, folder / extractors.TF_INCEPTION.names[0], _use_new_zipfile_serialization=False)
    return folder


@pytest.fixture
def inception(weights_folder, monkeypatch):
    """The folder, with these files' hashes in place of the published ones."""
    for name in ("TORCHVISION_INCEPTION", "TF_INCEPTION"):
        published = getattr(extractors, name)
        digest = hashlib.sha256((weights_folder / published.names[0]).read_bytes()).hexdigest()
        monkeypatch.setattr(extractors, name, replace(published, sha256=digest))
    return weights_folder


@pytest.fixture(scope="session")
def trained(pictures, encoders, tmp_path_factory):  # noqa: F811
    """A run of two steps, with contrast that so short a training does not give."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("trained")
    train(train_config(pictures, encoders, steps=2), out)
    generator = Generator.from_pretrained(out / "weights" / "generator")
    with torch.no_grad():
        generator.image_heads[-1].conv.weight *= 1000
    generator.save_pretrained(out / "weights" / "generator")
    return out


@pytest.fixture
def config(trained, tmp_path):
    """Settings of an evaluation of the run, over which others may be laid."""

    def build(**values):
        base = {"weights": str(trained), "count": COUNT, "cache": str(tmp_path / "cache"), "batch_size": 25}
        return load_config(EvaluationConfig, base | values)

    return build
