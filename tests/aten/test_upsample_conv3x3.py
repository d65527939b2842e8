"""Up-sampling and convolution as one transposed convolution of PyTorch's."""

import pytest

from tests.ops.harness import DTYPES, check
from tests.ops.test_backends import UPSAMPLE


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", UPSAMPLE)
def test_the_transposed_convolution_is_as_exact_as_eager(name, dtype):
    check(UPSAMPLE[name], dtype, "aten", "cpu")
