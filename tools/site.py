"""A hook of mkdocs (``mkdocs.yml``): what the site has beyond the pages in ``docs/``.

README, CONTRIBUTING and CHANGELOG become pages; links to them are written for readers of the repository and are turned
to their place in the site. The commands and their options become a page, and equations become MathML. Pages that the
navigation does not name are added to its guides.
"""

from __future__ import annotations

import html
import inspect
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
GUIDES = "Guides"
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add pages that the navigation does not name, as those of a branch that was just merged."""
    assert config.nav is not None
    named = set(re.findall(r"[\w/-]+\.md", repr(config.nav)))
    found = sorted(str(page.relative_to(config.docs_dir)) for page in Path(config.docs_dir).rglob("*.md"))
    guides: Any = next(entry[GUIDES] for entry in config.nav if isinstance(entry, dict) and GUIDES in entry)
    guides += [page for page in found if page not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in ``docs/``."""
    for source, page in OUTSIDE.items():
        head = "---\nhide: [navigation]\n---\n" if page == "index.md" else ""
        files.append(File.generated(config, page, content=head + inside((ROOT / source).read_text(encoding="utf-8"))))
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def inside(text: str) -> str:
    """A page of the repository's root, with its links as from ``docs/``."""
    for source, page in OUTSIDE.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text.replace("](docs/", "](").replace('src="docs/', 'src="').replace("[docs/", "[")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links from ``docs/`` to pages of the root."""
    for source, page in OUTSIDE.items():
        markdown = markdown.replace(f"](../{source}", f"]({page}")
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """LaTeX → MathML, which browsers show by themselves."""

    def mathml(found: re.Match[str]) -> str:
        return convert(html.unescape(found[3]).strip(), display="block" if found[2] == "[" else "inline")

    return _EQUATION.sub(mathml, content)


def commands() -> str:
    """Every command with its options, from the command line's own definition."""
    from typer.main import get_command

    from dmgan_fast.cli.app import app

    group: Any = get_command(app)
    page = ["# Commands", "`dmgan-fast COMMAND --help` prints the same. `python -m dmgan_fast` is the same program."]
    for name, command in group.commands.items():
        page += [f"## {name}", inspect.cleandoc(command.help or "").replace("\\[", "[")]
        if command.epilog:
            page.append(f"```bash\n{command.epilog.removeprefix('Example: ')}\n```")
        page.append("\n".join(["| | | default |", "|---|---|---|", *map(_option, command.params)]))
    return "\n\n".join(page) + "\n"


def _option(parameter: Any) -> str:
    """A row of the table of options."""
    options = [name for name in parameter.opts if name.startswith("-")]
    names = ", ".join(f"`{name}`{{ .option }}" for name in options or [parameter.name.upper()])
    default = parameter.default
    if parameter.required:
        default = "required"
    elif isinstance(default, bool) or not isinstance(default, (str, int, float, Path)):
        default = ""
    text = " ".join((getattr(parameter, "help", "") or "").split()).replace("|", "\\|")
    return f"| {names} | {html.escape(text, quote=False)} | {default} |"
