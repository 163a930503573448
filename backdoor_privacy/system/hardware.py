"""Use the processors of this machine well."""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from backdoor_privacy.errors import InputError

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

_held: list[IO[str]] = []  # the file that this process has locked for its GPU
_MAX_WORKERS = 8  # more would only take memory: making a batch takes less time than a training step
_PR_SET_PDEATHSIG = 1  # of sys/prctl.h
_M_MMAP_THRESHOLD = -3  # of malloc.h: size from which on a block is mapped by itself


@contextmanager
def fastest_attention(device: torch.device | str = "cpu") -> Iterator[None]:
    """Use plain attention on a CPU, and PyTorch's own choice elsewhere.

    With the short sequences of a CLIP, the fused CPU kernel makes a training step 1.4 times as slow.
    """
    if torch.device(device).type == "cpu":
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


def release_free_memory() -> None:
    """Return freed memory to the system, if the allocator can do so (glibc).

    Call it before forking: as soon as this process reuses freed memory, each forked process keeps a copy of it.
    """
    _call_glibc("malloc_trim", 0)


def return_large_blocks(worker: int = 0) -> None:
    """Map the memory of each large tensor by itself, so that freeing it returns it to the system (glibc).

    For a process that makes batches: large tensors among small blocks would leave holes that the next batch does not
    fit into.
    """
    _call_glibc("mallopt", _M_MMAP_THRESHOLD, 2**20)


def _call_glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)


def computes_in_bf16(device: torch.device | str = "cpu") -> bool:
    """Return whether the processor itself multiplies in bfloat16; with emulation a step takes ten times as long."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.device(device).type == "cpu" and has_instructions is not None and has_instructions()


def end_with_parent() -> None:
    """Have the system kill this process when its parent process ends (Linux)."""
    _call_glibc("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_num_workers() -> int:
    """Return the default number of processes that make batches for this one; training processes share the cores."""
    num_training_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MAX_WORKERS, num_cores() // num_training_here))


def usable_workers(asked: int) -> int:
    """Return how many processes may make batches for this one: as many as asked for, and at most one per core.

    It is 0 if this process cannot start any: PyTorch does not know the start method of joblib's workers, and a daemon
    may have no children.
    """
    start_method = multiprocessing.get_start_method(allow_none=True)
    is_known = start_method is None or start_method in torch.multiprocessing.get_all_start_methods()
    if not is_known or multiprocessing.current_process().daemon:
        return 0
    return min(asked, num_cores())


def take_a_gpu() -> None:
    """Choose a GPU for a process that runs jobs of a sweep: the first that no other such process has locked.

    A locked file marks the GPU as taken until the process ends. If all GPUs are taken, or files cannot be locked,
    PyTorch's own choice stays.
    """
    if _held or not torch.cuda.is_available() or torch.cuda.is_initialized() or fcntl is None:
        return
    for gpu in range(torch.cuda.device_count()):
        path = Path(tempfile.gettempdir()) / f"backdoor_privacy-{os.getuid()}-gpu{gpu}.lock"
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process has locked it
            file.close()
            continue
        _held.append(file)
        torch.cuda.set_device(gpu)
        return


def default_device() -> torch.device:
    """Return the default device: the current GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen_device(asked: str) -> torch.device:
    """Return the device that `clip.device` names; `auto` is the default device.

    Raises:
        InputError: if this machine does not have it.
    """
    if asked == "auto":
        return default_device()
    try:
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:  # the latter comes from a PyTorch without CUDA
        raise InputError(f"clip.device: expected auto, cpu or a GPU of this machine, as cuda:0; got {asked}") from error
