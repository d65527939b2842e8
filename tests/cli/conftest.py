import pytest

from tests.cli.calls import call
from tests.sampling.conftest import sampler, weights  # noqa: F401


@pytest.fixture
def sample(weights, monkeypatch, capsys, tmp_path):  # noqa: F811
    """Draw into ``out``: status, file names in the order written, errors."""

    def run(*arguments):
        given = ("sample", *arguments, "--weights", weights, "--out", tmp_path / "out")
        status, out, errors = call(monkeypatch, capsys, *given)
        return status, [line.rsplit("/")[-1] for line in out.splitlines()], errors

    return run
