"""Known faults and licences of what the package needs: found, and what could not be asked is said."""

import subprocess

import pytest

from tools import audit
from tools.audit import Advisory, Installed

BOMB = Advisory("pillow", ">=11.2,<11.3", "CVE-1", "it breaks")


def test_no_version_that_is_admitted_or_installed_has_a_known_fault():
    _, known = audit.advisories()
    installed = audit.needed([audit.PACKAGE])
    assert {"torch", "pillow", "numpy", "jinja2"} <= installed.keys()
    assert audit.known_faults(installed, known) == []
    asked_for = audit.requirements()
    assert "numpy" in asked_for
    assert audit.admitted_faults(asked_for, known) == []


def test_every_licence_goes_with_mit():
    assert audit.odd_licences(audit.needed([audit.PACKAGE])) == []


@pytest.mark.parametrize("version", ["11.2", "11.2.9"])
def test_an_affected_version_is_found(version):
    here = {"pillow": Installed("pillow", version, "MIT")}
    assert audit.known_faults(here, [BOMB]) == [f"pillow {version}: CVE-1 (>=11.2,<11.3): it breaks"]
    assert audit.known_faults({"pillow": Installed("pillow", "11.3", "MIT")}, [BOMB]) == []


def test_a_bound_that_admits_an_affected_version_is_found():
    assert audit.admitted_faults(["pillow>=11.2"], [BOMB]) == [
        "pyproject.toml admits pillow 11.2: CVE-1 (>=11.2,<11.3): it breaks"
    ]
    assert audit.admitted_faults(["pillow>=11.3", "numpy>=11.2", "pillow"], [BOMB]) == []


@pytest.mark.parametrize("licence", ["GPL-3.0-only", "AGPL-3.0", "unknown", "CC-BY-NC-4.0", "MIT AND GPL-2.0-only"])
def test_a_licence_that_does_not_go_with_mit_is_found(licence):
    assert audit.odd_licences({"x": Installed("x", "1", licence)}) == [f"x 1: its licence is {licence!r}"]


def _answers(monkeypatch, stdout, stderr=""):
    done = subprocess.CompletedProcess((), 0, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    return audit.ask_pip_audit({"x": Installed("x", "1", "MIT")})


def test_a_database_that_does_not_answer_or_knows_nothing_is_not_taken_for_a_clean_result(monkeypatch):
    assert _answers(monkeypatch, "", "Failed to resolve api.osv.dev") == (
        [],
        "pip-audit could not ask its database: Failed to resolve api.osv.dev",
    )
    skipped = '{"dependencies": [{"name": "x", "skip_reason": "not found"}]}'
    assert _answers(monkeypatch, skipped) == ([], "pip-audit's database knows nothing of 1 of 1 packages: x")
    known = '{"dependencies": [{"name": "x", "version": "1", "vulns": [{"id": "CVE-2", "fix_versions": ["2"]}]}]}'
    assert _answers(monkeypatch, known) == (["x 1: CVE-2 (fixed in 2)"], "")
