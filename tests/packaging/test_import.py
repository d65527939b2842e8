"""`import dmgan_fast` is light; the public names resolve; imports go down the layers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import dmgan_fast

ROOT = Path(__file__).parents[2]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_no_torch_no_native_code_no_triton():
    code = """
import sys, dmgan_fast
heavy = ("torch", "triton", "dmgan_fast._c", "dmgan_fast.kernels", "dmgan_fast.native")
print(sorted(name for name in sys.modules if name.startswith(heavy)))
"""
    assert run_python(code) == "[]"


def test_models_and_functional_load_no_native_code_no_triton():
    code = """
import sys, dmgan_fast.functional, dmgan_fast.modules, dmgan_fast.losses, dmgan_fast.training.step
loaded = open("/proc/self/maps").read() if sys.platform == "linux" else ""
heavy = ("triton", "dmgan_fast._c", "dmgan_fast.kernels")
print(sorted(name for name in sys.modules if name.startswith(heavy)), "dmgan_fast/_c" in loaded)
"""
    assert run_python(code) == "[] False"


def test_functional_loads_nothing_but_its_own_on_top_of_torch():
    code = """
import sys, torch
before = set(sys.modules)
import dmgan_fast.functional
loaded = set(sys.modules) - before
print(sorted(name for name in loaded if not name.startswith("dmgan_fast")))
needless = ("parallel", "files", "config", "modules", "metering", "ops.selfcheck", "ops._tiles", "ops.tiled_")
print(sorted(name for name in loaded if name.startswith(tuple(f"dmgan_fast.{each}" for each in needless))))
print(set(dmgan_fast.functional.__all__) - set(dir(dmgan_fast.functional)))
"""
    assert run_python(code) == "[]\n[]\nset()"


def test_metrics_generation_and_training_load_no_torchvision():
    code = """
import sys
from dmgan_fast.evaluation import frechet_distance, inception_score, kernel_distance, r_precision
print(sorted({"torchvision", "torch_fidelity", "PIL"} & set(sys.modules)))
import dmgan_fast.data, dmgan_fast.evaluation.run, dmgan_fast.images, dmgan_fast.sampling, dmgan_fast.training.trainer
print("torchvision" in sys.modules)
"""
    assert run_python(code) == "[]\nFalse"


def test_version_is_a_release_number_and_that_of_the_installed_package():
    from importlib.metadata import version

    assert re.fullmatch(r"\d+\.\d+\.\d+", dmgan_fast.__version__)
    assert version("dmgan-fast") == dmgan_fast.__version__


@pytest.mark.parametrize("name", dmgan_fast.__all__)
def test_public_name_resolves(name: str):
    assert getattr(dmgan_fast, name) is not None
    assert name in dir(dmgan_fast)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Generatr'"):
        _ = dmgan_fast.Generatr  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("functional", "memory_write memory_read batch_norm_glu upsample_conv3x3 words_similarity"),
        ("training", "TrainStep Batch StepConfig MemoryPolicy Sampler Plan plan"),
        ("sampling", "Sampler Sample Bundle open_bundle save_bundle"),
        ("metrics", "frechet_distance inception_score r_precision kernel_distance FeatureMoments"),
        ("losses", "words_loss sentence_loss conditioning_loss discriminator_loss generator_loss"),
        ("evaluation", "frechet_distance inception_score r_precision kernel_distance FeatureMoments evaluate"),
        (
            "compat",
            "import_generator import_discriminator import_text_encoder import_image_encoder "
            "export_generator export_discriminator export_text_encoder export_image_encoder load_checkpoint",
        ),
    ],
)
def test_names_of_the_interface_exist(module: str, names: str):
    holder = getattr(dmgan_fast, module)
    assert [name for name in names.split() if not callable(getattr(holder, name, None))] == []


def test_the_page_of_the_architecture_shows_every_layer_in_its_row():
    contract = (ROOT / "pyproject.toml").read_text().split("layers = [")[1].split("]")[0]
    layers = [sorted(re.findall(r"\w+", row)) for row in re.findall(r'"([^"]+)"', contract)]
    page = (ROOT / "docs" / "architecture.md").read_text().split("## The layers")[1]
    table = re.findall(r"(?m)^\| (`[^|]+) \|", page)
    assert [sorted(re.findall(r"`(\w+)`", row)) for row in table[: len(layers)]] == layers


def test_imports_go_down_the_layers_and_never_in_a_circle():
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 2 kept, 0 broken" in done.stdout
