"""The Inception Score of known posteriors, and against its formula in float64."""

import numpy as np
import pytest
import torch

from dmgan_fast.errors import InputError
from dmgan_fast.metrics import EvaluationWarning, inception_score


def posteriors(count, classes, seed=0):
    random = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(count, classes, dtype=torch.float64, generator=random)).softmax(1)


def by_formula(rows, splits):
    """Salimans et al. (2016), as the authors slice it."""
    scores = []
    for k in range(splits):
        part = rows[k * len(rows) // splits : (k + 1) * len(rows) // splits].numpy()
        marginal = part.mean(0)
        scores.append(
            np.exp(
                np.mean([sum(p * (np.log(p) - np.log(q)) for p, q in zip(row, marginal, strict=True)) for row in part])
            )
        )
    return np.mean(scores), np.std(scores)


@pytest.mark.parametrize(("count", "splits"), [(200, 10), (203, 10), (40, 1)])
def test_formula(count, splits):
    rows = posteriors(count, 5)
    assert inception_score(rows, splits) == pytest.approx(by_formula(rows, splits), rel=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")
def test_agrees_with_torchmetrics():
    from torchmetrics.image.inception import InceptionScore

    rows = posteriors(300, 8)
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(rows.log())
    assert inception_score(rows, 1)[0] == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_one_hot_and_balanced_is_the_number_of_classes():
    rows = torch.eye(20).repeat(50, 1)
    assert inception_score(rows) == pytest.approx((20, 0), rel=1e-12, abs=1e-12)


def test_uniform_is_one_and_warned_of():
    with pytest.warns(EvaluationWarning, match="all 500 images have the same probabilities"):
        assert inception_score(torch.full((500, 20), 1 / 20)) == pytest.approx((1, 0), abs=1e-12)


def test_one_sure_class_is_one():
    rows = torch.zeros(500, 20)
    rows[:, 3] = 1
    with pytest.warns(EvaluationWarning, match="same probabilities"):
        assert inception_score(rows)[0] == pytest.approx(1, abs=1e-12)


def test_it_cannot_exceed_the_images_of_a_split_which_is_said():
    with pytest.warns(
        EvaluationWarning, match="100 images in 10 splits can't score above 10, and there are 50 classes"
    ):
        mean, _ = inception_score(torch.eye(50).repeat(2, 1))
    assert mean == pytest.approx(10)


@pytest.mark.parametrize(
    ("rows", "splits", "message"),
    [
        (torch.full((9, 2), 0.5), 10, "must have at least 10 rows, got 9"),
        (torch.full((20, 2), 0.5), 0, "splits must be at least 1, got 0"),
        (torch.full((20, 2), 0.6), 10, "sum to 1"),
        (torch.tensor([[1.5, -0.5]] * 20), 10, "0 or more"),
        (torch.full((20, 2), torch.nan), 10, "row 0 is not finite"),
        (torch.full((20,), 0.5), 10, r"must be \[N, D\], got \[20\]"),
    ],
)
def test_what_is_no_set_of_probabilities_is_refused(rows, splits, message):
    with pytest.raises(InputError, match=message):
        inception_score(rows, splits)
