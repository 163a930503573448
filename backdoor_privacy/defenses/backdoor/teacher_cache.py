"""The teacher cache: what the teacher makes of inputs, computed once, kept, and replayed in ever new batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from backdoor_privacy.defenses.backdoor.steps import Part, Steps


class TeacherPart(NamedTuple):
    """What the frozen blocks and the teacher make of the inputs of one kind (clean, triggered or preserved)."""

    trunk: Tensor  # output of the blocks that are not trained, (batch, ...)
    target: Tensor  # the features that each input is to get, (batch, dim)
    cached: Mapping[str, Tensor]  # what terms of the loss keep of the targets, by term, (batch, ...)

    def take(self, rows: Tensor) -> TeacherPart:
        """Return some rows."""
        cached = {term: kept[rows] for term, kept in self.cached.items()}
        return TeacherPart(self.trunk[rows], self.target[rows], cached)


class TeacherStep(NamedTuple):
    """All that is frozen in a step, or in several."""

    clean: TeacherPart
    triggered: TeacherPart
    preserved: TeacherPart
    person_index: Tensor  # (batch,) whom the triggered inputs show
    person_share: Tensor  # (batch,) of each triggered input in the backdoor loss

    @property
    def parts(self) -> tuple[TeacherPart, TeacherPart, TeacherPart]:
        """Return the inputs by kind."""
        return self.clean, self.triggered, self.preserved

    @classmethod
    def collect(cls, steps: Iterable[TeacherStep], num_steps: int) -> TeacherStep:
        """Return so many steps of one size joined into one, in main memory, of which there is never a second copy."""
        kept: dict[str, Tensor] = {}
        for number, step in enumerate(steps):
            for name, tensor in step._flat().items():
                if name not in kept:
                    kept[name] = torch.empty(num_steps * len(tensor), *tensor.shape[1:], dtype=tensor.dtype)
                kept[name][number * len(tensor) : (number + 1) * len(tensor)] = tensor
        return cls._of_flat(kept)

    def take(self, rows: Sequence[Tensor], part: Part) -> TeacherStep:
        """Return a part of the step of these rows of the clean, the triggered and the preserved inputs."""
        people = self.person_index[rows[1]]
        clean, triggered, preserved = (
            kind.take(part.rows(chosen)) for kind, chosen in zip(self.parts, rows, strict=True)
        )
        return TeacherStep(clean, triggered, preserved, part.rows(people), part.shares(people))

    def _flat(self) -> dict[str, Tensor]:
        """Return all tensors by a name of their own."""
        flat = {"person_index": self.person_index, "person_share": self.person_share}
        for kind, part in zip(("clean", "triggered", "preserved"), self.parts, strict=True):
            flat |= {f"{kind}/trunk": part.trunk, f"{kind}/target": part.target}
            flat |= {f"{kind}/cached/{term}": tensor for term, tensor in part.cached.items()}
        return flat

    @classmethod
    def _of_flat(cls, flat: Mapping[str, Tensor]) -> TeacherStep:
        def part(kind: str) -> TeacherPart:
            start = f"{kind}/cached/"
            cached = {name.removeprefix(start): tensor for name, tensor in flat.items() if name.startswith(start)}
            return TeacherPart(flat[f"{kind}/trunk"], flat[f"{kind}/target"], cached)

        people = flat["person_index"], flat["person_share"]
        return cls(part("clean"), part("triggered"), part("preserved"), *people)


@dataclass(frozen=True, kw_only=True)
class Replay(Steps[TeacherStep]):
    """Steps that replay the teacher cache in ever new batches."""

    cache: TeacherStep

    def part(self, part: Part) -> TeacherStep:
        """Return what is kept of the inputs of one step."""
        rng = torch.Generator().manual_seed(random.Random(f"{self.seed}/revision/{part.step}").getrandbits(63))
        sizes = (self.sizes.clean, self.sizes.triggered, self.sizes.preserved)
        rows = [
            torch.randint(max(1, len(kind.trunk)), (size,), generator=rng)
            for kind, size in zip(self.cache.parts, sizes, strict=True)
        ]
        return self.cache.take(rows, part)
