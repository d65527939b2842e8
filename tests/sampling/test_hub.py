"""A sampler from the Hub, in Python and on the command line, against a stand-in of the Hub on this machine."""

import shutil
from pathlib import Path

import pytest
import torch

from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.sampling.hub import is_hub_id
from dmgan_fast.sampling.sampler import Sampler
from tests.cli.calls import call
from tests.modules.hub import TOKEN, Repository

FETCHED = [
    "generator/config.json",
    "generator/model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "vocabulary.json",
]


def content(weights, prefix=""):
    return {prefix + str(f.relative_to(weights)): f.read_bytes() for f in weights.rglob("*") if f.is_file()}


@pytest.fixture
def repository(hub, weights):
    """``me/gan`` on the Hub, with the weights of the fixture."""
    hub.repositories["me/gan"] = Repository()
    hub.repositories["me/gan"].commit(content(weights))
    return hub.repositories["me/gan"]


def drawn(sampler):
    return sampler.sample(["a red apple"], seed=1)[0].images[-1]


def test_a_hub_id_draws_what_the_folder_draws_and_fetches_nothing_else(hub, repository, weights):
    repository.commit({"discriminator_64/model.safetensors": b"large"})
    assert torch.equal(drawn(Sampler.from_pretrained("me/gan")), drawn(Sampler.from_pretrained(weights)))
    assert sorted(hub.downloads) == [f"me/gan/{name}" for name in FETCHED]


def test_a_revision_is_a_branch_a_tag_or_a_commit(repository, weights, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(weights, other)
    (other / "vocabulary.json").write_text("[]")
    old = repository.names["v1"] = repository.names["main"]
    repository.commit(content(other))
    for revision in ("v1", old):
        assert torch.equal(
            drawn(Sampler.from_pretrained("me/gan", revision=revision)), drawn(Sampler.from_pretrained(weights))
        )
    with pytest.raises(Exception, match="vocabulary"):
        Sampler.from_pretrained("me/gan")


def test_all_files_are_of_one_commit_though_the_branch_moves_on(hub, repository, weights, monkeypatch):
    from dmgan_fast.sampling import hub as module

    fetch = module.fetch

    def moving(*arguments):
        file = fetch(*arguments)
        repository.commit({"generator/config.json": b"{}"})
        return file

    monkeypatch.setattr(module, "fetch", moving)
    assert torch.equal(drawn(Sampler.from_pretrained("me/gan")), drawn(Sampler.from_pretrained(weights)))


def test_weights_may_lie_in_a_subfolder_of_a_repository_and_of_a_run(repository, weights, tmp_path):
    repository.commit(content(weights, "step-7/weights/"))
    shutil.copytree(weights, tmp_path / "run" / "inner")
    for source, subfolder in (("me/gan", "step-7/weights"), (tmp_path / "run", "inner")):
        sampler = Sampler.from_pretrained(source, subfolder=subfolder)
        assert torch.equal(drawn(sampler), drawn(Sampler.from_pretrained(weights)))
    with pytest.raises(InputError, match=r"subfolder must lie inside the repository, got '\.\./other'"):
        Sampler.from_pretrained("me/gan", subfolder="../other")


def test_the_cache_is_where_cache_dir_says_and_serves_without_the_hub(hub, repository, tmp_path):
    Sampler.from_pretrained("me/gan", cache_dir=tmp_path / "mine")
    Sampler.from_pretrained("me/gan", cache_dir=tmp_path / "mine", local_files_only=True)
    assert len(hub.downloads) == len(FETCHED)
    assert not (tmp_path / "cache").exists()


def test_a_private_repository_needs_a_token(repository):
    repository.private = True
    with pytest.raises(CheckpointError, match=r"'me/gan' is no local folder and vocabulary\.json could not be fetched"):
        Sampler.from_pretrained("me/gan")
    assert Sampler.from_pretrained("me/gan", token=TOKEN)


def test_a_step_of_a_hub_id_and_an_unknown_option_are_refused(repository):
    with pytest.raises(InputError, match="step: 'me/gan' is a Hub id, not a run; choose by its revision instead"):
        Sampler.from_pretrained("me/gan", step="best")
    with pytest.raises(InputError, match=r"from_pretrained takes device, step, subfolder, .*, got revison"):
        Sampler.from_pretrained("me/gan", revison="v1")


def test_a_mistyped_path_is_not_asked_of_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(CheckpointError, match="no weights at 'runs/gna'"):
        Sampler.from_pretrained("runs/gna")
    assert not hub.downloads


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("me/gan", True),
        ("gan", False),
        ("./gan", False),
        ("../gan", False),
        ("a/b/c", False),
        ("/gan", False),
        ("me/", False),
    ],
)
def test_owner_and_name_make_a_hub_id(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(text) is expected


def test_the_command_line_samples_from_a_folder_and_from_the_hub(repository, weights, tmp_path, monkeypatch, capsys):
    repository.private = True
    options = ("--token", TOKEN, "--revision", "main", "--cache-dir", tmp_path / "mine")
    for source, more in ((weights, ()), ("me/gan", options)):
        given = ("sample", "a red apple", "--weights", source, "--out", tmp_path / Path(source).name, *more)
        assert call(monkeypatch, capsys, *given)[0] == 0
    first, second = (list((tmp_path / name).rglob("*-128.png")) for name in (weights.name, "gan"))
    assert first[0].read_bytes() == second[0].read_bytes()
    status, _, errors = call(monkeypatch, capsys, "sample", "a red apple", "--weights", "me/nothing", "--out", tmp_path)
    assert status == 2
    assert errors.startswith("dmgan-fast: 'me/nothing' is no local folder and vocabulary.json could not be fetched")
    assert "Traceback" not in errors
