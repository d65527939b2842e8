"""``evaluate`` on the command line."""

import re

from dmgan_fast.evaluation.catalogue import METRICS
from tests.cli.calls import call


def test_help_of_evaluate_names_every_metric(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "evaluate", "--help")
    assert [name for name in METRICS if not re.search(rf"\b{name}[,.\s]", out)] == []
