"""What README and docs show works: Python runs and prints what is shown, commands are taken, links lead somewhere."""

import ast
import json
import re
from contextlib import redirect_stdout
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

from dmgan_fast.cli.app import app
from dmgan_fast.errors import InputError
from dmgan_fast.images import pil_image
from dmgan_fast.runs.config import PretrainConfig, TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.sampling import Sampler
from tests.cli.calls import call
from tests.docs.pages import NAMES, ROOT, blocks, commands, inline

LANGUAGES = {"python", "bash", "text", "json", "yaml", "diff", "cpp"}
WITH_PYTHON = [page for page in NAMES if any(block.language == "python" for block in blocks(page))]
ELSEWHERE = {  # pages whose Python needs files or a Hub, and the tests that bring these
    "docs/evaluation.md": "tests/evaluation/test_docs.py",
    "docs/install.md": "tests/docs/test_hub_page.py",
    "docs/several-machines.md": "tests/docs/test_several_machines_page.py",
}
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "purple", "orange")
SHORT = {"loop.steps": 2, "loop.batch_size": 4, "loop.measure_every": 0, "loop.checkpoint_every": 2}
CONFIGS = {"pretrain": PretrainConfig, "train": TrainConfig, "plan": TrainConfig, "ablate": TrainConfig}


@pytest.mark.parametrize("page", NAMES)
def test_every_block_names_its_language(page):
    assert [block for block in blocks(page) if block.language not in LANGUAGES] == []


# -------------------------------------------------------------------------------------------------------------- Python


def run(page, names=None):
    """Run a page's Python, one block after another; a block titled "Output" is what the one above it prints."""
    torch.manual_seed(0)
    names, printed = {} if names is None else names, None
    for block in blocks(page):
        if block.language == "python":
            with redirect_stdout(StringIO()) as stream:
                exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
            printed = stream.getvalue()
        elif block.title == 'title="Output"':
            assert block.text == printed, f"{page}:{block.line}"


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page not in ELSEWHERE])
def test_python_runs_and_prints_what_is_shown(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page)


def test_examples_of_modules_compare_them_with_plain_pytorch():
    examples = [block.text for block in blocks("docs/modules.md") if block.language == "python"]
    assert len(examples) >= 8
    assert [text for text in examples if "same(" not in text] == []


def test_what_is_tested_elsewhere_is():
    for page, test in ELSEWHERE.items():
        assert page in WITH_PYTHON
        assert page in (ROOT / test).read_text()


def test_output_that_is_not_printed_is_found(monkeypatch):
    shown = [block for block in blocks("docs/refinements.md") if block.language in ("python", "text")]
    wrong = [shown[0], shown[1].__class__("text", 'title="Output"', "[64]\n", 1)]
    monkeypatch.setattr("tests.docs.test_pages.blocks", lambda page: wrong)
    with pytest.raises(AssertionError, match=r"docs/refinements\.md:1"):
        run("docs/refinements.md")


# ------------------------------------------------------------------------------------------------------------ commands


def check(words, whole=True):
    """That a command is taken as it is written; ``whole``: with all that it needs."""
    while words[0] in ("python", "torchrun") and "-m" in words:
        words = words[words.index("-m") + 1 :]
        if words[0] != "dmgan_fast":
            file = Path(find_spec(words[0]).origin)
            return has_options(file.with_name("__main__.py") if file.stem == "__init__" else file, words[1:])
    program, *arguments = words
    if program in ("dmgan-fast", "dmgan_fast"):
        return check_ours(arguments, whole)
    if program == "make":
        targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
        assert set(arguments) <= set(targets)
    elif program == "python":
        has_options(ROOT / arguments[0], arguments[1:])
    else:
        assert program in ("pip", "cat"), f"no test knows {program}"
    return None


def has_options(file, arguments):
    """Its own options, or those that all commands of its folder share."""
    files = [Path(file), *(ROOT / "benchmarks").glob("*.py")] if "benchmarks" in str(file) else [Path(file)]
    text = "".join(each.read_text(encoding="utf-8") for each in files)
    for argument in arguments:
        if argument.startswith("--"):
            assert f'"{argument.split("=")[0]}"' in text, f"{file} has no {argument}"


@cache
def our_commands():
    return get_command(app).commands


def check_ours(arguments, whole):
    if not arguments or arguments[0].startswith("-"):
        return
    command = our_commands()[arguments[0]]
    try:
        context = command.make_context(arguments[0], list(arguments[1:]))
    except Exception as error:
        if whole or type(error).__name__ != "MissingParameter":
            raise AssertionError(f"{arguments}: {error}") from error
        return
    if arguments[0] in CONFIGS:
        values = context.params
        build_config(CONFIGS[arguments[0]], preset=values["preset"], overrides=values["settings"] or [])


@pytest.mark.parametrize("page", NAMES)
def test_commands_in_blocks_are_taken(page):
    for block in blocks(page):
        for words in commands(block.text) if block.language == "bash" else []:
            check(words)


@pytest.mark.parametrize("page", NAMES)
def test_commands_in_the_text_are_taken(page):
    for code in inline(page, "code_inline"):
        if re.match(r"(dmgan-fast|python -m|make) ", code.content) and not re.search(
            r"\.\.\.|\.$|[A-Z]{4}\b", code.content
        ):
            for words in commands(code.content):
                check(words, whole=False)


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("dmgan-fast sample --colour", "No such option"),
        ("dmgan-fast dream", "dream"),
        ("dmgan-fast train --set loop.stepps=3 --out x", "stepps"),
        ("make cake", "cake"),
        ("python -m benchmarks.step --fast", "no --fast"),
        ("frobnicate", "no test knows frobnicate"),
    ],
)
def test_a_command_that_is_not_taken_is_found(command, fault):
    with pytest.raises((AssertionError, InputError, KeyError), match=fault):
        check(commands(command)[0])


def test_the_five_minute_start_works_as_written(tmp_path, monkeypatch, capsys):
    """Every command of the page in order; trainings are cut to two steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").mkdir()
    rows = [{"image": f"{k}.png", "captions": [f"a {colour} bird"]} for k, colour in enumerate(COLOURS)]
    for row, colour in zip(rows, COLOURS, strict=True):
        Image.new("RGB", (80, 72), colour).save(tmp_path / "DIR" / row["image"])
    (tmp_path / "DIR" / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    shown = [json.loads(block.text) for block in blocks("docs/start.md") if block.language == "json"]
    assert all(set(row) <= set(rows[0]) for row in shown)
    short = [f"--set={key}={value}" for key, value in SHORT.items()]
    ran = set()
    for block in blocks("docs/start.md"):
        for words in commands(block.text) if block.language == "bash" else []:
            if words[0] == "dmgan-fast":
                more = short if words[1] in ("pretrain", "train") else []
                status, _, error = call(monkeypatch, capsys, *words[1:], *more)
                assert status == 0, (words, error)
                ran.add(words[1])
    assert ran == {"info", "sample", "pretrain", "train", "check"}
    assert Path("samples/grid.png").exists()
    assert len(list(Path("maps").glob("*-attention-*.png"))) == 3
    assert Path("trained/001-a-red-apple-128.png").exists()


def test_the_images_of_readme_are_what_the_weights_in_the_package_generate():
    row, captions = re.search(r"(?m)^(\| !\[.*)\n.*\n\| (.*) \|$", (ROOT / "README.md").read_text()).groups()
    files, captions = re.findall(r"!\[.*?\]\((.*?)\)", row), captions.split(" | ")
    assert len(files) == len(captions) == 6
    for file, result in zip(files, Sampler.from_pretrained(device="cpu").sample(captions, seed=3), strict=True):
        shown = np.asarray(Image.open(ROOT / file), dtype=float)
        assert np.abs(shown - np.asarray(pil_image(result.images[-1]), dtype=float)).max() <= 2, file


# --------------------------------------------------------------------------------------------------------------- links


def slug(heading):
    """A heading's anchor, as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page):
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"(?m)^#+ (.+)$", text)}


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_to_files_and_headings_that_are_there(page):
    """In the repository; the site's are checked when it is built."""
    targets = [token.attrs["href"] for token in inline(page, "link_open")]
    targets += [token.attrs["src"] for token in inline(page, "image")]
    for target in targets:
        place, _, anchor = str(target).partition("#")
        if place.startswith(("http:", "https:")):
            assert place.startswith("https://")
            continue
        file = (ROOT / page).parent / place if place else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


# ------------------------------------------------------------------------------------------------------------ messages


def messages():
    """Every text in the package's code, with … for what is filled in."""
    for file in [*sorted((ROOT / "dmgan_fast").rglob("*.py")), ROOT / "setup.py"]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code():
    rows = re.findall(r"(?m)^\| `(.+?)` \|", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"))
    assert len(rows) > 25
    said = "\n".join(messages())
    missing = [row for row in rows if not all(part.strip() in said for part in row.split("…"))]
    assert missing == []
