"""Running out of memory is known in every wording."""

import pytest
import torch

from dmgan_fast import out_of_memory

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "419430400 bytes. Error code 12 (Cannot allocate memory)"
)


CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.00 MiB is free."
)


SAYS = {
    "cpu": (RuntimeError(CPU), 400 << 20),
    "cuda": (torch.OutOfMemoryError(CUDA), int(2.5 * 2**30)),
    "python": (MemoryError(), None),
    "c++": (RuntimeError("std::bad_alloc"), None),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), None),
    "numpy": (MemoryError("Unable to allocate 3.00 GiB for an array"), None),
}


@pytest.mark.parametrize("name", SAYS)
def test_running_out_of_memory_is_known_in_every_wording(name):
    error, asked = SAYS[name]
    assert out_of_memory.is_out_of_memory(error)
    assert out_of_memory.asked_bytes(error) == asked
    assert not out_of_memory.is_out_of_memory(RuntimeError("shape mismatch"))
    assert not out_of_memory.is_out_of_memory(ValueError("out of memory"))
