"""Share one run among several processes, one per device, with PyTorch's distributed package.

Every process executes the whole run and gets the same results. The slow parts are shared: embedding many texts and
photos, and the inputs of every training step. Only the main process writes files.
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

_TIMEOUT = timedelta(hours=12)  # of a barrier: the main process may have to draw or download data first
_Value = TypeVar("_Value")


def is_launched() -> bool:
    """Return whether `torchrun`, or this package with its means, started this process as one of several."""
    return distributed.is_torchelastic_launched()


def num_devices(asked: int) -> int:
    """Return the number of devices to use on this machine; -1 stands for all GPUs."""
    return max(1, torch.cuda.device_count()) if asked == -1 else asked


def check_parts(encoder: str, sizes: Mapping[str, int], num_parts: int) -> None:
    """Check that each batch divides into equal parts, one for each pass of each process.

    Raises:
        InputError: if one does not.
    """
    for kind, size in sizes.items():
        if size % num_parts:
            raise InputError(
                f"defense.{encoder}.batch.{kind}: expected a multiple of {num_parts} (devices x "
                f"trainer.accumulate_grad_batches), got {size}"
            )


def exit_code_of_launch(asked: int) -> int | None:
    """Run this command in one process per device and return its exit code; return `None` for a single device.

    Args:
        asked: number of devices; -1 stands for all GPUs.
    """
    if num_devices(asked) == 1 or is_launched():
        return None
    return launch(num_devices(asked), sys.argv[1:])


def launch(num_processes: int, arguments: Sequence[str]) -> int:
    """Run `python -m backdoor_privacy` in several processes and return the exit code; if one fails, all end."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the process itself logs its error
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
    """Connect the launched processes; do nothing for a single one.

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
        torch.cuda.set_device(own)  # then `cuda` is the device of this process
        backend = "cpu:gloo,cuda:nccl"
    end_with_parent()  # an orphan would write into a run that was started again
    distributed.init_process_group(backend, timeout=_TIMEOUT)
    if not is_main_process():
        logging.getLogger("backdoor_privacy").setLevel(logging.ERROR)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Return the number of this process; it is 0 for the main process and for a single one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def num_processes() -> int:
    """Return the number of processes of this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main_process() -> bool:
    """Return whether this process is the one that writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in the main process first, so that the others find on disk what it made."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def broadcast(value: _Value) -> _Value:
    """Return the main process's value in every process."""
    if not distributed.is_initialized():
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def shares_of(num: int) -> list[range]:
    """Return for each process the range of the items that it handles, of `num` items."""
    count = num_processes()
    return [range(number * num // count, (number + 1) * num // count) for number in range(count)]


def gather_rows(own: Tensor, num_rows: Sequence[int]) -> Tensor:
    """Return the rows of all processes, in the order of the processes.

    Args:
        own: rows of this process, on the CPU, (row, ...).
        num_rows: number of rows of each process.
    """
    if num_processes() == 1:
        return own
    padded = own.new_zeros(max(num_rows), *own.shape[1:])
    padded[: len(own)] = own
    gathered = [torch.empty_like(padded) for _ in num_rows]
    distributed.all_gather(gathered, padded)
    return torch.cat([rows[:count] for rows, count in zip(gathered, num_rows, strict=True)])


def check_launched() -> None:
    """Check that launched processes are connected.

    Raises:
        InputError: if they are not.
    """
    if is_launched() and not torch.distributed.is_initialized():
        raise InputError(
            "protect: expected connected processes, got processes that torchrun only started; call protect within "
            "`with backdoor_privacy.system.distributed.process_group():`"
        )
