"""The optimizer of a student, and its learning-rate schedule."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

from backdoor_privacy.config.build import Length


class Schedule(Enum):
    """A schedule of the learning rate."""

    step = "step"  # falls by a factor at milestones
    one_cycle = "one_cycle"  # rises for 15 % of the steps, then falls


@dataclass(frozen=True)
class Optimizer:
    """AdamW and its learning-rate schedule.

    Args:
        lr: learning rate, the highest one of `one_cycle`.
        weight_decay: of AdamW.
        schedule: of the learning rate.
        milestones: steps after which the schedule `step` multiplies the learning rate by `factor`.
        factor: at each milestone.
    """

    lr: Length
    weight_decay: Length = 0.0
    schedule: Schedule = Schedule.step
    milestones: list[int] = field(default_factory=list)
    factor: float = 1.0

    def build(self, parameters: Iterable[nn.Parameter], num_steps: int) -> tuple[AdamW, LRScheduler]:
        """Return the optimizer of some parameters, with its schedule over so many steps."""
        optimizer = AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        if self.schedule is Schedule.one_cycle:
            return optimizer, OneCycleLR(
                optimizer, self.lr, total_steps=num_steps + 1, pct_start=0.15, cycle_momentum=False
            )
        return optimizer, MultiStepLR(optimizer, list(self.milestones), self.factor)
