"""Define the interface of utility measures: what each measures, what its numbers are called, and what it reads."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from omegaconf import DictConfig

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.build import build, is_described
from backdoor_privacy.errors import InputError

_SIMILARITY = "similarity"  # the one key of `utility` that is no measure: a setting of the text defence


class Label(NamedTuple):
    """The name of one number of a measure in reports."""

    title: str
    note: str = ""  # in small letters below the title
    column: str = ""  # in collected.csv; without one, the number is not collected


class Contents(NamedTuple):
    """The photos of a measure, as `check_data` shows them."""

    title: str  # what they are called, as `zero-shot photos`
    summary: str  # how many there are, as `1,200, of 24 classes`
    texts: Mapping[Path, str]  # each photo with its class or a caption
    left_out: Mapping[str, int] = MappingProxyType({})  # the number of other files, by suffix


@runtime_checkable
class Measure(Protocol):
    """One measure of the utility of a CLIP, with its settings.

    A class that inherits from it needs `name`, `measure` and `digest`; the other methods suit a measure without photos.
    """

    name: ClassVar[str]  # what the keys of its numbers begin with, as `zero_shot` of `zero_shot/top1`

    def measure(self, clip: Clip) -> dict[str, float]:
        """Measure a CLIP: numbers by keys `<name>/...`, those of counts `<name>/num_...`."""
        ...

    def digest(self) -> dict[str, int | str]:
        """Return counts of the data, and `sha256` over it, for `manifest.json`."""
        ...

    @classmethod
    def labels(cls, measured: Mapping[str, float]) -> dict[str, Label]:
        """Say what reports call the numbers, in the order of their rows; counts have no row.

        Args:
            measured: what `measure` returned.
        """
        return {key: Label(key) for key in measured if _is_row(key, cls.name)}

    def photos(self) -> list[Path]:
        """Return the clean photos that it reads.

        Raises:
            InputError: if something is wrong with the data; a run asks before it computes anything.
        """
        return []

    def contents(self) -> Contents | None:
        """Return what `check_data` shows of the photos; `None` where there are none.

        Raises:
            InputError: see `photos`.
        """
        return None


def _is_row(key: str, name: str) -> bool:
    return key.startswith(f"{name}/") and not key.startswith(f"{name}/num_")


def build_measures(utility: DictConfig) -> dict[str, Measure]:
    """Build the measures of a config, by their keys.

    Args:
        utility: `cfg.utility`; a key that is null is left out.

    Raises:
        InputError: if a key describes no measure, or two measures write the same keys.
    """
    measures: dict[str, Measure] = {}
    for key in measure_keys(utility):
        node = utility[key]
        if node is None:
            continue
        if not is_described(node):
            raise InputError(f"utility.{key}: expected null or a measure with its _target_, got {node}; choose one")
        measure = build(node, Measure, f"utility.{key}")
        same = next((other for other, known in measures.items() if known.name == measure.name), None)
        if same is not None:
            raise InputError(
                f"utility.{key}: expected a measure of another kind than utility.{same}, got two whose numbers are "
                f"called {measure.name}/...; set one of them to null"
            )
        measures[key] = measure
    return measures


def measure_keys(utility: DictConfig) -> Iterator[str]:
    """Return the keys of `cfg.utility` that are measures, null or not."""
    yield from (str(key) for key in utility if key != _SIMILARITY)


def clean_photos(measures: Mapping[str, Measure]) -> list[Path]:
    """Return the photos of the first measure that has some."""
    return next((photos for measure in measures.values() if (photos := measure.photos())), [])


def labels_of(measures: Mapping[str, Measure], measured: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """Return what reports call the numbers of a run, for `metrics.json`.

    Args:
        measures: of the run.
        measured: numbers of the original CLIP.

    Returns:
        The fields of the `Label` of each number, by the key of the number.
    """
    labels = {key: label for measure in measures.values() for key, label in measure.labels(measured).items()}
    return {key: label._asdict() for key, label in labels.items() if key in measured}
