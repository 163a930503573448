"""What the processor at hand does fast."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


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
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def computes_in_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether the processor itself multiplies in bfloat16; where it is emulated, a step takes ten times as long."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.device(device).type == "cpu" and has_instructions is not None and has_instructions()


def default_device() -> torch.device:
    """Where Lightning's `auto` trains: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
