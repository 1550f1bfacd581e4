"""How a worker's process keeps its memory."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from sau_bench.benchmark.process import keep_freed_memory
{first}

def touch():
    np.empty(2**24, np.uint8).fill(1)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

touch()
before = faults()
for _ in range(10):
    touch()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_freed_memory_is_used_again_without_page_faults():
    def faults(first):
        code = FAULTS.format(first=first)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return int(done.stdout)

    assert faults("keep_freed_memory()") * 10 < faults("")
