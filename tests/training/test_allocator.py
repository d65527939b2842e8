"""Memory that is freed stays with the process, where the C library can be told so."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from dmgan_fast.training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # until blocks and remainders have settled
    torch.ones(2**24)  # 64 MiB
before = faults()
for _ in range(5):
    torch.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_large_tensor_taken_again_faults_no_pages():
    def faults(policy):
        done = subprocess.run([sys.executable, "-c", CODE, policy], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 100 < faults("default")
