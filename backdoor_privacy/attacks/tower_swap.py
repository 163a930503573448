"""Tower swap: whoever has the original CLIP puts one of its encoders back beside a defended one."""

from dataclasses import dataclass

import torch

from backdoor_privacy.attacks.scene import Finding, Scene, chance_findings, mean_finding
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.errors import InputError


@dataclass(frozen=True)
class TowerSwap:
    """IDIA on the defended text encoder with the original image encoder, and the reverse.

    It looks for the removed people, and for the never-seen ones as the null. Of the removed people it also tells how
    often a random name is inferred in place of theirs (group `random names`), and how their names rank among these.
    """

    def run(self, scene: Scene) -> list[Finding]:
        """Attack the original CLIP, the defended one, and where both encoders were defended the two between them.

        Raises:
            InputError: if no removed person has photos.
        """
        if "removed" not in scene.sought:
            raise InputError("tower_swap: expected removed people with photos, got none")
        original, defended = scene.clips["before"], scene.clips[scene.fullest]
        swapped: dict[str, tuple[str, Clip]] = {
            "before": ("nothing swapped", original),
            scene.fullest: ("nothing swapped", defended),
        }
        if scene.fullest == "both":
            swapped["text"] = "original image encoder", original.with_encoders(text=defended.text)
            swapped["image"] = "original text encoder", original.with_encoders(image=defended.image)
        findings = []
        for model, (kind, clip) in swapped.items():
            findings += _found(scene, clip, kind, model)
        return findings


def _found(scene: Scene, clip: Clip, kind: str, model: str) -> list[Finding]:
    people = [person for group in scene.sought.values() for person in group]
    found = scene.idia.run(clip, people, scene.people.names)
    rows, inferred = scene.sought_rows(found.num_photos), torch.tensor(list(found.inferred.values()))
    findings = [mean_finding(inferred[chosen], kind=kind, model=model, group=group) for group, chosen in rows.items()]
    if found.evidence.chance is not None:
        findings += chance_findings(found.evidence.chance, rows.get("removed", ()), kind=kind, model=model)
    return findings
