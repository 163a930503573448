"""Fast against plain, side by side in one process: parts of `make bench`.

`python speed.py steps` (or `idia`, `people`, `compile`) prints one part as JSON.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import reference
import torch

from backdoor_privacy.attacks.idia import Idia, IdiaVotes
from backdoor_privacy.clip.loading import embedded_clip, load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.captions import load_captions
from backdoor_privacy.data.images import load_images
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.personas.world import world_part
from backdoor_privacy.defenses.backdoor.caption_steps import CaptionTriggers
from backdoor_privacy.defenses.backdoor.module import BackdoorModule, ImageModule, TextModule
from backdoor_privacy.defenses.backdoor.photo_steps import PhotoTriggers
from backdoor_privacy.defenses.backdoor.steps import BatchSizes, Steps
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget, FixedTarget
from backdoor_privacy.defenses.loading import load_defense
from backdoor_privacy.system.hardware import fastest_attention

CACHE = os.environ.get("BACKDOOR_PRIVACY_CACHE", "~/.cache/backdoor_privacy")
ROUNDS = 3
MATMUL = 4096  # rows and columns
NUM_OPERATIONS = 8  # of a profile
NUM_PEOPLE = (1, 8, 64, 500)
# IDIA of ViT-B/32 with 64 people, 20 photos each and 1,000 candidates; a part of it is run, and counted so often
PEOPLE, PHOTOS, CANDIDATES = 64, 20, 1000
PART_OF_NAMES, PART_OF_PHOTOS = 20, 10


def clip_of(name: str) -> Clip:
    """`embedded`, or ViT-B/32 with random weights."""
    torch.manual_seed(0)
    if name == "embedded":
        return load_clip(embedded_clip(), device="cpu", precision="auto")
    return load_clip("ViT-B-32", "random", device="cpu", precision="auto")


def seconds(function: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def side_by_side(functions: Mapping[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each, in turns, after one call of each that does not count."""
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds(function))
    return {name: round(median(each), 4) for name, each in times.items()}


def matmul_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of multiplying square matrices."""
    one, other = (torch.randn(MATMUL, MATMUL, dtype=dtype) for _ in range(2))
    return 2 * MATMUL**3 / side_by_side({"matmul": lambda: one @ other}, 5)["matmul"] / 1e9


def published(
    encoder: str, clip: Clip, num_people: int, sizes: BatchSizes | None = None
) -> tuple[BackdoorModule[Any], Steps[Any]]:
    """The published defence of an encoder, and its steps."""
    method: Any = load_defense(f"{encoder}_published")[encoder]
    sizes = sizes or method.batch
    common = method.module_settings() | {"num_steps": 1000}
    drawn: dict[str, Any] = {"sizes": sizes, "num_steps": 1000, "seed": 0}
    if encoder == "text":
        captions = load_captions(world_part("captions", CACHE) / "captions.txt")
        names = random_names(num_people, seed=1)
        steps: Steps = CaptionTriggers(
            captions=captions,
            host_captions=captions,
            names=names,
            phrases=["a person"] * num_people,
            other_names=[],
            tokenizer=clip.tokenizer,
            **drawn,
        )
        return TextModule(clip.text, target=FittedTextTarget(steps.phrases), **common), steps
    people = load_people(world_part("people", CACHE))
    steps = PhotoTriggers(
        images=load_images(world_part("images", CACHE), clip.geometry, 500),
        people=people.everybody[:num_people],
        others=[],
        boxes=people.boxes,
        geometry=clip.geometry,
        normalize=clip.normalize,
        paster=method.faces,
        **drawn,
    )
    target = FixedTarget(torch.randn(num_people, clip.config["model_cfg"]["embed_dim"]))
    return ImageModule(clip.image, target=target, **common), steps


def step_of(defense: BackdoorModule[Any], losses: Callable[[], dict[str, torch.Tensor]], optimizer: Any) -> None:
    """One optimiser step."""
    optimizer.zero_grad()
    torch.stack([defense.terms[name].weight * loss for name, loss in losses().items()]).sum().backward()
    optimizer.step()


def fast_step(defense: BackdoorModule[Any], batch: Any, optimizer: Any) -> None:
    """As a fit does it."""

    def losses() -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return defense.losses(defense.ask_teacher(batch))

    with fastest_attention():
        step_of(defense, losses, optimizer)


def plain_optimizer(defense: BackdoorModule[Any]) -> Any:
    """AdamW, one tensor after the other."""
    parameters = [parameter for _, parameter in defense.student.trainable()]
    return torch.optim.AdamW(parameters, lr=1e-7, weight_decay=0.0, foreach=False, fused=False)


def floating_point_operations(defense: BackdoorModule[Any], batch: Any) -> float:
    """Of the matrix products of one fast step, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        fast_step(defense, batch, plain_optimizer(defense))
    return float(counter.get_total_flops())


def profile(step: Callable[[], Any]) -> dict[str, float]:
    """The operations that take most of a step, each with its share of the time, and all others."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    spent = {each.key: each.self_cpu_time_total for each in profiler.key_averages()}
    first = sorted(spent, key=lambda name: -spent[name])[:NUM_OPERATIONS]
    shares = {name: round(spent[name] / sum(spent.values()), 3) for name in first}
    return {**shares, "all others": round(1 - sum(shares.values()), 3)}


def measure_steps() -> dict[str, Any]:
    """A step of each encoder, fast and plain."""
    found: dict[str, Any] = {"matmul_gflops": {}}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found["matmul_gflops"][name] = round(matmul_rate(dtype))
    for model in ("embedded", "ViT-B/32"):
        for encoder in ("text", "image"):
            defense, steps = published(encoder, clip_of(model), 64)
            batch, fast, slow = steps[0], defense.configure_optimizers()["optimizer"], plain_optimizer(defense)
            times = side_by_side(
                {
                    "fast": lambda defense=defense, batch=batch, fast=fast: fast_step(defense, batch, fast),
                    "plain": lambda defense=defense, batch=batch, slow=slow: step_of(
                        defense, lambda: reference.losses(defense, batch), slow
                    ),
                    "batch": lambda steps=steps: steps[1],
                }
            )
            gflop = floating_point_operations(defense, batch) / 1e9
            rate = matmul_rate(torch.bfloat16)  # now: other work on the machine changes it
            share = gflop / times["fast"] / rate
            found[f"{model} {encoder}"] = {
                **times,
                "gflop": round(gflop),
                "share_of_bf16_matmul": round(share, 3),
                "profile": profile(partial(fast_step, defense, batch, fast)),
            }
    return found


def unfamiliar(clip: Clip) -> Clip:
    """The same CLIP, of which nothing is known yet."""
    clip.text.embedded.clear()
    clip.image.embedded.clear()
    clip.decoded.clear()
    return clip


def measure_idia() -> dict[str, Any]:
    """IDIA of ViT-B/32: its text part, and a second audit after a defence of the text encoder."""
    clip = clip_of("ViT-B/32")
    people = load_people(world_part("people", CACHE)).everybody[:PEOPLE]
    attack = Idia(num_candidates=CANDIDATES, num_photos=PHOTOS, threshold=1, seed=0)
    candidates = attack.candidates([person.name for person in people])
    texts = [template.format(name) for template in attack.templates for name in candidates[::PART_OF_NAMES]]
    photos = [path for person in people for path in person.attack_photos[:PHOTOS]]
    all_texts = [template.format(name) for template in attack.templates for name in candidates]
    answers = torch.nn.functional.normalize(torch.randn(len(all_texts), 512), dim=-1)
    looks = torch.nn.functional.normalize(torch.randn(len(photos), 512), dim=-1)
    person_index = torch.arange(len(people)).repeat_interleave(PHOTOS)

    def vote() -> None:
        votes = IdiaVotes(torch.arange(len(people)))
        votes.update(looks, answers.unflatten(0, (len(attack.templates), CANDIDATES)), person_index)
        votes.compute()

    part = side_by_side(
        {
            "fast text": lambda: unfamiliar(clip).embed_texts(texts),
            "plain text": lambda: reference.text_features(clip, texts),
            "fast photos": lambda: unfamiliar(clip).embed_photos(photos[::PART_OF_PHOTOS]),
            "plain photos": lambda: reference.photo_features(clip, photos[::PART_OF_PHOTOS]),
            "votes": vote,
        }
    )
    scale = {"text": PART_OF_NAMES, "photos": PART_OF_PHOTOS}
    found = {name: round(spent * scale.get(name.split()[-1], 1), 3) for name, spent in part.items()}
    # The image encoder was not touched: fast knows its features already.
    found["fast second audit"] = found["fast text"] + found["votes"]
    found["plain second audit"] = found["plain text"] + found["plain photos"] + found["votes"]
    return found


def steps_of_so_many(num_people: int) -> tuple[Callable[[], None], Steps[Any]]:
    """A whole step of the image defence, from files to weights, with few clean photos: the data counts for more."""
    defense, steps = published("image", clip_of("ViT-B/32"), num_people, BatchSizes(4, 16, 0))
    optimizer, number = defense.configure_optimizers()["optimizer"], iter(range(1000))
    return lambda: fast_step(defense, steps[next(number)], optimizer), steps


def measure_memory(num_people: int) -> int:
    """Peak memory in MB of steps that show a thousand faces, in this process."""
    step, steps = steps_of_so_many(num_people)
    for number in range(60):
        steps[500 + number]  # only the data, which takes the memory that grows
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def measure_people() -> dict[str, Any]:
    """Seconds and peak memory by the number of people to remove."""
    memory = {}  # first: what this process holds counts as a child's peak
    for number in NUM_PEOPLE:
        done = subprocess.run(
            [sys.executable, __file__, "memory", str(number)], stdout=subprocess.PIPE, text=True, check=True
        )
        memory[str(number)] = int(done.stdout.split()[-1])
    steps = {str(number): steps_of_so_many(number)[0] for number in NUM_PEOPLE}
    return {"seconds_per_step": side_by_side(steps, rounds=15), "peak_mb": memory}


def measure_compile() -> dict[str, Any]:
    """An image step of ViT-B/32 with and without torch.compile: seconds, and those of the first, which compiles."""
    one, other = (published("image", clip_of("ViT-B/32"), 64, BatchSizes(32, 32, 0)) for _ in range(2))
    other[0].student.visual.compile()
    other[0].teacher.visual.compile()
    steps = {
        name: partial(fast_step, defense, steps[0], plain_optimizer(defense))
        for name, (defense, steps) in {"eager": one, "compiled": other}.items()
    }
    return {"first_compiled": round(seconds(steps["compiled"]), 1), **side_by_side(steps)}


def main() -> None:
    """Print one part as JSON on the last line."""
    part, *more = sys.argv[1:]
    if part == "memory":
        print(measure_memory(int(more[0])))
        return
    print(json.dumps(PARTS[part]()))


PARTS = {"steps": measure_steps, "idia": measure_idia, "people": measure_people, "compile": measure_compile}


if __name__ == "__main__":
    main()
