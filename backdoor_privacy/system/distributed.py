"""Several processes, one per device, that do one run together (PyTorch's distributed package).

Every process goes through the whole run and comes to the same results. What takes time is shared: the passes that
embed many texts and photos, and the inputs of every training step. What is written is written by the first process.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from backdoor_privacy.errors import InputError
from backdoor_privacy.system.hardware import end_with_parent, num_cores
from backdoor_privacy.system.signals import Stopped

_TIMEOUT = timedelta(hours=12)  # of waiting for each other: the first process may have a world to draw or to download
_Whatever = TypeVar("_Whatever")


def is_launched() -> bool:
    """Whether this is one of several processes that `torchrun`, or this package with its means, has started."""
    return distributed.is_torchelastic_launched()


def num_devices(asked: int) -> int:
    """Devices to use on this machine; -1 stands for all GPUs."""
    return max(1, torch.cuda.device_count()) if asked == -1 else asked


def check_parts(encoder: str, sizes: Mapping[str, int], num_parts: int) -> None:
    """See that a batch divides into equal parts, one for each pass of each process.

    Raises:
        InputError: if it does not.
    """
    for kind, size in sizes.items():
        if size % num_parts:
            raise InputError(
                f"defense.{encoder}.batch.{kind}: expected a multiple of {num_parts} (devices x "
                f"trainer.accumulate_grad_batches), got {size}"
            )


def exit_code_of_launch(asked: int) -> int | None:
    """The exit code of this command once it has run in one process per device; `None` where it runs in this one.

    Args:
        asked: number of devices; -1 stands for all GPUs.
    """
    if num_devices(asked) == 1 or is_launched():
        return None
    return launch(num_devices(asked), sys.argv[1:])


def launch(num_processes: int, arguments: Sequence[str]) -> int:
    """Start `python -m backdoor_privacy` in so many processes, and wait for them; if one fails, all end.

    Returns:
        The exit code.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # what went wrong, the process itself has said
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // num_processes)))
    try:
        run(parse_args(["--standalone", f"--nproc-per-node={num_processes}", "-m", "backdoor_privacy", *arguments]))
    except SignalException as error:
        raise Stopped(int(error.sigval)) from None
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)  # the code of a signal is negative
    return 0


@contextmanager
def process_group(accelerator: str = "auto") -> Iterator[None]:
    """Connect the processes that were launched; a single one needs nothing.

    Args:
        accelerator: of the trainer.

    Raises:
        InputError: if there are fewer GPUs than processes.
    """
    if not is_launched() or distributed.is_initialized():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available() and accelerator != "cpu":
        own, num_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= num_gpus:
            raise InputError(f"trainer.devices: expected at most {num_gpus}, as many as there are GPUs, got more")
        torch.cuda.set_device(own)  # what is put on `cuda` goes to the own device
        backend = "cpu:gloo,cuda:nccl"
    end_with_parent()  # a process that went on alone would write into a run that somebody has started again
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    if not is_first_process():
        logging.getLogger("backdoor_privacy").setLevel(logging.ERROR)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, 0 for the first and for a single one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


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


def check_launched() -> None:
    """See that processes that were launched are connected.

    Raises:
        InputError: if they are not.
    """
    if is_launched() and not torch.distributed.is_initialized():
        raise InputError(
            "protect: expected processes that are connected, got some that torchrun has only started; call it within "
            "`with backdoor_privacy.system.distributed.process_group():`"
        )
