"""Several processes, one per device, that do one run together (PyTorch's distributed package).

Every process goes through the whole run and comes to the same results. What takes time is shared: the passes that
embed texts and photos, and the inputs of every training step. What is written is written by the first process.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed

_Whatever = TypeVar("_Whatever")


def is_launched() -> bool:
    """Whether something has started one process per device already: we, `torchrun`, or a cluster that sets the same."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(num_processes: int, arguments: Sequence[str]) -> int:
    """Start `python -m backdoor_privacy` in so many processes, and wait for them; if one fails, all end.

    Returns:
        The exit code.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # what went wrong, the process itself has said
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={num_processes}", "-m", "backdoor_privacy", *arguments]))
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)  # the code of a signal is negative
    return 0


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes that were launched; a single one needs nothing."""
    if not is_launched() or distributed.is_initialized():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # what is put on `cuda` goes to the own device
        backend = "cpu:gloo,cuda:nccl"
    if not is_first_process():
        logging.getLogger("backdoor_privacy").setLevel(logging.ERROR)
    distributed.init_process_group(backend)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 for the first and for a single one."""
    return distributed.get_rank() if distributed.is_initialized() else int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """Of this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first_process() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if distributed.is_initialized():
        distributed.barrier()


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process do what the others then find done, as what is made once and kept on disk."""
    if not is_first_process():
        wait_for_all()
    yield
    if is_first_process():
        wait_for_all()


def as_the_first_says(value: _Whatever) -> _Whatever:
    """The first process's value, in every process."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def shares_of(num: int) -> list[range]:
    """So many things in order, shared among the processes."""
    count = num_processes()
    return [range(number * num // count, (number + 1) * num // count) for number in range(count)]


def gather_rows(own: Tensor, num_rows: Sequence[int]) -> Tensor:
    """The rows of all processes one after the other.

    Args:
        own: rows of this process in the computer's memory, (row, ...), as many as `num_rows` says.
        num_rows: of each process.
    """
    if num_processes() == 1:
        return own
    room = own.new_zeros(max(num_rows), *own.shape[1:])
    room[: len(own)] = own
    found = [torch.empty_like(room) for _ in num_rows]
    distributed.all_gather(found, room)
    return torch.cat([rows[:count] for rows, count in zip(found, num_rows, strict=True)])


def exit_code_of_launch(num_devices: int) -> int | None:
    """The exit code of this command once it has run in a process per device; `None` where it runs in this one.

    Args:
        num_devices: asked for; -1 stands for all GPUs.
    """
    if num_devices == -1:
        num_devices = max(1, torch.cuda.device_count())
    if num_devices == 1 or is_launched():
        return None
    return launch(num_devices, sys.argv[1:])
