"""``dmgan-fast web``."""

import sys

import pytest

from dmgan_fast.web import server
from tests.cli.calls import call


@pytest.fixture
def served(monkeypatch):
    """What would have been served: each studio, host and port."""
    calls = []

    def serve(studio, *, host, port, ready):
        calls.append((studio.models.names, host, port))
        ready(f"http://{host}:{port}")

    monkeypatch.setattr(server, "serve", serve)
    return calls


def test_it_serves_this_machine_only_unless_told(served, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, _ = call(monkeypatch, capsys, "web")
    assert (status, out) == (0, "open http://127.0.0.1:7860 (Ctrl-C stops it)\n")
    call(monkeypatch, capsys, "web", "--host", "0.0.0.0", "--port", "8000")
    assert served == [(["Shipped weights"], "127.0.0.1", 7860), (["Shipped weights"], "0.0.0.0", 8000)]


def test_runs_here_and_weights_given_are_offered(served, weights, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "gan").symlink_to(weights)
    call(monkeypatch, capsys, "web", "--weights", weights)
    assert served[0][0] == [weights.name, "Shipped weights", "gan"]


def test_bad_input_is_one_paragraph(served, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for arguments, says in (
        (("--weights", "nowhere"), "no weights at 'nowhere'"),
        (("--runs", "nowhere"), "--runs must be a folder, got 'nowhere'"),
        (("--port", "70000"), "Invalid value for '--port': Input should be less than or equal to 65535"),
    ):
        status, _, errors = call(monkeypatch, capsys, "web", *arguments)
        assert status == 2
        assert says in errors
        assert "Traceback" not in errors
    assert served == []


def test_without_gradio_the_remedy_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, _, errors = call(monkeypatch, capsys, "web")
    assert status == 2
    assert "install what the page needs with `pip install 'dmgan-fast[web]'`" in errors


def test_the_help_says_how_to_install_what_it_needs(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "web", "--help")
    assert "Needs `pip install 'dmgan-fast[web]'`" in " ".join(out.split())
