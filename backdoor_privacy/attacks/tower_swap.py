"""Tower swap: whoever has the original CLIP puts one of its encoders back beside a defended one."""

from dataclasses import dataclass

from backdoor_privacy.attacks.scene import Finding, Scene
from backdoor_privacy.clip.model import Clip


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
            findings += scene.idia_findings(clip, kind=kind, model=model)
        return findings
