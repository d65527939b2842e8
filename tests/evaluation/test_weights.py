"""Published weights are found and checked; what is none of them is named."""

import pytest
import torch

from dmgan_fast.errors import CheckpointError
from dmgan_fast.evaluation import extractors
from dmgan_fast.evaluation.extractors import Classifier, TFInception, TorchvisionInception
from dmgan_fast.evaluation.weights import MissingWeights


@pytest.mark.parametrize("extractor", [TorchvisionInception, TFInception])
def test_missing_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, extractor):
    with pytest.raises(MissingWeights, match=rf"fetch https://\S+\.pth and put it into {tmp_path}"):
        extractor(tmp_path)


@pytest.mark.parametrize("extractor", [TorchvisionInception, TFInception])
def test_files_that_are_not_the_published_ones_are_refused(weights_folder, extractor):
    with pytest.raises(
        CheckpointError, match=r"not the published file: its SHA-256 is [0-9a-f]{64}, expected [0-9a-f]+"
    ):
        extractor(weights_folder)


def test_the_other_name_of_the_tf_weights_is_found_too(inception, tmp_path):
    (tmp_path / "pt_inception-2015-12-05-6726825d.pth").symlink_to(inception / extractors.TF_INCEPTION.names[0])
    assert TFInception(tmp_path).key == TFInception(inception).key


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.zeros(5, 10), "fc.bias": torch.zeros(5)}, r"must be \[classes, 2048\], got \[5, 10\]"),
        ({"weight": torch.zeros(1)}, r"must be \[classes, 2048\], got nothing"),
        ({"fc.weight": torch.zeros(5, 2048), "fc.bias": torch.zeros(5)}, "does not fit InceptionTrunk: missing"),
        ([1, 2], "expected a state dict"),
        ({"fc": print}, "not a file of tensors only"),
        (None, "weights not found"),
    ],
)
def test_files_that_hold_no_classifier_are_named(tmp_path, content, message):
    file = tmp_path / "birds.pth"
    if content is not None:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=message) as caught:
        Classifier(file)
    assert str(file) in str(caught.value)
