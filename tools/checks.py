"""The package as others get it: built, installed and tested in environments of its own, which stay for the next time.

    python -m tools.checks oldest    the tree with torch 2.11 and its Triton: builds, compiles every GPU kernel, tests
                                     the ops
    python -m tools.checks release   sdist and wheel; known faults and licences of what they need; the wheel with the
                                     oldest and the newest PyTorch and Python, and where there is no compiler

Needs uv, git and a C++ compiler. Environments download PyTorch from the package registry; builds download nothing.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MINORS = range(10, 15)  # of Python 3
RECENT = 12  # the oldest minor of Python 3 that counts as recent
# The oldest that pyproject.toml admits. Triton 3.6's interpreter takes arrays of one number for numbers.
OLDEST = ("torch==2.11.*", "torchvision==0.26.*", "numpy<2.4")
NEWEST = ("torch", "torchvision")
WHEEL_BYTES = 12_000_000
FIRST_STEPS = 60  # seconds from the install to the first images
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TESTS = ("-m", "pytest", "-q", "-n", "2", "--dist", "worksteal")
OF_A_COMPILER = ("CC", "CXX", "CUDA_HOME", "CUDA_PATH")


class Failed(Exception):
    """What was promised does not hold; the message says what."""


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def run(*command: object, **options: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


def output(*command: object, **options: object) -> str:
    """Standard output and standard error of a command that must succeed."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return str(done.stdout)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Failed(message)


# ------------------------------------------------------------------------------------------------------- environments


def pythons() -> dict[int, Path]:
    """The interpreters here: minor of Python 3 → one that answers."""
    found = {}
    for minor in MINORS:
        versions = glob.glob(f"{os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')}/versions/3.{minor}.*/bin/python")
        for candidate in (shutil.which(f"python3.{minor}"), *sorted(versions)):
            question = "import sys, venv; print(sys.version_info[1])"
            if candidate and _answer(candidate, question) == str(minor):
                found[minor] = Path(candidate)
                break
    return found


def _answer(python: str, code: str) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@dataclass(frozen=True)
class Environment:
    """A virtual environment; ``compilers``: whether its commands find any, as they find nothing else outside it."""

    folder: Path
    compilers: bool = True

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def variables(self) -> dict[str, str]:
        left_out = ("PYTHONPATH", "VIRTUAL_ENV", *(() if self.compilers else OF_A_COMPILER))
        found = {name: value for name, value in os.environ.items() if name not in left_out}
        path = [str(self.folder / "bin"), *([os.environ["PATH"]] if self.compilers else [])]
        return found | {"PATH": os.pathsep.join(path)}

    def run(self, *command: object, cwd: Path, **variables: str) -> None:
        run(self.folder / "bin" / str(command[0]), *command[1:], cwd=cwd, env=self.variables() | variables)

    def output(self, *command: object, cwd: Path, **variables: str) -> str:
        return output(self.folder / "bin" / str(command[0]), *command[1:], cwd=cwd, env=self.variables() | variables)

    def install(self, *what: object) -> None:
        variables = self.variables() | _uv_path() | {"DMGAN_FAST_CUDA": "0"}
        run("uv", "pip", "install", "-q", "--python", self.python, *what, cwd=ROOT, env=variables)


def _uv_path() -> dict[str, str]:
    """For uv and what it builds."""
    return {"PATH": os.environ["PATH"]}


def environment(folder: Path, python: Path, torch: Sequence[str], *extras: str, compilers: bool = True) -> Environment:
    """The environment of that name, made if its recipe is another than last time."""
    made, recipe = folder / ".recipe", repr((str(python), torch, extras, (ROOT / "pyproject.toml").read_text()))
    found = Environment(folder, compilers)
    if made.is_file() and made.read_text() == recipe:
        return found
    say(f"environment {folder.name}: {output(python, '--version').strip()}, {' '.join(torch)}")
    if not found.python.exists():
        run("uv", "venv", "-q", "--seed", "--python", python, folder)
    found.install(*torch)
    constraints = folder / "constraints.txt"
    installed = output("uv", "pip", "freeze", "-q", "--python", found.python).splitlines()
    kept = [line for line in installed if line.startswith(("torch==", "torchvision=="))]
    constraints.write_text("\n".join([*kept, *(line for line in torch if line.startswith("numpy"))]) + "\n")
    wanted = [part for extra in extras for part in ("--extra", extra)]
    found.install("-r", "pyproject.toml", "-c", constraints, *wanted, "setuptools>=78.1.1", "wheel", "ninja")
    made.write_text(recipe)
    return found


def copied(tree: Path) -> Path:
    """``tree`` with the tracked files as they are now, dates too, so that only what changed is built again."""
    tree.mkdir(parents=True, exist_ok=True)
    for entry in tree.iterdir():
        if entry.name != "build":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for name in output("git", "-C", ROOT, "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


# ------------------------------------------------------------------------------------------------------------- oldest


def check_oldest(folder: Path, found: dict[int, Path]) -> None:
    oldest = environment(folder / "oldest", found[min(found)], OLDEST, "dev")
    tree = copied(folder / "oldest-tree")
    say("building with torch 2.11")
    oldest.install("--no-build-isolation", "--no-deps", "-e", tree)
    oldest.run("cmake", "-S", ".", "-B", "build/cpp", f"-DPython_EXECUTABLE={oldest.python}", cwd=tree)
    oldest.run("cmake", "--build", "build/cpp", "--target", "dmgan_fast_simt", "-j", "2", cwd=tree)
    tests = (
        "tests/test_native.py",
        "tests/simt/test_nvcc.py",
        "tests/kernels/every_card.py",
        "tests/ops",
        "tests/aten",
    )
    oldest.run("python", *TESTS, *tests, cwd=tree, **THREADS)


# ------------------------------------------------------------------------------------------------------------ release


def check_release(folder: Path, found: dict[int, Path]) -> None:
    not_run = [] if 10 in found else [f"Python 3.10, which is not here; 3.{min(found)} stands in"]
    if max(found) < RECENT:
        not_run.append(f"Python 3.{RECENT} or newer, which is not here; 3.{max(found)} stands in")
    first, last = found[min(found)], found[max(found)]
    newest = environment(folder / "newest", last, NEWEST, "dev")
    tree = copied(folder / "release-tree")
    sdist, wheel = build(newest, tree, folder / "dist", not_run)
    audit(newest, wheel)
    check_sdist(sdist, tree)
    check_wheel(wheel)
    suite = copied_tests(folder / "suite")
    run_op_suite(newest, wheel, suite, but=())
    run_op_suite(environment(folder / "oldest", first, OLDEST, "dev"), wheel, suite, but=("triton",))  # check-oldest's
    bare = environment(folder / "without-compiler", last, NEWEST, compilers=False)
    take_first_steps(bare, wheel, folder / "first-steps")
    bare.install("pytest", "pytest-xdist", "hypothesis")
    run_op_suite(bare, wheel, suite, but=("triton",))  # whose interpreter needs no compiler: as in the newest
    install_from_source(bare, sdist, folder / "from-source")
    for what in not_run:
        say(f"not run: {what}")


def build(maker: Environment, tree: Path, dist: Path, not_run: list[str]) -> tuple[Path, Path]:
    """Sdist, and wheel from the sdist, in build isolation; where the system allows, with no network at all."""
    shutil.rmtree(dist, ignore_errors=True)
    alone = ["unshare", "-rn"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        alone = []
        not_run.append("the build cut off from the network, for which unshare is missing or not allowed")
    say("building sdist and wheel" + (", cut off from the network" if alone else ""))
    variables = maker.variables() | _uv_path() | {"DMGAN_FAST_CUDA": "0"}
    run(*alone, "uv", "build", "-q", "--offline", "--python", maker.python, "--out-dir", dist, tree, env=variables)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return sdist, wheel


def audit(newest: Environment, wheel: Path) -> None:
    """Known faults and licences of what the wheel needs."""
    newest.install("--no-deps", "--reinstall", wheel)
    newest.install("pip-audit")
    say("dependencies: known faults, licences")
    print(newest.output("python", "-m", "tools.audit", cwd=ROOT))


def check_sdist(sdist: Path, tree: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = (file for folder in ("csrc", "kernels", "dmgan_fast") for file in (tree / folder).rglob("*"))
    missing = {str(file.relative_to(tree)) for file in files if file.is_file()} - names
    require(not missing, f"{sdist.name} lacks {', '.join(sorted(missing))}")
    say(f"{sdist.name}: {sdist.stat().st_size:,} bytes")


def check_wheel(wheel: Path) -> None:
    size = wheel.stat().st_size
    say(f"{wheel.name}: {size:,} bytes")
    require("-cp310-abi3-" in wheel.name, f"{wheel.name} is not for every CPython from 3.10 on")
    require(size <= WHEEL_BYTES, f"{wheel.name} has {size:,} bytes, {WHEEL_BYTES:,} are allowed")
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if name.endswith(".so")]
    require(len(libraries) > 1, f"{wheel.name} holds no native code: {libraries}")


def copied_tests(suite: Path) -> Path:
    """A folder with the tests and without the package: what they import is what is installed."""
    shutil.rmtree(suite, ignore_errors=True)
    for name in ("tests", "benchmarks"):
        shutil.copytree(ROOT / name, suite / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", suite)
    return suite


def run_op_suite(each: Environment, wheel: Path, suite: Path, but: Sequence[str]) -> None:
    """The op suite on the wheel, but for backends named, and for what needs the sources of the GPU libraries."""
    each.install("--no-deps", "--reinstall", wheel)
    code = "import dmgan_fast, sys, torch; print(sys.version.split()[0], torch.__version__, dmgan_fast.__file__)"
    python, torch, file = each.output("python", "-c", code, cwd=suite).split()
    require(file.startswith(str(each.folder)), f"the package tested is {file}, not the wheel's")
    left_out = ("simt", *but)
    say(
        f"op suite but {', '.join(left_out)}: Python {python}, torch {torch}"
        + ("" if each.compilers else ", no compiler")
    )
    tests = ("tests/ops", "tests/aten", "tests/test_native.py", "-k", " and ".join(f"not {name}" for name in left_out))
    each.run("python", *TESTS, *tests, cwd=suite, **THREADS)


def take_first_steps(bare: Environment, wheel: Path, folder: Path) -> None:
    """What one does first after the install, where there is no compiler."""
    bare.install("--no-deps", "--reinstall", wheel)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    compilers = "import shutil; print([c for c in ('cc', 'c++', 'gcc', 'g++', 'clang', 'nvcc') if shutil.which(c)])"
    found = bare.output("python", "-c", compilers, cwd=folder).strip()
    require(found == "[]", f"there are compilers where there should be none: {found}")
    say("first steps with the wheel, without a compiler")
    began = time.monotonic()
    bare.run("python", "-c", "import dmgan_fast", cwd=folder)
    info = bare.output("dmgan-fast", "info", cwd=folder)
    require("cpu: none" not in info, f"the wheel's library does not load:\n{info}")
    draw(bare, folder)
    seconds = time.monotonic() - began
    say(f"import, info and the first images took {seconds:.0f} s")
    require(seconds <= FIRST_STEPS, f"first steps took {seconds:.0f} s, {FIRST_STEPS} are allowed")
    print(bare.output("dmgan-fast", "selfcheck", cwd=folder))


def draw(bare: Environment, folder: Path) -> str:
    """What ``sample`` printed for a caption of one's own, with the weights in the package."""
    shown = bare.output("dmgan-fast", "sample", "a red apple", "--out", "images", cwd=folder)
    require(len(list((folder / "images").glob("*.png"))) == 2, f"sample wrote no two images:\n{shown}")
    return shown


def install_from_source(bare: Environment, sdist: Path, folder: Path) -> None:
    """The sdist installs without a compiler, runs on the reference, and says once what to do about it."""
    say("installing the sdist without a compiler")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--force-reinstall", "--no-cache-dir")
    bare.run("python", "-m", "pip", "install", "-q", *options, sdist, cwd=folder)
    code = "import dmgan_fast, pathlib; print(*pathlib.Path(dmgan_fast.__file__).parent.glob('*.so'))"
    libraries = bare.output("python", "-c", code, cwd=folder).strip()
    require(not libraries, f"there is native code without a compiler: {libraries}")
    shown = draw(bare, folder)
    require(shown.count("C++20 compiler") == 1, f"sample does not say once what is missing:\n{shown}")
    print(shown)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("oldest", "release"))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "checks", help="for environments and trees")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    found = pythons()
    say("Python here: " + ", ".join(f"3.{minor} ({python})" for minor, python in found.items()))
    try:
        {"oldest": check_oldest, "release": check_release}[arguments.what](arguments.folder.absolute(), found)
    except Failed as error:
        print(f"{arguments.what}: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{arguments.what}: {' '.join(error.cmd)} ended with {error.returncode}", file=sys.stderr)
        return 1
    say("all holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
