"""The pages of README and docs: their code blocks, commands and links."""

import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
OPERATORS = {"|", "||", "&", "&&", ";", ">", "<"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what stands after it, its text, the line of its first line of text."""

    language: str
    title: str
    text: str
    line: int


@cache
def _tokens(page):
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(page):
    """All fenced blocks of a page, in order."""
    fences = [token for token in _tokens(page) if token.type == "fence"]
    return [Block(*token.info.partition(" ")[::2], token.content, token.map[0] + 2) for token in fences]


def inline(page, kind):
    """Inline tokens of a kind, as ``code_inline`` and ``link_open``."""
    return [child for token in _tokens(page) for child in token.children or () if child.type == kind]


def commands(text):
    """The commands of a shell block, each a list of words; comments, loops and what lies between pipes apart."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words = []
        for word in [*lexer, ";"]:
            if word not in OPERATORS:
                words.append(word)
            elif words:
                found.append(words)
                words = []
    return [words for words in found if words[0] not in ("for", "do", "done")]
