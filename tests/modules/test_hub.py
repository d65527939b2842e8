"""Models on the Hub and in folders, by Hugging Face's conventions, against a stand-in of the Hub on this machine."""

import inspect
import json

import pytest
import torch
from huggingface_hub import ModelCard, constants, hf_hub_download

import dmgan_fast
from dmgan_fast import Discriminator, DiscriminatorConfig, TextEncoder, TextEncoderConfig
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.modules.pretrained import DOWNLOAD, PretrainedModel
from tests.modules.hub import TOKEN, Repository

REPORT = [  # as in an evaluation.json
    {"name": "fid-paper", "title": "FID (paper's network)", "value": 16.0912, "std": None, "better": "lower"},
    {"name": "is-birds", "title": "Inception Score", "value": 4.75, "std": 0.07, "better": "higher"},
]


def encoder(seed=0):
    torch.manual_seed(seed)
    return TextEncoder(TextEncoderConfig(vocabulary_size=5, word_channels=4, embedding_channels=3)).eval()


def files(model, folder):
    model.save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def same(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_a_hub_id_loads_the_main_branch_a_tag_or_a_commit(hub, tmp_path):
    old, new = encoder(0), encoder(1)
    repository = hub.repositories["me/words"] = Repository()
    first = repository.commit(files(old, tmp_path / "old"))
    repository.names["v1"] = first
    repository.commit(files(new, tmp_path / "new"))
    assert same(TextEncoder.from_pretrained("me/words"), new)
    assert same(TextEncoder.from_pretrained("me/words", revision="v1"), old)
    assert same(TextEncoder.from_pretrained("me/words", revision=first), old)


def test_a_model_in_a_subfolder_loads_from_the_hub_and_from_a_folder(hub, tmp_path):
    model = encoder()
    content = files(model, tmp_path / "run" / "text_encoder")
    hub.repositories["me/run"] = Repository()
    hub.repositories["me/run"].commit({f"text_encoder/{name}": data for name, data in content.items()})
    assert same(TextEncoder.from_pretrained("me/run", subfolder="text_encoder"), model)
    assert same(TextEncoder.from_pretrained(tmp_path / "run", subfolder="text_encoder"), model)


def test_what_was_fetched_once_comes_from_the_cache(hub, tmp_path):
    hub.repositories["me/words"] = Repository()
    hub.repositories["me/words"].commit(files(encoder(), tmp_path / "model"))
    for options in ({}, {}, {"local_files_only": True}):
        TextEncoder.from_pretrained("me/words", cache_dir=tmp_path / "mine", **options)
    assert sorted(hub.downloads) == ["me/words/config.json", "me/words/model.safetensors"]
    assert not (tmp_path / "cache").exists(), "cache_dir is the place"
    TextEncoder.from_pretrained("me/words", cache_dir=tmp_path / "mine", force_download=True)
    assert len(hub.downloads) == 4


def test_a_private_model_needs_a_token(hub, tmp_path, monkeypatch):
    model = encoder()
    hub.repositories["me/words"] = Repository(private=True)
    hub.repositories["me/words"].commit(files(model, tmp_path / "model"))
    with pytest.raises(CheckpointError, match=r"'me/words' is no local folder and config\.json could not be fetched"):
        TextEncoder.from_pretrained("me/words")
    assert same(TextEncoder.from_pretrained("me/words", token=TOKEN), model)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert same(TextEncoder.from_pretrained("me/words"), model)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("me/nothing", {}),
        ("me/words", {"revision": "v9"}),
        ("me/words", {"subfolder": "nowhere"}),
        ("me/words", {"local_files_only": True}),
        ("me/wo rds", {}),
    ],
)
def test_what_the_hub_does_not_have_is_one_paragraph(name, options, hub, tmp_path):
    hub.repositories["me/words"] = Repository()
    hub.repositories["me/words"].commit(files(encoder(), tmp_path / "model"))
    with pytest.raises(CheckpointError, match=f"'{name}' is no local folder and config.json could not be") as caught:
        TextEncoder.from_pretrained(name, **options)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_kind_is_refused(hub, tmp_path):
    hub.repositories["me/words"] = Repository()
    hub.repositories["me/words"].commit(files(encoder(), tmp_path / "model"))
    with pytest.raises(CheckpointError, match="describes a TextEncoder, but a Discriminator was asked for"):
        Discriminator.from_pretrained("me/words")


def test_options_are_those_of_the_hubs_client_and_no_others():
    assert set(DOWNLOAD) <= set(inspect.signature(hf_hub_download).parameters)
    with pytest.raises(InputError, match=r"from_pretrained takes map_location, .*, token, got revison"):
        TextEncoder.from_pretrained("me/words", revison="v1")


def test_what_is_pushed_comes_back(hub):
    model = encoder()
    model.vocabulary_fingerprint = "abc"
    url = model.push_to_hub("me/words", token=TOKEN, private=True)
    repository = hub.repositories["me/words"]
    assert repository.private
    assert url.startswith(f"{hub.url}/me/words")
    again = TextEncoder.from_pretrained("me/words", token=TOKEN)
    assert same(again, model)
    assert (again.config, again.vocabulary_fingerprint) == (model.config, "abc")
    assert set(repository.commits[repository.names["main"]]) == {"README.md", "config.json", "model.safetensors"}


def test_a_branch_can_be_pushed_to(hub):
    encoder(0).push_to_hub("me/words", token=TOKEN)
    encoder(1).push_to_hub("me/words", token=TOKEN, branch="next")
    assert same(TextEncoder.from_pretrained("me/words"), encoder(0))
    assert same(TextEncoder.from_pretrained("me/words", revision="next"), encoder(1))


def test_a_push_without_a_right_token_is_one_paragraph(hub):
    with pytest.raises(CheckpointError, match="'me/words' could not be uploaded: ") as caught:
        encoder().push_to_hub("me/words", token="hf_wrong")
    assert "\n" not in str(caught.value)
    assert hub.repositories == {}


def test_the_card_of_a_pushed_model_holds_metrics_for_people_and_for_the_hub(hub):
    encoder().push_to_hub("me/words", token=TOKEN, model_card_kwargs={"metrics": REPORT, "dataset": "CUB"})
    repository = hub.repositories["me/words"]
    card = ModelCard(repository.commits[repository.names["main"]]["README.md"].decode())
    assert "| FID (paper's network) | 16.091 | lower |" in card.text
    assert "| Inception Score | 4.75 ± 0.07 | higher |" in card.text
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


def test_a_hub_that_is_away_is_one_paragraph(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="'me/words' could not be uploaded: ") as caught:
        encoder().push_to_hub("me/words", token=TOKEN)
    assert "\n" not in str(caught.value)


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
