"""What people and sites read of the repository itself."""

from pathlib import Path

import pytest
import yaml

from dmgan_fast import __version__

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert [each["family-names"] for each in citation["preferred-citation"]["authors"]] == [
        "Zhu",
        "Pan",
        "Chen",
        "Yang",
    ]
    assert "1904.01310" in (ROOT / "README.md").read_text(), "the same paper"
    assert citation["preferred-citation"]["url"].endswith("1904.01310")


@pytest.mark.parametrize("file", [file for file in TEMPLATES if file.name != "config.yml"], ids=lambda file: file.stem)
def test_issue_templates_are_forms(file):
    form = yaml.safe_load(file.read_text())
    assert {"name", "description", "body"} <= form.keys()
    identifiers = [field["id"] for field in form["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(field["attributes"]["label"] for field in form["body"])
    assert any(field.get("validations", {}).get("required") for field in form["body"])
