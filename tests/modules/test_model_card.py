"""Cards of models, for people and for the Hub."""

import json

import pytest
from huggingface_hub import ModelCard

import dmgan_fast
from dmgan_fast import Discriminator, DiscriminatorConfig
from dmgan_fast.errors import InputError
from dmgan_fast.modules.pretrained import PretrainedModel
from tests.modules.hub import TOKEN, encoder

REPORT = [  # as in an evaluation.json
    {"name": "fid-paper", "title": "FID (paper's network)", "value": 16.0912, "std": None, "better": "lower"},
    {"name": "is-birds", "title": "Inception Score", "value": 4.75, "std": 0.07, "better": "higher"},
]


def test_the_card_of_a_pushed_model_holds_metrics_for_people_and_for_the_hub(hub):
    encoder().push_to_hub("me/words", token=TOKEN, model_card_kwargs={"metrics": REPORT, "dataset": "CUB"})
    repository = hub.repositories["me/words"]
    card = ModelCard(repository.commits[repository.names["main"]]["README.md"].decode())
    assert "| FID (paper's network) | 16.091 | lower |" in card.text
    assert "| Inception Score | 4.75 ± 0.07 | higher |" in card.text
    assert card.text.count("| metric | value | better |") == 1
    assert 'TextEncoder.from_pretrained("me/words")' in card.text
    found = [(each.dataset_name, each.metric_type, each.metric_value) for each in card.data.eval_results]
    assert found == [("CUB", "fid-paper", 16.0912), ("CUB", "is-birds", 4.75)]
    assert (card.data.model_name, card.data.library_name, card.data.license) == ("me/words", "dmgan_fast", "mit")


def test_the_card_of_a_saved_model_holds_metrics_of_ones_own(tmp_path):
    model = Discriminator(DiscriminatorConfig(image_size=64, base_channels=2))
    given = {"metrics": {"accuracy": 0.5}, "description": "Trained for a test."}
    model.save_pretrained(tmp_path, model_card_kwargs=given)
    card = ModelCard.load(tmp_path / "README.md")
    assert "Trained for a test." in card.text
    assert "| accuracy | 0.5 |  |" in card.text
    settings = card.text.partition("```json\n")[2].partition("```")[0]
    assert json.loads(settings)["image_size"] == 64


def test_a_card_without_metrics_speaks_of_none(tmp_path):
    encoder().save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "Measured" not in card.text
    assert card.data.eval_results is None


def test_a_card_that_cannot_be_stops_a_push_as_it_stops_a_save(hub):
    with pytest.raises(InputError, match="model card"):
        encoder().push_to_hub("me/words", token=TOKEN, model_card_kwargs={"metrics": {"fid": None}})
    assert hub.repositories["me/words"].commits == {}


@pytest.mark.parametrize("metrics", [{"fid": "16"}, [{"value": 3.0}], [{"name": "fid", "value": None}], {"fid": True}])
def test_a_metric_without_name_or_number_is_refused(metrics, tmp_path):
    with pytest.raises(InputError, match="model card: a metric must have a name and a number"):
        encoder().save_pretrained(tmp_path, model_card_kwargs={"metrics": metrics})


def test_every_model_loads_as_its_card_says():
    def kinds(cls):
        return [each for sub in cls.__subclasses__() for each in (sub, *kinds(sub))]

    found = kinds(PretrainedModel)
    assert len(found) >= 5
    for cls in found:
        if cls.__module__.startswith("dmgan_fast."):
            assert issubclass(cls, getattr(dmgan_fast, cls._kind()))
