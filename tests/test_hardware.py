import multiprocessing
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from backdoor_privacy import hardware
from backdoor_privacy.hardware import default_num_workers, take_a_gpu

# In a process of its own, whose memory holds nothing else that was freed.
FREE_200_MB = """
import psutil
from backdoor_privacy.hardware import release_free_memory, return_large_blocks
return_large_blocks()
process = psutil.Process()
before = process.memory_info().rss
small = [bytes(2000) for _ in range(100_000)]  # too small each to be given back one by one
last = bytes(2000)  # lies on top of them, so that the heap does not shrink by itself
held = process.memory_info().rss - before
del small
release_free_memory()
print(held > 150e6, process.memory_info().rss - before < 50e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_goes_back_to_the_system():
    found = subprocess.run([sys.executable, "-c", FREE_200_MB], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "True"]


@pytest.mark.parametrize(
    ("process", "gpu"), [("MainProcess", 0), ("LokyProcess-1", 0), ("LokyProcess-2", 1), ("LokyProcess-5", 1)]
)
def test_each_worker_of_a_sweep_has_a_gpu_and_keeps_it(process: str, gpu: int, monkeypatch: pytest.MonkeyPatch):
    taken: list[int] = []
    monkeypatch.setattr(multiprocessing, "current_process", lambda: SimpleNamespace(name=process))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3 if process == "LokyProcess-5" else 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(taken))
    take_a_gpu()
    take_a_gpu()
    assert taken == [gpu]


@pytest.mark.parametrize(("num_cores", "num_trained_here", "expected"), [(2, 1, 2), (64, 1, 8), (16, 4, 4), (2, 4, 1)])
def test_workers_are_as_many_as_the_machine_has_cores_for(
    num_cores: int, num_trained_here: int, expected: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hardware, "num_cores", lambda: num_cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_trained_here))
    assert default_num_workers() == expected
