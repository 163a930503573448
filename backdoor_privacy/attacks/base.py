"""What a run asks of every attack besides IDIA, and the headlines by which an attack sums up what it found."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, auto
from typing import ClassVar, NamedTuple

from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.errors import InputError

REMOVED, KEPT, NEVER_SEEN = "removed", "kept", "removed / never seen"  # groups that headlines are of


class Approach(IntEnum):
    """How an attack goes about it; of equally bad headlines, those of the first approach come first."""

    features = auto()  # looks at the features of names and photos
    prompts = auto()  # searches for prompts
    names = auto()  # asks for names, as IDIA does
    weights = auto()  # changes the weights without training
    training = auto()  # trains the CLIP on
    settings = auto()  # varies IDIA's own settings
    others = auto()  # asks whom a removal harms


class Headline(NamedTuple):
    """One number that sums up an attack: the worst of its scores that are of this group, measure and kind."""

    label: str  # what reports call it
    group: str  # of whom
    measure: str
    kind: str | Callable[[str], bool]  # the one of this name, or those that this is true of
    model: str | None = "fullest"  # the one with most encoders defended; `None`: any that is defended
    is_taught: bool = False  # whether the attack teaches the removed people anew

    @property
    def of_others(self) -> bool:
        """Whether it is what others pay, and not what is left of the removed people."""
        return self.group == KEPT

    @property
    def finds_names(self) -> bool:
        """Whether it is a share of the removed people whom an attack finds by their names, without teaching them."""
        return self.measure == "TPR" and not self.is_taught

    def fits(self, score: Score) -> bool:
        """Return whether a score is of this group, measure and kind, whatever its model."""
        is_kind = score.kind == self.kind if isinstance(self.kind, str) else self.kind(score.kind)
        return is_kind and (score.group, score.measure) == (self.group, self.measure)

    def rank(self, value: float) -> tuple[bool, float]:
        """Return where a value comes among others: the worst for the removed people first, what others pay last."""
        return self.of_others, -above_chance(self.measure, value)


def above_chance(measure: str, value: float) -> float:
    """Return how much an attack found, on one scale for all measures: 0 is nothing, 1 is all that can be found."""
    if measure.startswith("AUC"):
        return 2 * value - 1
    return 1 - value if measure == "ratio" else value


class Attack(ABC):
    """One attack; the fields of a subclass, a frozen dataclass, are its settings, as in `conf/attack/also`."""

    headlines: ClassVar[Sequence[Headline]] = ()
    approach: ClassVar[Approach] = Approach.names
    is_shared: ClassVar[bool] = False  # whether the processes of a run share what takes time in it

    def problems(self, context: AttackContext, models: Sequence[str]) -> Iterator[str]:
        """Yield why the attack cannot be run, one line each; `check_data` and the run ask the same.

        Args:
            context: what is known before anything is defended: `clips` holds the original alone, or nothing where no
                CLIP is loaded.
            models: names of the CLIPs that there will be, the one with most encoders defended comes last.
        """
        yield from ()

    @abstractmethod
    def run(self, context: AttackContext) -> list[Score]:
        """Attack every CLIP of the context in the same way.

        Raises:
            InputError: on anything that the user can mend.
        """


def refusals(*checks: Callable[[], object]) -> Iterator[str]:
    """Yield the message of each check that raises an `InputError`."""
    for check in checks:
        try:
            check()
        except InputError as error:
            yield str(error)
