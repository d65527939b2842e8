"""The Hub example of docs/install.md, against a stand-in of the Hub on this machine."""

import json

from dmgan_fast import Generator, GeneratorConfig
from tests.docs.test_pages import run
from tests.modules.conftest import hub  # noqa: F401
from tests.modules.hub import Repository


def test_a_model_is_loaded_and_uploaded_as_the_page_says(hub, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.chdir(tmp_path)
    config = GeneratorConfig(image_sizes=(64,), base_channels=2, word_channels=8)
    Generator(config).save_pretrained(tmp_path / "model")
    repository = hub.repositories["owner/name"] = Repository(private=True)
    files = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    repository.names["v1"] = repository.commit(files)
    names = {}
    run("docs/install.md", names)
    assert names["generator"].config == config
    assert "FID" in repository.commits[repository.names["main"]]["README.md"].decode()
    assert json.loads(repository.commits[repository.names["main"]]["config.json"])
