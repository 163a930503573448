"""What reports call the numbers of utility measures."""

from collections.abc import Mapping
from typing import Any

from backdoor_privacy.report import earlier
from backdoor_privacy.utility.base import Label


def labels_in(metrics: Mapping[str, Any]) -> Mapping[str, Label]:
    """Return what the measures of a run call their numbers, by key, as `metrics.json` holds it."""
    if "utility" not in metrics:
        return earlier.labels(metrics["before"])
    return {key: Label(**label) for key, label in metrics["utility"].items()}
