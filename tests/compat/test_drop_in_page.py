"""What docs/drop-in.md shows runs and prints what it says."""

import re
from pathlib import Path

from dmgan_fast.compat.patching.rules import Options

PAGE = (Path(__file__).parents[2] / "docs" / "drop-in.md").read_text()


def test_the_example_runs_and_its_report_is_the_one_shown(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/drop-in.md", "exec"), {})
    printed = capsys.readouterr().out.strip()
    assert f"```\n{printed}\n```" in PAGE


def test_every_option_has_a_row():
    for option in vars(Options()):
        assert f"| `{option}` |" in PAGE, option
