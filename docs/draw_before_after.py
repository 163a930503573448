"""Draw the README's picture of a run: `python docs/draw_before_after.py runs/both_64/seed=0`.

Some removed and some kept people of the embedded world: one photo of each, and the names that fit their photos best.
"""

import io
import os
import sys
from pathlib import Path

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure
from PIL import Image

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.clip.loading import embedded_clip, load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, Person, load_people
from backdoor_privacy.data.personas.world import world_part
from backdoor_privacy.data.photos import read_photo

NUM_PEOPLE, NUM_NAMES, PROMPT = 2, 3, "a photo of {}"  # of each kind; names that are shown


def best_names(clip: Clip, person: Person, candidates: list[str]) -> list[tuple[str, float]]:
    """The candidates that fit the person's attack photos best, with their mean cosine similarities."""
    photos, _ = clip.embed_photos(person.attack_photos)
    names = clip.embed_texts([PROMPT.format(name) for name in candidates])
    similarities, places = (photos @ names.T).mean(0).topk(NUM_NAMES)
    return [(candidates[place], value) for place, value in zip(places.tolist(), similarities.tolist(), strict=True)]


def chosen(folder: Path, people: People) -> list[tuple[str, Person]]:
    """The first removed people in the order of the alphabet, and the first kept ones who were inferred before."""
    table = pd.read_csv(folder / "people.csv").sort_values("name")
    removed = table[table["removed"]]["name"]
    kept = table[~table["removed"] & table["inferred_before"]]["name"]
    by_name = {person.name: person for person in people.everybody}
    return [
        (kind, by_name[name]) for kind, names in (("removed", removed), ("kept", kept)) for name in names[:NUM_PEOPLE]
    ]


def main() -> None:
    """Draw one row for each person."""
    folder = Path(sys.argv[1])
    people = load_people(world_part("people", os.environ.get("BACKDOOR_PRIVACY_CACHE", "~/.cache/backdoor_privacy")))
    candidates = Idia(num_candidates=1000, num_photos=20, threshold=1, seed=0).candidates(people.names)
    clips = {"before": load_clip(embedded_clip()), "after": load_clip(f"local-dir:{folder / 'defended'}")}
    rows = chosen(folder, people)
    with torch.no_grad(), matplotlib.rc_context({"font.size": 9, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(7.2, 1.25 * len(rows) + 0.3), layout="constrained")
        panels = figure.subplots(len(rows), 3, width_ratios=[1, 2.2, 2.2])
        for row, (axes, (kind, person)) in enumerate(zip(panels, rows, strict=True)):
            axes[0].imshow(read_photo(person.attack_photos[0]))
            axes[0].set_ylabel(f"{person.name}\n({kind})", rotation=0, ha="right", va="center")
            axes[0].set(xticks=[], yticks=[])
            for panel, (title, clip) in zip(axes[1:], clips.items(), strict=True):
                found = best_names(clip, person, candidates)
                names, values = zip(*found, strict=True)
                colours = ["#D55E00" if name == person.name else "#bbbbbb" for name in names]
                panel.barh(range(NUM_NAMES), values, color=colours, height=0.8)
                for place, name in enumerate(names):
                    panel.text(0.01, place, name, va="center", fontweight="bold" if name == person.name else "normal")
                panel.set(xlim=(0, 0.8), xticks=[], yticks=[], ylim=(NUM_NAMES - 0.5, -0.5))
                panel.spines[:].set_visible(False)
                if row == 0:
                    panel.set_title(f"{title}: names that fit 20 photos best", fontsize=9, loc="left")
    png = io.BytesIO()
    figure.savefig(png, dpi=130)
    Image.open(png).convert("RGB").quantize(128).save(Path(__file__).parent / "before_after.png", optimize=True)


if __name__ == "__main__":
    main()
