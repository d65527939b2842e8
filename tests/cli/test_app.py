"""The application: its version, its help, and how fast that is there."""

import re
import subprocess
import sys

import pytest

from tests.cli.calls import call

COMMANDS = (
    "demo",
    "pretrain",
    "train",
    "plan",
    "check",
    "convert",
    "sample",
    "import",
    "export",
    "evaluate",
    "ablate",
    "study",
    "benchmark",
    "info",
    "selfcheck",
)


def test_python_m_and_version():
    result = subprocess.run(
        [sys.executable, "-m", "dmgan_fast", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"dmgan-fast \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(monkeypatch, capsys, command):
    status, out, _ = call(monkeypatch, capsys, command, "--help")
    assert status == 0
    assert f"Example: dmgan-fast {command}" in " ".join(out.split())


def test_help_loads_no_torch():
    code = (
        "import sys; sys.argv = ['dmgan-fast', '--help']\nfrom dmgan_fast import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
