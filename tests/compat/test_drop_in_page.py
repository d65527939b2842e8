"""docs/drop-in.md says what is replaced; its example runs in tests/docs."""

from pathlib import Path

from dmgan_fast.compat.patching.rules import Options

PAGE = (Path(__file__).parents[2] / "docs" / "drop-in.md").read_text()


def test_every_option_has_a_row():
    for option in vars(Options()):
        assert f"| `{option}` |" in PAGE, option
