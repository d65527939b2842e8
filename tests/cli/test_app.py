"""The application: its version, its help and how fast that is there, groups, completion, exit codes, colours."""

import os
import re
import subprocess
import sys

import pytest
import typer

from dmgan_fast import cli
from dmgan_fast.cli.app import app
from tests.cli.calls import call

COMMANDS = (
    "demo",
    "pretrain",
    "train",
    "plan",
    "report",
    "web",
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


def test_help_lists_every_command_in_a_group_with_examples_and_exit_codes(monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "--help")
    said = " ".join(out.split())
    assert status == 0
    assert {(each.name or each.callback.__name__) for each in app.registered_commands} == {*COMMANDS}
    assert all(isinstance(each.rich_help_panel, str) for each in app.registered_commands)
    for group in {each.rich_help_panel for each in app.registered_commands}:
        assert group in said
    assert 'dmgan-fast sample "a red apple" --out images' in said
    assert "Exit status: 0 done; 1 the answer is no" in said
    assert f"{cli.EXIT_BAD_INPUT} input that can't be used" in said
    assert f"{cli.EXIT_INTERRUPTED} stopped with Ctrl-C" in said
    assert f"{cli.EXIT_REQUEUE} stopped by a scheduler's signal" in said


def run(*arguments, **environment):
    """In a process of its own, whose output is piped."""
    return subprocess.run(
        [sys.executable, "-m", "dmgan_fast", *arguments],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR",)} | environment,
    )


def test_the_shell_completes_commands_and_options():
    found = {}
    for words in ("dmgan-fast sa", "dmgan-fast sample --see"):
        code = "import sys; sys.argv = ['dmgan-fast']; from dmgan_fast.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ
            | {
                "_DMGAN_FAST_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
        )
        found[words] = done.stdout.split()
    assert found == {"dmgan-fast sa": ["sample"], "dmgan-fast sample --see": ["--seed"]}


def test_nothing_is_coloured_when_piped():
    for done in (run("--help"), run("sample", "--no-such-option")):
        assert "\x1b" not in done.stdout + done.stderr


def test_an_unknown_command_exits_with_2_and_names_it():
    done = run("smaple")
    assert done.returncode == 2
    assert "smaple" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_option_is_explained():
    for name, command in typer.main.get_command(app).commands.items():
        silent = [each.name for each in command.params if each.param_type_name == "option" and not each.help]
        assert silent == [], name
