import sys

import psutil
import pytest

from backdoor_privacy.hardware import release_free_memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_goes_back_to_the_system():
    process, before = psutil.Process(), psutil.Process().memory_info().rss
    small = [bytes(2000) for _ in range(100_000)]  # 200 MB, too small each to be given back one by one
    last = bytes(2000)  # lies on top of them, so that the heap does not shrink by itself
    assert process.memory_info().rss - before > 150e6
    del small
    release_free_memory()
    assert process.memory_info().rss - before < 50e6
    del last
