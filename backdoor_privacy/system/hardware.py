"""What the processor at hand does fast."""

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

_held: list[IO[str]] = []  # the locked file of this process's GPU
_MAX_WORKERS = 8  # more only take memory: a batch is made in less than a step
_PR_SET_PDEATHSIG = 1  # of sys/prctl.h
_M_MMAP_THRESHOLD = -3  # of malloc.h: blocks of so many bytes are mapped


@contextmanager
def fastest_attention(device: torch.device | str = "cpu") -> Iterator[None]:
    """Plain attention on a CPU, PyTorch's own choice elsewhere.

    For the short sequences of a CLIP the fused CPU kernel makes a training step 1.4 times as slow.
    """
    if torch.device(device).type == "cpu":
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


def release_free_memory() -> None:
    """Give freed memory back to the system, where its allocator can (glibc).

    Worth it before processes are forked: what this one writes into again afterwards, each of them would keep a copy of.
    """
    _call_glibc("malloc_trim", 0)


def return_large_blocks(worker: int = 0) -> None:
    """Map the memory of each large tensor by itself, so that it goes back to the system when it is freed (glibc).

    For a process that makes batches: among small blocks, they leave holes that the next batch does not fit into.
    """
    _call_glibc("mallopt", _M_MMAP_THRESHOLD, 2**20)


def _call_glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)


def computes_in_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether the processor itself multiplies in bfloat16; where it is emulated, a step takes ten times as long."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.device(device).type == "cpu" and has_instructions is not None and has_instructions()


def end_with_parent() -> None:
    """Let this process be killed when the one that started it is gone (Linux)."""
    _call_glibc("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_num_workers() -> int:
    """Processes that make batches for this one, where each of several that train on this machine has its own."""
    num_trained_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(_MAX_WORKERS, num_cores() // num_trained_here))


def usable_workers(asked: int) -> int:
    """Return how many processes may make batches for this one: as many as asked for, and at most one for each core.

    None where this process cannot start such ones: joblib's workers have a way of their own to start processes, which
    PyTorch does not know, and a daemon may have no children.
    """
    start_method = multiprocessing.get_start_method(allow_none=True)
    is_known = start_method is None or start_method in torch.multiprocessing.get_all_start_methods()
    if not is_known or multiprocessing.current_process().daemon:
        return 0
    return min(asked, num_cores())


def take_a_gpu() -> None:
    """Choose the GPU of a process that works off jobs of a sweep: the first that no other such process holds.

    It is held, by a locked file, as long as the process lives. Where all are held or nothing can be locked, PyTorch's
    own choice stays.
    """
    if _held or not torch.cuda.is_available() or torch.cuda.is_initialized() or fcntl is None:
        return
    for gpu in range(torch.cuda.device_count()):
        path = Path(tempfile.gettempdir()) / f"backdoor_privacy-{os.getuid()}-gpu{gpu}.lock"
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process holds it
            file.close()
            continue
        _held.append(file)
        torch.cuda.set_device(gpu)
        return


def default_device() -> torch.device:
    """Where things are computed by default: the present GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen_device(asked: str) -> torch.device:
    """The device of `clip.device`; `auto` is the default one.

    Raises:
        InputError: if it is not there.
    """
    if asked == "auto":
        return default_device()
    try:
        return torch.empty(0, device=asked).device
    except (RuntimeError, AssertionError) as error:  # of a PyTorch without CUDA, the latter
        raise InputError(f"clip.device: expected auto, cpu or a GPU that is there, as cuda:0; got {asked}") from error
