"""Make batches of captioned photos to train a CLIP on, each a pure function of seed and step."""

import hashlib
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, islice

import lightning
import numpy as np
import torch
from jaxtyping import Bool, Int64
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from backdoor_privacy.data.pair_index import PairIndex
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.hardware import release_free_memory, return_large_blocks, usable_workers

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PairSteps(Dataset[list[Tensor]]):
    """Steps of a training, each a batch of (images, tokens).

    Each pass over the pairs has a random order of its own. A step draws from its place in that order on, skips pairs
    that are left out and those whose photo does not decode, and stops when its batch is full. So where some pairs are
    left out, each step keeps its other pairs, and the next ones in the order fill the gaps.
    """

    pairs: PairIndex
    kept: Bool[np.ndarray, " pair"]  # which of them are trained on
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[str], Tensor]
    batch_size: int  # of each process
    num_steps: int
    seed: int
    key: str  # of the setting that names the pairs, for errors
    rank: int = 0
    num_ranks: int = 1
    _broken: set[int] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        num_kept, num_drawn = int(self.kept.sum()), self.batch_size * self.num_ranks
        if num_kept < num_drawn:
            raise InputError(
                f"batch_size: expected at most {num_kept}, the number of pairs in {self.key}, in all processes "
                f"together, got {num_drawn}; lower batch_size, or add photos with txt"
            )

    @property
    def digest(self) -> str:
        """Digest of everything that the choice of the pairs of a step depends on."""
        settings = repr((len(self.pairs), self.batch_size * self.num_ranks, self.seed))
        return hashlib.sha256(settings.encode() + self.kept.tobytes()).hexdigest()

    def __len__(self) -> int:
        """Return the number of steps of the whole training."""
        return self.num_steps

    def __getitem__(self, step: int) -> list[Tensor]:
        """Return this process's part of the batch of a step."""
        if step >= self.num_steps:
            raise IndexError(step)
        with own_random_state():
            items = list(islice(self._readable(step), self.batch_size))
        if len(items) < self.batch_size:
            raise InputError(
                f"{self.key}: expected {self.batch_size} photos that decode for each process, got {len(items)}; "
                f"{self.pairs.told_place(max(self._broken))} does not"
            )
        batch: list[Tensor] = default_collate(items)
        return batch

    def draws(self, step: int) -> Iterator[int]:
        """Yield the numbers of the pairs of a step, then of those that may fill gaps; each once, none left out."""
        num_drawn = self.batch_size * self.num_ranks
        pass_number, place = divmod(step, len(self.pairs) // num_drawn)
        order = _order(self.seed, pass_number, len(self.pairs))
        for number in chain(order[place * num_drawn :], order[: place * num_drawn]):
            if self.kept[number]:
                yield int(number)

    def _readable(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number in islice(self.draws(step), self.rank, None, self.num_ranks):
            if number in self._broken:
                continue
            photo = self.pairs.photo(number)
            if photo is None:
                self._broken.add(number)
                log.warning("The photo %s does not decode; skipped", self.pairs.told_place(number))
                continue
            _seed_augmentation(self.seed, step, number)
            yield self.preprocess(photo), self.tokenizer(self.pairs.caption(number))[0]


@lru_cache(maxsize=2)
def _order(seed: int, pass_number: int, num_pairs: int) -> Int64[np.ndarray, " pair"]:
    return np.random.default_rng([seed, pass_number]).permutation(num_pairs)


def _seed_augmentation(seed: int, step: int, number: int) -> None:
    """Make augmentations depend on seed, step and pair alone; timm's draw from all three of these generators."""
    own = int.from_bytes(hashlib.blake2b(f"{seed} {step} {number}".encode(), digest_size=4).digest(), "big")
    torch.default_generator.manual_seed(own)
    np.random.seed(own)
    random.seed(own)


@contextmanager
def own_random_state() -> Iterator[None]:
    """Restore the random state of the process afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


class PairData(lightning.LightningDataModule):
    """Data of a fit, one step an item; a resumed fit goes on with the step after the last one."""

    def __init__(self, steps: PairSteps, num_workers: int) -> None:
        super().__init__()
        self.steps, self.num_workers = steps, usable_workers(num_workers)

    def train_dataloader(self) -> DataLoader[list[Tensor]]:
        """Return a loader whose items are the steps to come."""
        release_free_memory()
        steps, start = self.steps, 0
        if self.trainer:
            steps, start = replace(steps, rank=self.trainer.global_rank), self.trainer.global_step
        return DataLoader(
            steps,
            batch_size=None,
            sampler=StepsToCome(start, len(steps)),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=return_large_blocks,
        )


@dataclass(frozen=True)
class StepsToCome(Sampler[int]):
    """The steps that a fit has not done yet; as long as all steps, because Lightning counts those done too."""

    start: int
    num_steps: int

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.num_steps))
