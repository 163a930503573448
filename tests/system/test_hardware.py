import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from backdoor_privacy.data.inspection import photo_sizes
from backdoor_privacy.system import hardware
from backdoor_privacy.system.hardware import default_num_workers

# In a process of its own, whose memory holds nothing else that was freed.
FREE_200_MB = """
import psutil
from backdoor_privacy.system.hardware import release_free_memory, return_large_blocks
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


TAKE = """
import sys, tempfile, torch
from backdoor_privacy.system.hardware import take_a_gpu
tempfile.tempdir = sys.argv[1]
taken = []
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 2
torch.cuda.is_initialized, torch.cuda.set_device = lambda: False, taken.append
take_a_gpu()
take_a_gpu()  # the next job
print(taken, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of files")
def test_processes_of_a_sweep_hold_a_gpu_each_as_long_as_they_live(tmp_path: Path):
    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", TAKE, str(tmp_path)], stdin=pipe, stdout=pipe, text=True)

    def gpus_of(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    with start() as first:
        assert gpus_of(first) == "[0]"
        with start() as second:
            assert gpus_of(second) == "[1]"
            with start() as third:
                assert gpus_of(third) == "[]"  # there are but two
                third.communicate()
            first.communicate()
            with start() as replaced:
                assert gpus_of(replaced) == "[0]"
                replaced.communicate()
            second.communicate()


@pytest.mark.parametrize(("num_cores", "num_trained_here", "expected"), [(2, 1, 2), (64, 1, 8), (16, 4, 4), (2, 4, 1)])
def test_workers_are_as_many_as_the_machine_has_cores_for(
    num_cores: int, num_trained_here: int, expected: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hardware, "num_cores", lambda: num_cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_trained_here))
    assert default_num_workers() == expected


def test_workers_do_not_exceed_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hardware, "num_cores", lambda: 2)
    assert [hardware.usable_workers(asked) for asked in (0, 1, 4)] == [0, 1, 2]


def test_daemon_starts_no_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert hardware.usable_workers(2) == 0


def test_worker_of_joblib_makes_its_batches_itself(write_photo, tmp_path: Path):
    joblib = pytest.importorskip("joblib")
    paths = [write_photo(tmp_path / f"{number}.png", number) for number in range(3)]
    jobs = [joblib.delayed(photo_sizes)(paths, 2) for _ in range(2)]  # one alone would not leave this process
    for sizes in joblib.Parallel(n_jobs=2, backend="loky")(jobs):
        assert [(sizes[path].width, sizes[path].height) for path in paths] == [(40, 32)] * 3
