"""Every shipped architecture in its true size with random weights: `make bench-architectures`.

Each defends every encoder that it has for some steps through the Python API, is attacked before and after, exported and
loaded again. Writes `architectures.json` and `architectures.md` beside it. Names may be given: `vit_b_32 rn50`.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch.loggers.logger import DummyLogger
from machine import processor
from omegaconf import OmegaConf

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import TriggerSet, load_trainer
from backdoor_privacy.data.captions import load_captions
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.personas.world import world_part
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.loading import load_defense
from backdoor_privacy.protect import protect
from backdoor_privacy.system.paths import CONFIG_FOLDER
from backdoor_privacy.system.versions import versions

FOLDER = Path(__file__).parent
NAMES = ("vit_b_32", "vit_b_16", "vit_l_14", "rn50", "sd_v1_text")
NUM_STEPS, BATCH = 3, {"clean": 8, "triggered": 8, "preserved": 0}
TEXTS = ["a dog on a hill", "Zoë Nuñez", "a photo of a person named Ann-Lee O'Neill"]
# Stable Diffusion 1's text encoder (openai/clip-vit-large-patch14).
SD_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
           "projection_dim": 768, "bos_token_id": 49406, "eos_token_id": 49407}  # fmt: skip


class StepClock(DummyLogger):
    """A logger that only notes when each step was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def log_metrics(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())

    @property
    def seconds_per_step(self) -> float:
        """Median over the steps but the first."""
        return median(later - earlier for earlier, later in pairwise(self.times))


def write_text_model(folder: Path) -> Path:
    """A `CLIPTextModel` of Stable Diffusion 1's size with random weights, and its tokenizer."""
    from open_clip import SimpleTokenizer
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    known = SimpleTokenizer()
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    folder.mkdir()
    vocabulary = {renamed.get(token, token): number for token, number in known.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "".join(f"{first} {second}\n" for first, second in known.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    CLIPTextModel(CLIPTextConfig(**SD_TEXT)).save_pretrained(folder)
    return folder


def load(name: str, folder: Path) -> Clip:
    """The CLIP of `conf/clip` with random weights."""
    torch.manual_seed(0)
    cfg = OmegaConf.load(CONFIG_FOLDER / "clip" / f"{name}.yaml")
    text_model = None if "text_model" not in cfg else str(write_text_model(folder / "text"))
    return load_clip(cfg.model, pretrained="random", text_model=text_model, device="cpu")


def differences(clip: Clip, folder: Path, photos: list[Path]) -> dict[str, float]:
    """How far what was exported is from what was defended: the largest absolute difference of any feature, in fp32."""
    if clip.text.is_sequence:
        from transformers import CLIPTextModel

        tokens = clip.tokenizer(TEXTS)
        with torch.no_grad():
            loaded = CLIPTextModel.from_pretrained(folder)(input_ids=tokens).last_hidden_state.flatten(1)
            return {"text": (loaded - clip.text(tokens)).abs().max().item()}
    loaded = load_clip(f"local-dir:{folder}")
    return {
        "text": (loaded.embed_texts(TEXTS) - clip.embed_texts(TEXTS)).abs().max().item(),
        "image": (loaded.embed_photos(photos)[0] - clip.embed_photos(photos)[0]).abs().max().item(),
    }


def measure(name: str) -> dict[str, Any]:
    """One architecture, in this process."""
    cache = os.environ.get("BACKDOOR_PRIVACY_CACHE", "~/.cache/backdoor_privacy")
    parts = {part: world_part(part, cache, limit=4) for part in ("people", "strangers", "captions", "images")}
    sources = Sources(
        people=load_people(parts["people"]),
        captions=load_captions(parts["captions"]),
        images=parts["images"],
        strangers=load_people(parts["strangers"]),
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clip = load(name, folder)
        encoders = ["text"] if clip.text.is_sequence else ["text", "image"]
        changes = {encoder: {"num_steps": NUM_STEPS, "batch": BATCH} for encoder in encoders}
        kind = "both_published" if len(encoders) > 1 else "text_published"
        clocks = {encoder: StepClock() for encoder in encoders}
        done = protect(
            clip,
            sources,
            TriggerSet(num_people=2, require_inferred=False),
            load_defense(kind, **changes),
            attack=Idia(num_candidates=20, num_photos=2, threshold=1, seed=0),
            trainer=load_trainer(num_workers=0, progress_bar=False),
            max_held_out=20,
            loggers=lambda encoder: [clocks[encoder]],
        )
        done.clip.save(folder / "defended")
        photos = list(sources.people.everybody[0].photos[:4])
        return {
            "million_parameters": {
                encoder: round(sum(p.numel() for p in getattr(clip, encoder).parameters()) / 1e6, 1)
                for encoder in encoders
            },
            "seconds_per_step": {encoder: round(clocks[encoder].seconds_per_step, 2) for encoder in encoders},
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            "reload_difference": differences(done.clip, folder / "defended", photos),
            "idia_people": len(done.after[encoders[-1]].idia.names),
        }


def page(result: dict[str, Any]) -> str:
    """The results as a page."""
    rows = []
    for name, found in result["architectures"].items():
        for encoder, seconds in found["seconds_per_step"].items():
            rows.append(
                f"| `{name}` | {encoder} | {found['million_parameters'][encoder]} | {seconds:.2f} | {found['peak_mb']} "
                f"| {found['reload_difference'][encoder]:.0e} |"
            )
    used = result["versions"]
    return "\n".join(
        [
            "# Architectures in their true size",
            "",
            f"`make bench-architectures` wrote this page and `architectures.json`. Random weights, published losses, "
            f"{BATCH['clean']} clean and {BATCH['triggered']} triggered inputs a step, a few steps of each "
            f"encoder, IDIA before and after, export, reload. {result['machine']}; torch {used['torch']}, open_clip "
            f"{used['open_clip_torch']}, commit {used['commit'][:7]}.",
            "",
            "| `clip=` | encoder | million parameters | seconds a step | peak memory of the process, MB "
            "| largest difference of a feature after reload |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Measure the architectures, each in a process of its own."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
        return
    file = FOLDER / "architectures.json"
    found: dict[str, Any] = json.loads(file.read_text())["architectures"] if file.is_file() and sys.argv[1:] else {}
    for name in sys.argv[1:] or NAMES:
        command = [sys.executable, __file__, "--one", name]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[name] = json.loads(output.splitlines()[-1])
        print(name, found[name], flush=True)
        known = {name: found[name] for name in NAMES if name in found}
        result = {"machine": f"{processor()}, {os.cpu_count()} cores", "versions": versions(), "architectures": known}
        file.write_text(json.dumps(result, indent=2) + "\n")
        (FOLDER / "architectures.md").write_text(page(result))


if __name__ == "__main__":
    main()
