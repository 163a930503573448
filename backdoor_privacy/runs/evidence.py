"""Tables of numbers by person, which a run records so that figures can be drawn without a CLIP."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.attacks.idia import TEMPLATES, IdiaResult

_FEATURES = {"text": "name_features", "image": "face_features"}  # of IDIA's evidence, by encoder


def votes_table(results: Mapping[str, IdiaResult]) -> pd.DataFrame:
    """Return the margin of everybody's own name for each audited model, and its votes under each prompt."""
    tables = []
    for model, result in results.items():
        evidence = result.evidence
        table = pd.DataFrame(evidence.own_votes.numpy(), columns=list(TEMPLATES[: evidence.own_votes.shape[1]]))
        table.insert(0, "margin", evidence.margins.numpy())
        table.insert(0, "model", model)
        table.insert(0, "name", result.names)
        tables.append(table)
    return pd.concat(tables)


def map_table(
    before: IdiaResult, after: Mapping[str, IdiaResult], removed: Sequence[str], targets: Mapping[str, Tensor]
) -> pd.DataFrame:
    """Return everybody's embedding in two dimensions, from the original encoder and from the defended one.

    The dimensions are the first two principal components of what changes and of what stays: of everybody in the
    original, of the removed people in the defended encoder, and of their targets.

    Args:
        before: of the original CLIP.
        after: by audited model.
        removed: names, in the order of the targets.
        targets: by defended encoder, what the removed people are mapped to, (removed, dim); a method may have none.

    Returns:
        `encoder`, `stage` (`before`, `after` or `target`), `name`, `x` and `y`.
    """
    places = [before.names.index(name) for name in removed]
    tables = []
    for encoder in [name for name in after if name != "both"]:
        features = _FEATURES[encoder]
        stages = {"before": getattr(before.evidence, features), "after": getattr(after[encoder].evidence, features)}
        stages |= {"target": targets[encoder]} if encoder in targets else {}
        moved = [stages["after"][places], *([targets[encoder]] if encoder in targets else [])]
        axes = _principal_axes(torch.cat([stages["before"], *moved]))
        for stage, points in stages.items():
            x, y = (points @ axes).T.numpy()
            names = list(removed) if stage == "target" else before.names
            tables.append(pd.DataFrame({"encoder": encoder, "stage": stage, "name": names, "x": x, "y": y}))
    return pd.concat(tables)


def _principal_axes(points: Float[Tensor, "point dim"]) -> Float[Tensor, "dim 2"]:
    directions = torch.linalg.svd(points - points.mean(0), full_matrices=False).Vh[:2].T
    # The sign of an axis is arbitrary; this makes it the same every time.
    return directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
