"""How far utility may fall during a training: the student is evaluated every few steps, and the best one is kept."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from torch.nn.functional import cosine_similarity

from backdoor_privacy.config.build import AtLeastOne
from backdoor_privacy.defenses.backdoor.module import BackdoorModule
from backdoor_privacy.defenses.backdoor.teacher_cache import TeacherStep
from backdoor_privacy.system.distributed import broadcast

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """How far utility may fall while an encoder is trained.

    Args:
        min_similarity: the least mean cosine similarity of student to teacher where nothing is to change; `None`: no
            budget.
        every: steps between two evaluations.
        patience: the training stops after so many evaluations in a row that are out of the budget.
        num_batches: the number of batches to evaluate on, each as large as a step.
    """

    min_similarity: float | None = None
    every: AtLeastOne = 50
    patience: AtLeastOne = 3
    num_batches: AtLeastOne = 4


class Evaluation(NamedTuple):
    """An evaluation of the student during its training, on clean and preserved inputs that no step trains on."""

    step: int
    utility: float  # mean cosine similarity to the teacher, of clean or of preserved inputs, the lower one
    removal: float  # mean cosine similarity of triggered inputs to their targets
    on_front: bool = False  # whether no other student is as good in both and better in one
    kept: bool = False  # whether this student was kept


class UtilityBudget(Callback):
    """A callback that evaluates the student every few steps, and keeps the best one.

    The best one is that with the most removal among those within the budget; if none is, that with the most utility. A
    training stops when several evaluations in a row (`Budget.patience`) are out of the budget.

    Args:
        settings: of the budget.

    Attributes:
        held_out: inputs to evaluate on, with what the teacher makes of them; no step trains on its clean and preserved
            ones. It is set before the training.
    """

    held_out: TeacherStep

    def __init__(self, settings: Budget) -> None:
        self.settings = settings
        self.least = -1.0 if settings.min_similarity is None else settings.min_similarity
        self.evaluations: list[Evaluation] = []
        self.best: Evaluation | None = None
        self.weights: dict[str, torch.Tensor] = {}  # of the best student, the trained tensors

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop at once, if a resumed training had been stopped by its budget before it was interrupted."""
        trainer.should_stop = trainer.should_stop or self._is_exhausted()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: object, **kwargs: object
    ) -> None:
        """Evaluate after every `Budget.every` steps, and after the last one."""
        step, last = trainer.global_step, self.evaluations[-1].step if self.evaluations else 0
        is_due = step % self.settings.every == 0 or step == trainer.max_steps
        if step == last or not is_due:
            return
        assert isinstance(pl_module, BackdoorModule)
        with trainer.precision_plugin.forward_context():
            evaluation = broadcast(evaluate(pl_module, self.held_out, step))
        self.evaluations.append(evaluation)
        if self.best is None or self._rank(evaluation) >= self._rank(self.best):
            self.best = evaluation
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in pl_module.student.trainable()}
        trainer.should_stop = trainer.should_stop or self._is_exhausted()

    def keep_best(self, defense: BackdoorModule) -> list[Evaluation]:
        """Restore the weights of the best student, log it where it is not the last one, and return all evaluations."""
        best, last = self.best, self.evaluations[-1]
        assert best is not None
        with torch.no_grad():
            for name, tensor in defense.student.trainable():
                tensor.copy_(self.weights[name])
        encoder = defense.encoder
        if last.step < defense.num_steps:
            log.warning(
                "The %s encoder was out of its utility budget (similarity %.3f, at least %.3f), so its fit stopped at "
                "step %d of %d",
                *(encoder, last.utility, self.least, last.step, defense.num_steps),
            )
        if not self._is_within(best):
            log.warning(
                "No %s encoder on the way was within its budget of %.3f: kept that of step %d, with %.3f; lower "
                "defense.%s.budget.min_similarity, or defend less",
                *(encoder, self.least, best.step, best.utility, encoder),
            )
        elif best.step < last.step:
            log.info("Kept the %s encoder of step %d, which removes best within its utility budget", encoder, best.step)
        front = pareto_front(self.evaluations)
        return [one._replace(on_front=one in front, kept=one == best) for one in self.evaluations]

    def state_dict(self) -> dict[str, object]:
        """Return what a resumed training needs."""
        evaluations = [tuple(one) for one in self.evaluations]
        return {"evaluations": evaluations, "best": self.best and tuple(self.best), "weights": self.weights}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what an interrupted training had."""
        self.evaluations = [Evaluation(*one) for one in state_dict["evaluations"]]
        self.best = state_dict["best"] and Evaluation(*state_dict["best"])
        self.weights = dict(state_dict["weights"])

    def _is_within(self, evaluation: Evaluation) -> bool:
        return evaluation.utility >= self.least

    def _is_exhausted(self) -> bool:
        recent = self.evaluations[-self.settings.patience :]
        return len(recent) == self.settings.patience and not any(map(self._is_within, recent))

    def _rank(self, evaluation: Evaluation) -> tuple[bool, float, float]:
        """Return a sort key: students within the budget come first, by removal; all others follow, by utility."""
        if self._is_within(evaluation):
            return True, evaluation.removal, evaluation.utility
        return False, evaluation.utility, evaluation.removal


@torch.no_grad()
def evaluate(defense: BackdoorModule, held_out: TeacherStep, step: int) -> Evaluation:
    """Measure how close the student is to the teacher where nothing is to change, and to its targets elsewhere."""
    similarities = []
    for part in (held_out.clean, held_out.preserved, held_out.triggered):
        if len(part.trunk):
            features = defense.student.head(part.trunk.to(defense.device), defense.num_shared).float()
            similarities.append(cosine_similarity(features, part.target.to(defense.device), dim=-1).mean().item())
    *kept, removal = similarities
    return Evaluation(step, min(kept), removal)


def pareto_front(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations that no other one beats: at least as good in utility and removal, and better in one."""
    return [
        one
        for one in evaluations
        if not any(
            other.utility >= one.utility
            and other.removal >= one.removal
            and (other.utility, other.removal) != (one.utility, one.removal)
            for other in evaluations
        )
    ]


def budget_table(encoder: str, evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Return the evaluations of an encoder as `budget.csv` has them, a row each."""
    table = pd.DataFrame(evaluations, columns=list(Evaluation._fields))
    table.insert(0, "encoder", encoder)
    return table
