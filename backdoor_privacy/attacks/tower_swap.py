"""Tower swap: whoever has the original CLIP puts one of its encoders back beside a defended one."""

from dataclasses import dataclass

import torch

from backdoor_privacy.attacks.scene import Finding, Scene, mean_finding
from backdoor_privacy.clip import Clip


@dataclass(frozen=True)
class TowerSwap:
    """IDIA on the defended text encoder with the original image encoder, and the reverse."""

    def run(self, scene: Scene) -> list[Finding]:
        """Attack the original CLIP, the defended one, and where both encoders were defended the two between them."""
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
            found = scene.idia.run(clip, scene.people.everybody)
            inferred = torch.tensor([found.inferred[name] for name in found.names])
            findings += [
                mean_finding(inferred[scene.rows(group)], kind=kind, model=model, group=group) for group in scene.groups
            ]
        return findings
