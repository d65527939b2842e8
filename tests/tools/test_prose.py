"""What `make lint` reads of the code: what it says to people, where it says it, and nothing else."""

import subprocess
import sys
from pathlib import Path

from tools.prose import main, prose

ROOT = Path(__file__).parents[2]

PYTHON = '''"""A picture of
two lines."""
side = picture["side"]  # a comment on a side
raise ValueError(f"no {picture} of the picture {side + 1:d}") or "side"
'''


def test_comments_docstrings_and_messages_stay_on_their_lines_and_names_go():
    lines = prose(PYTHON, ".py").split("\n")
    assert lines[0] == '"""A picture of'
    assert lines[1] == 'two lines."""'
    assert lines[2] == "# a comment on a side"
    assert lines[3].count("picture") == 1
    assert "side" not in lines[3]


def test_of_cpp_comments_and_messages_and_of_pages_their_text():
    cpp = 'int side = 3;  // one side\n/* two\nsides */ check(side, "a side is wrong", "side");\n'
    assert prose(cpp, ".cu").split("\n")[:3] == ["// one side", "/* two", 'sides */  "a side is wrong"']
    page = '<p class="side">A side of {{ side }}\n{% if side %}side{% endif %}</p>'
    assert [line.split() for line in prose(page, ".html").split("\n")] == [["A", "side", "of"], ["side"]]


def test_a_word_that_we_do_not_use_is_found_in_a_message_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "module.py").write_text('x = 1\nraise ValueError("one picture is missing")\n')
    monkeypatch.chdir(tmp_path)
    main(Path("prose"), [Path("code")])
    terms = ROOT / "tools" / "terms.txt"
    said = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "--dictionary", terms, "prose"], capture_output=True, text=True
    )
    assert said.returncode != 0
    assert "prose/code/module.py:2: picture ==> image" in said.stdout
