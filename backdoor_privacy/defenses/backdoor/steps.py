"""Steps of a training, each a pure function of seed and number, and how Lightning reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from backdoor_privacy.config.build import AtLeastOne, NotNegative
from backdoor_privacy.defenses.backdoor.losses import person_shares
from backdoor_privacy.system.hardware import release_free_memory, return_large_blocks

_HELD_OUT = 10  # one of so many inputs is held out, where the student is evaluated during its training
UNSEEN = 2**31  # added to the seed of the steps that are evaluated on
_Item = TypeVar("_Item")
_Batch = TypeVar("_Batch")


@dataclass(frozen=True)
class BatchSizes:
    """Inputs of each kind in one step."""

    clean: AtLeastOne
    triggered: AtLeastOne
    preserved: NotNegative


class Part(NamedTuple):
    """The part of a step that one process does in one pass; several processes may share a step."""

    step: int
    number: int = 0
    num_parts: int = 1

    def rows(self, drawn: Tensor) -> Tensor:
        """Return this part of the rows that the whole step drew."""
        return drawn[self.number :: self.num_parts]

    def items(self, drawn: Sequence[_Item]) -> Sequence[_Item]:
        """Return this part of the items that the whole step drew."""
        return drawn[self.number :: self.num_parts]

    def shares(self, person_index: Tensor) -> Tensor:
        """Return this part's shares in the backdoor loss; the mean over the parts is the loss of the whole step."""
        return self.rows(person_shares(person_index)) * self.num_parts


@dataclass(frozen=True, kw_only=True)
class Steps(Dataset[_Batch], ABC):
    """Steps of a training; each is a pure function of the seed and its number."""

    num_steps: int
    seed: int
    sizes: BatchSizes

    def __len__(self) -> int:
        """Return the number of steps of the whole training."""
        return self.num_steps

    def __getitem__(self, step: int | Part) -> _Batch:
        """Return the batch of one step, or a part of it."""
        part = Part(step) if isinstance(step, int) else step
        if part.step >= self.num_steps:
            raise IndexError(part.step)
        return self.part(part)

    @abstractmethod
    def part(self, part: Part) -> _Batch:
        """Draw the whole step, and make this part of it."""


def apart(items: Sequence[_Item]) -> tuple[list[_Item], list[_Item]]:
    """Return items to train on, and every tenth to evaluate on; a single one, or none, is both."""
    rest = [item for place, item in enumerate(items) if place % _HELD_OUT]
    return (rest, list(items[::_HELD_OUT])) if rest else (list(items), list(items))


class TriggerData(lightning.LightningDataModule):
    """The data of a training: its steps; a resumed training goes on with the step after the last one."""

    def __init__(self, steps: Steps, num_workers: int) -> None:
        super().__init__()
        self.steps = steps
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[object]:
        """Return a loader whose items are steps, or the parts of them that this process does in one pass."""
        release_free_memory()
        start, rank, num_ranks, num_passes = 0, 0, 1, 1
        if self.trainer:
            start, num_passes = self.trainer.global_step, self.trainer.accumulate_grad_batches
            rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(
            self.steps,
            batch_size=None,
            sampler=PartsToCome(start, len(self.steps), rank, num_ranks, num_passes),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=return_large_blocks,
        )


@dataclass(frozen=True)
class PartsToCome(Sampler[Part]):
    """The parts that one process has to do of the steps that are not done yet.

    Its length counts the steps that are done as well, because Lightning does.
    """

    start: int
    num_steps: int
    rank: int
    num_ranks: int
    num_passes: int  # of each process over its share of a step

    def __len__(self) -> int:
        return self.num_steps * self.num_passes

    def __iter__(self) -> Iterator[Part]:
        num_parts = self.num_ranks * self.num_passes
        for step in range(self.start, self.num_steps):
            for number in range(self.rank, num_parts, self.num_ranks):
                yield Part(step, number, num_parts)
