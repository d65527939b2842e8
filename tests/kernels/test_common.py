"""Float32 products are exact or in TF32 as PyTorch's switches say, older and newer ones."""

import subprocess
import sys

import pytest

SHOW = "from dmgan_fast.kernels._common import convolution_precision, dot_precision\nimport torch\n{}\n"
SHOW += "print(dot_precision(), convolution_precision())"


def precisions(switch: str) -> list[str]:
    """Of products and convolutions, in a fresh process: switches that were set once can't be read as before."""
    command = [sys.executable, "-c", SHOW.format(switch)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_products_are_exact_and_convolutions_in_tf32_by_default():
    assert precisions("") == ["ieee", "tf32"]


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        ("torch.backends.cuda.matmul.allow_tf32 = True", ["tf32", "tf32"]),
        ("torch.set_float32_matmul_precision('high')", ["tf32", "tf32"]),
        ("torch.backends.cudnn.allow_tf32 = False", ["ieee", "ieee"]),
        ("torch.backends.fp32_precision = 'tf32'", ["tf32", "tf32"]),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", ["tf32", "tf32"]),
        ("torch.backends.cudnn.conv.fp32_precision = 'ieee'", ["ieee", "ieee"]),
    ],
)
def test_every_switch_of_pytorch_is_obeyed(switch, expected):
    assert precisions(switch) == expected


def test_amd_cards_compute_exactly():
    assert precisions("torch.version.hip = '6.4'; torch.backends.fp32_precision = 'tf32'") == ["ieee", "ieee"]
