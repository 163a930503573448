"""Tower swap: whoever has the original CLIP puts one of its encoders back beside a defended one."""

from dataclasses import dataclass

import torch

from backdoor_privacy.attacks.scene import Finding, Scene, mean_finding
from backdoor_privacy.clip import Clip


@dataclass(frozen=True)
class TowerSwap:
    """IDIA on the defended text encoder with the original image encoder, and the reverse."""

    def run(self, scene: Scene) -> list[Finding]:
        """Attack the CLIPs of one defended and one original encoder, and those of both for comparison."""
        original, defended = scene.clips["before"], scene.clips[scene.fullest]
        swapped: dict[str, Clip] = {
            "both original": original,
            "defended text, original image": original.with_encoders(text=defended.text),
            "original text, defended image": original.with_encoders(image=defended.image),
            "both defended": defended,
        }
        findings = []
        for kind, clip in swapped.items():
            found = scene.idia.run(clip, scene.people.everybody)
            inferred = torch.tensor([found.inferred[name] for name in found.names])
            findings += [
                mean_finding(inferred[scene.rows(group)], kind=kind, model=scene.fullest, group=group)
                for group in scene.groups
            ]
        return findings
