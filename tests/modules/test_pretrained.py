"""Models on the Hub and in folders, by Hugging Face's conventions, against a stand-in of the Hub on this machine."""

import inspect

import pytest
import torch
from huggingface_hub import constants, hf_hub_download

from dmgan_fast import Discriminator, TextEncoder
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.modules import pretrained
from dmgan_fast.modules.pretrained import DOWNLOAD
from tests.modules.hub import TOKEN, Repository, encoder


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


def test_a_hub_that_is_away_is_one_paragraph(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="'me/words' could not be uploaded: ") as caught:
        encoder().push_to_hub("me/words", token=TOKEN)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_saved_again_can_be_loaded_at_every_moment(tmp_path, monkeypatch):
    first, second = encoder(), encoder()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    first.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    write, seen = pretrained.save_file, []

    def watched(tensors, file, **options):
        seen.append(TextEncoder.from_pretrained(tmp_path).state_dict())
        write(tensors, file, **options)

    monkeypatch.setattr(pretrained, "save_file", watched)
    second.save_pretrained(tmp_path)
    for state, model in ((seen[0], first), (TextEncoder.from_pretrained(tmp_path).state_dict(), second)):
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert (tmp_path / "README.md").read_text() == card
