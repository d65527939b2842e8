"""``info`` holds what a bug report needs; ``selfcheck`` tells right kernels from wrong ones."""

import json
import platform
import re
from pathlib import Path

import pytest
import torch
import yaml

from dmgan_fast import cli, info, native
from dmgan_fast.ops import _backends, selfcheck
from tests.cli.calls import call

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _backends.forget()
    yield
    _backends.forget()


def table(monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "info", "--json")
    assert status == 0
    return json.loads(out)


def test_info_names_system_processor_compilers_and_versions(monkeypatch, capsys):
    found = table(monkeypatch, capsys)
    assert found["python"].startswith(platform.python_version())
    assert found["system"].endswith(f"{platform.machine()}, {' '.join(platform.libc_ver())}")
    assert re.search(r"\w.*, \d+ logical cores$", found["processor"])
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert set(found["compilers"]) == {"c++", "nvcc"}
    assert found["torch built for"].startswith(("CUDA 1", "ROCm", "CPUs only"))
    assert Path(found["installed"]) == ROOT / "dmgan_fast"


def test_info_shows_the_variables_that_matter_and_no_others(monkeypatch, capsys):
    monkeypatch.setenv("DMGAN_FAST_SELFCHECK", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = table(monkeypatch, capsys)["environment"]
    assert (found["DMGAN_FAST_SELFCHECK"], found["OMP_NUM_THREADS"]) == ("0", "1")
    assert "hf_secret" not in str(found)
    _, text, _ = call(monkeypatch, capsys, "info")
    assert re.search(r"^environment: .*DMGAN_FAST_SELFCHECK 0.*OMP_NUM_THREADS 1", text, re.M)
    assert "hf_secret" not in text


def test_info_text_and_json_hold_the_same(monkeypatch, capsys):
    found = table(monkeypatch, capsys)
    _, text, _ = call(monkeypatch, capsys, "info")
    assert [line.partition(":")[0] for line in text.splitlines() if line[0] != " "] == [
        *(name for name in found if name != "ops"),
        *found["ops"],
    ]


def fake_gpu(monkeypatch):
    properties = type("Properties", (), {"name": "Card 9000", "major": 9, "minor": 0, "total_memory": 80 * 2**30})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)


def test_info_names_gpu_and_driver(monkeypatch, capsys, tmp_path):
    fake_gpu(monkeypatch)
    monkeypatch.setattr(selfcheck, "known_faults", lambda: {"triton/memory_read/float32 on GPU 0": "small shapes: off"})
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 575.51.03\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = table(monkeypatch, capsys)
    assert found["gpus"] == ["Card 9000, compute capability 9.0, 80.0 GiB"]
    assert found["driver"] == "NVIDIA 575.51.03"
    assert found["compilers"] == {"c++": "not found", "nvcc": "not found"}
    assert found["refused"] == {"triton/memory_read/float32 on GPU 0": "small shapes: off"}


def test_info_without_the_native_library_says_what_to_do(monkeypatch, capsys):
    native.load.cache_clear()
    monkeypatch.setattr(native, "library_file", lambda library: None)
    found = table(monkeypatch, capsys)
    native.load.cache_clear()
    assert found["cpu"].startswith("none: the native CPU library of dmgan_fast is not built; with a C++20 compiler")
    assert found["ops"]["memory_read"]["reference"].startswith("yes")


def test_selfcheck_says_which_kernels_are_right(monkeypatch, capsys):
    status, out, error = call(monkeypatch, capsys, "selfcheck", "--backend", "cpu")
    assert (status, error) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["cpu", "cpu", op, dtype, "right"] for op in _backends.OPS for dtype in ("float32", "bfloat16", "float16")
    ]


def test_selfcheck_names_a_wrong_kernel_and_fails(monkeypatch, capsys):
    library = native.load("cpu")

    class Wrong:
        def __getattr__(self, name):
            kernel = getattr(library, name)
            return (lambda *given: [x * 1.01 for x in kernel(*given)]) if name == "memory_read_backward" else kernel

    registered = _backends.Kernels(lambda op: None, lambda op: Wrong(), lambda: ("cpu",))
    monkeypatch.setitem(_backends.REGISTRY, "cpu", registered)
    monkeypatch.setattr(selfcheck, "CASES", {op: selfcheck.CASES[op] for op in ("memory_write", "memory_read")})
    status, out, error = call(monkeypatch, capsys, "selfcheck", "--backend", "cpu")
    assert status == 1
    assert re.search(r"memory_read +float32 +WRONG: small shapes: the gradient of \w+ is off by 1.0e-02", out)
    assert "memory_write      float32   right" in out
    assert error.startswith("wrong here: memory_read on cpu in float32, memory_read on cpu in float16. On a GPU, auto ")
    status, out, _ = call(monkeypatch, capsys, "selfcheck", "--backend", "cpu", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert {(row["op"], row["dtype"], row["right"]) for row in rows} >= {
        ("memory_write", "float32", True),
        ("memory_read", "float32", False),
    }


def test_selfcheck_says_what_it_cannot_check(monkeypatch, capsys):
    status, out, _ = call(monkeypatch, capsys, "selfcheck", "--backend", "cuda")
    assert status == 0
    assert out.endswith("not checked: PyTorch sees no CUDA device\n")
    assert len(out.splitlines()) == 1


def test_selfcheck_of_an_unknown_backend_is_one_paragraph(monkeypatch, capsys):
    status, out, error = call(monkeypatch, capsys, "selfcheck", "--backend", "gpu")
    assert (status, out) == (cli.EXIT_BAD_INPUT, "")
    assert error == "dmgan-fast: --backend must be one of cuda, triton, aten, cpu, got 'gpu'\n"


def test_the_issue_template_asks_for_both():
    template = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    fields = {field["id"]: field for field in template["body"]}
    assert "dmgan-fast info" in fields["info"]["attributes"]["label"]
    assert fields["info"]["validations"]["required"]
    assert "dmgan-fast selfcheck" in fields["selfcheck"]["attributes"]["label"]


def test_benchmark_writes_the_page_of_the_committed_results(monkeypatch, capsys, tmp_path):
    file = tmp_path / "benchmarks.html"
    status, out, _ = call(monkeypatch, capsys, "benchmark", "--report", file)
    assert (status, out.split()) == (0, [str(file)])
    assert "Ops against rivals" in file.read_text()


def test_info_as_json_and_text(monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, out, _ = call(monkeypatch, capsys, "info", "--json")
    table = json.loads(out)
    assert status == 0
    assert re.match(r"(AVX-512|AVX2|SSE2|NEON|portable) \(built: \S.*; compiler: (GCC|clang) \d+\.", table["cpu"])
    assert table["ops"]["memory_read"]["reference"].startswith("yes")
    assert table["ops"]["memory_read"]["cpu"].startswith("yes: float32")
    assert "PyTorch sees no CUDA device" in table["ops"]["memory_read"]["triton"]
    _, text, _ = call(monkeypatch, capsys, "info")
    assert "words_similarity:" in text


@pytest.mark.parametrize("level", native.cpu_levels())
def test_info_shows_the_cpu_level_in_use_first(monkeypatch, capsys, level, use_level):
    use_level(level)
    _, text, _ = call(monkeypatch, capsys, "info")
    assert re.search(rf"^cpu: {info.LEVEL_NAMES[level]} \(built: {', '.join(native.built_levels())}; ", text, re.M)


def test_an_unknown_cpu_level_is_one_paragraph(monkeypatch, capsys, use_level):
    use_level("avx1024")
    status, _, error = call(monkeypatch, capsys, "info")
    assert status == 2
    assert "Traceback" not in error
    assert "DMGAN_FAST_CPU must be one of" in " ".join(error.split())
