"""A test is found by its module's name: what ``dmgan_fast/data/rows.py`` promises is in ``tests/data/test_rows.py``."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEAST = 0.9  # of all modules


def places():
    """Each module, and the file that holds its tests: an underscore before its name is dropped."""
    for package, tests in ((ROOT / "dmgan_fast", ROOT / "tests"), (ROOT / "kernels", ROOT / "tests" / "kernels")):
        for module in sorted(package.rglob("*.py")):
            inner = module.relative_to(package)
            installed_kernels = inner.parts[0] == "kernels"  # a link to what is counted on its own
            if not (installed_kernels or inner.stem.startswith("__") or inner.stem == "_version"):
                yield module.relative_to(ROOT), tests / inner.parent / f"test_{inner.stem.removeprefix('_')}.py"


def holds_tests(file):
    return any(isinstance(n, ast.FunctionDef) and n.name.startswith("test_") for n in ast.parse(file.read_text()).body)


def test_nine_of_ten_modules_have_a_file_of_tests_of_their_own_name():
    modules = dict(places())
    without = [str(module) for module, file in modules.items() if not file.is_file() or not holds_tests(file)]
    assert len(modules) > 150
    assert len(without) <= (1 - LEAST) * len(modules), f"without tests of their name: {', '.join(without)}"
