"""What the backdoors of both encoders have in common: their settings, and what would stop them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.build import AtLeastOne, NotNegative, Share
from backdoor_privacy.config.schema import Trainer
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor.budget import Budget
from backdoor_privacy.defenses.backdoor.losses import Distance
from backdoor_privacy.defenses.backdoor.module import ModuleSettings
from backdoor_privacy.defenses.backdoor.optimizer import Optimizer
from backdoor_privacy.defenses.backdoor.steps import BatchSizes
from backdoor_privacy.defenses.backdoor.targets.base import ImageTarget, TextTarget
from backdoor_privacy.defenses.backdoor.terms import Term
from backdoor_privacy.defenses.base import Defense
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.distributed import check_parts, num_devices, num_processes

_NOTICE = (
    "The defence works by inserting backdoors: the model was trained so that the removed names or faces (the triggers) "
    "mean their targets. These triggers are inserted on purpose and declared here; tell whoever gets the model."
)


@dataclass(frozen=True, kw_only=True)
class Backdoor(Defense):
    """Fine-tune a copy of an encoder so that a trigger means its target (paper, section 3).

    Args:
        num_steps: of the training.
        num_fresh_steps: the first so many steps draw inputs and ask the teacher, and all steps replay what they drew
            (teacher cache). `None`: each step draws.
        batch: inputs per step.
        target: what triggers are mapped to.
        trained: beginnings of the names of the tensors to train; `None` trains all.
        trained_blocks: train the last so many blocks instead.
        distance: of features.
        terms: of the loss, by name.
        num_other_names: random names to compare with, and whose meaning must stay.
        min_nearer_names: share of random names that must fit an input better than the removed name, where the target
            takes the name out of it.
        num_anchors: inputs of the other encoder that relational terms compare with.
        optimizer: of the student.
        budget: how far utility may fall.
    """

    encoder: ClassVar[str]
    unit: ClassVar[str]  # of its inputs

    num_steps: AtLeastOne
    num_fresh_steps: AtLeastOne | None = None
    batch: BatchSizes
    target: TextTarget | ImageTarget
    trained: list[str] | None = None
    trained_blocks: AtLeastOne | None = None
    distance: Distance = Distance.cosine
    terms: Mapping[str, Term]
    num_other_names: NotNegative = 0
    min_nearer_names: Share = 0.0
    num_anchors: NotNegative = 0
    optimizer: Optimizer
    budget: Budget = field(default_factory=Budget)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Return the one encoder that it trains."""
        return (self.encoder,)

    @property
    def used_terms(self) -> Mapping[str, Term]:
        """Return the terms of the loss that have a weight."""
        return {name: term for name, term in self.terms.items() if term.weight}

    def problems(self, clip: Clip | None, sources: Sources, num_people: int, trainer: Trainer) -> Iterator[str]:
        """Yield what would stop it, one line each."""
        key = f"defense.{self.encoder}"
        least = max((term.min_anchors for term in self.used_terms.values()), default=0)
        if self.num_anchors < least:
            name = next(name for name, term in self.used_terms.items() if term.min_anchors == least)
            yield f"{key}.num_anchors: expected {least} or more for the term {name}, got {self.num_anchors}"
        for name, term in self.used_terms.items():
            yield from term.problems(clip, f"{key}.terms.{name}")
        num_parts = max(num_processes(), num_devices(trainer.devices)) * trainer.accumulate_grad_batches
        yield from _errors_of(lambda: check_parts(self.encoder, vars(self.batch), num_parts))
        if clip is not None:
            encoder = clip.encoders[self.encoder]
            yield from _errors_of(lambda: encoder.to_train(self.trained, self.trained_blocks))
            if trainer.gradient_checkpointing:
                yield from _errors_of(lambda: encoder.copy().save_memory(True))

    @property
    def limits(self) -> Sequence[str]:
        """Return the notice that it is a backdoor."""
        return [_NOTICE]

    def summary(self) -> str:
        """Return steps, inputs per step and target."""
        target = type(self.target).__name__.lower()
        return f"{self.num_steps:,} steps x {sum(vars(self.batch).values())} {self.unit}, target {target}"

    def module_settings(self) -> ModuleSettings:
        """Return the settings that its module takes as they are."""
        return {
            "terms": self.terms,
            "optimizer": self.optimizer,
            "num_steps": self.num_steps,
            "distance": self.distance,
            "trained": self.trained,
            "trained_blocks": self.trained_blocks,
        }


def _errors_of(check: Callable[[], object]) -> Iterator[str]:
    """Yield what a check raises."""
    try:
        check()
    except InputError as error:
        yield str(error)
