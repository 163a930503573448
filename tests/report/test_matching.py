"""Can somebody with the original CLIP, all photos and a list of names say whom a report is about?

Each test first shows that its attack works on exact places or numbers, then that it fails on what a report without
names draws and says.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import binomtest
from torch.nn.functional import normalize

from backdoor_privacy.attacks.idia import Evidence, Idia, IdiaResult
from backdoor_privacy.attacks.neighbors import neighbors_table
from backdoor_privacy.clip.loading import embedded_clip, load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.personas.roster import people_of
from backdoor_privacy.data.personas.samples import draw, photo_sample
from backdoor_privacy.evaluation import idia_rates
from backdoor_privacy.report.figures.people import map_figure
from backdoor_privacy.report.figures.style import save_figure
from backdoor_privacy.report.writing import write_report
from backdoor_privacy.runs.evidence import map_table, votes_table
from backdoor_privacy.runs.finished import read_run
from backdoor_privacy.runs.folder import write_metrics, write_people, write_table

NUM_MAPS, NUM_REMOVED = 20, 4
NUM_WELL_KNOWN, NUM_NEVER_SEEN = 160, 40
SVG = "{http://www.w3.org/2000/svg}"


class World(NamedTuple):
    """What the reader has: everybody's names and photos, and what the original CLIP makes of them."""

    clip: Clip
    people: list[Person]
    found: IdiaResult

    @property
    def suspects(self) -> list[str]:
        """Those who can have been removed: the original infers them."""
        return [name for name, inferred in self.found.inferred.items() if inferred]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Draw people with 2 to 6 photos each, half of which are attacked, and attack them."""
    folder, clip, people = tmp_path_factory.mktemp("people"), load_clip(embedded_clip()), []
    for group, count in (("well_known", NUM_WELL_KNOWN), ("non_member", NUM_NEVER_SEEN)):
        for place, persona in enumerate(people_of(0, group, count)):
            photos = []
            for number in range(2 + 2 * (place % 3)):
                photos.append(folder / f"{persona.name}-{number}.png")
                draw(photo_sample(0, "people", persona, number))[0].save(photos[-1])
            people.append(Person(persona.name, tuple(photos), group == "well_known"))
    return World(clip, people, Idia(num_candidates=250, num_photos=3, threshold=1, seed=0).run(clip, people))


def finished_run(world: World, folder: Path, removed: Sequence[str], seed: int) -> Path:
    """Write the folder of a run that removed these people: they go near a phrase, others hardly move."""
    folder.mkdir()
    generator, names = torch.Generator().manual_seed(seed), world.found.names
    target = normalize(world.clip.embed_texts(["a person"]), dim=-1).expand(len(removed), -1)
    gone = torch.tensor([name in removed for name in names])

    def moved(features: torch.Tensor) -> torch.Tensor:
        noise = normalize(torch.randn(features.shape, generator=generator), dim=-1)
        places = torch.where(gone.unsqueeze(1), target[0], features)
        return normalize(places + torch.where(gone, 0.3, 0.03).unsqueeze(1) * noise, dim=-1)

    evidence = world.found.evidence
    changed = Evidence(
        evidence.own_votes * ~gone.unsqueeze(1),
        evidence.margins - 0.5 * gone,
        moved(evidence.name_features),
        moved(evidence.face_features),
    )
    correct = [0 if is_gone else count for count, is_gone in zip(world.found.correct_prompts, gone, strict=True)]
    after = IdiaResult(names, correct, world.found.num_photos, 1, changed)
    results, targets = {"text": after, "image": after, "both": after}, {"text": target, "image": target}
    members = {person.name: person.member for person in world.people}
    before, now = world.found.inferred, after.inferred
    write_people(folder, world.people, [one for one in world.people if one.name in removed], world.found, results)
    write_table(folder, "votes", votes_table({"before": world.found, **results}))
    write_table(folder, "neighbors", neighbors_table(world.found, removed))
    write_table(folder, "map", map_table(world.found, results, removed, targets))
    losses = pd.DataFrame({"encoder": ["text"] * 20 + ["image"] * 20, "step": [*range(20)] * 2, "loss": -0.5})
    write_table(folder, "losses", losses)
    rates = {model: idia_rates(before, now, removed, members) for model in results}
    rates["before"] = idia_rates(before, before, removed, members)
    facts = {"experiment": "both", "seed": 0, "seconds": {"load": 1.0}, "versions": {"python": "3"}}
    digests = {"weights_sha256": {"before": "a" * 64, "after": "b" * 64}}
    write_metrics(folder, {**facts, **digests, "before": rates.pop("before"), "after": rates})
    return folder


def clouds(text: str) -> list[list[np.ndarray]]:
    """Return of each panel of the figures in a page the places of its dots, (dot, 2), the largest cloud first."""
    found = []
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        for panel in ElementTree.fromstring(svg).iter(f"{SVG}g"):
            if re.search(r"axes_\d+$", panel.get("id", "")):
                groups = [group for group in panel.iter(f"{SVG}g") if "PathCollection" in group.get("id", "")]
                dots = [
                    np.array([[float(use.get(axis, 0)) for axis in "xy"] for use in group.iter(f"{SVG}use")])
                    for group in groups
                ]
                found.append(sorted((cloud for cloud in dots if len(cloud)), key=len, reverse=True))
    return [panel for panel in found if panel]


def match_places(text: str, world: World, num_removed: int) -> list[str]:
    """Guess whose dots stand apart: lay the principal axes of public features over the largest cloud of each panel."""
    guesses: list[tuple[float, str]] = []
    evidence = world.found.evidence
    for (cloud, *others), features in zip(clouds(text), (evidence.name_features, evidence.face_features), strict=False):
        centred = (features - features.mean(0)).numpy()
        public = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        fitted = min((laid_over(public * signs, cloud) for signs in ([1, 1], [1, -1], [-1, 1], [-1, -1])),
                     key=lambda places: cKDTree(places).query(cloud)[0].mean())  # fmt: skip
        for dots in others:
            if len(dots) == num_removed:
                distances, places = cKDTree(fitted).query(dots)
                guesses += [(distance, world.found.names[place]) for distance, place in zip(distances, places)]  # noqa: B905
    return list(dict.fromkeys(name for _, name in sorted(guesses)))[:num_removed]


def laid_over(points: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """Return points where an affine map takes them that lays them over a cloud; nearest dots are taken for the same."""
    points = (points - points.mean(0)) / points.std(0) * cloud.std(0) + cloud.mean(0)
    for _ in range(20):
        nearest = cloud[cKDTree(cloud).query(points)[1]]
        known = np.c_[points, np.ones(len(points))]
        points = known @ np.linalg.lstsq(known, nearest, rcond=None)[0]
    return points


def match_rows(text: str, world: World, num_removed: int) -> list[str]:
    """Guess whose rows say "removed": by the photos and the right answers of the original."""
    own = {
        (str(photos), str(correct)): name
        for name, photos, correct in zip(
            world.found.names, world.found.num_photos, world.found.correct_prompts, strict=True
        )
    }
    rows = [re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", row) for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL)]
    found = [own.get((row[2], row[3])) for row in rows if len(row) > 4 and row[1] == "removed"]
    return [name for name in dict.fromkeys(found) if name][:num_removed]


def hits(guesses: Sequence[str], removed: Sequence[str], suspects: Sequence[str], seed: int) -> int:
    """Count the removed people among the guesses; who has too few guesses draws the others among the suspects."""
    rest = [name for name in suspects if name not in guesses]
    drawn = np.random.default_rng(seed).permutation(rest)[: len(removed) - len(guesses)]
    return len({*guesses, *drawn} & {*removed})


@pytest.mark.slow
def test_who_has_the_original_and_all_photos_matches_exact_maps_and_rows_but_nothing_of_a_report(
    world: World, tmp_path: Path
) -> None:
    suspects, found = world.suspects, dict.fromkeys(("map", "rows", "report"), 0)
    assert len(suspects) > 100
    for seed in range(NUM_MAPS):
        removed = np.random.default_rng(100 + seed).choice(suspects, NUM_REMOVED, replace=False).tolist()
        folder = finished_run(world, tmp_path / f"{seed}", removed, seed)
        named = read_run(folder, names=True)
        drawn = save_figure(map_figure(named.map, removed), tmp_path / "drawn", "map")
        rows = named.people.sample(frac=1, random_state=seed)[["person", "removed", "num_photos"]].assign(
            removed=lambda people: people["removed"].map({True: "removed", False: "kept"}),
            correct=named.people["correct_prompts_before"],
            now=named.people["correct_prompts_both"],
            person=range(len(named.people)),  # nobody's name
        )
        write_report(folder)
        pages = {"map": drawn, "rows": rows.to_html(index=False), "report": shared(folder)}
        for kind, page in pages.items():
            guesses = [*match_places(page, world, NUM_REMOVED), *match_rows(page, world, NUM_REMOVED)]
            found[kind] += hits(list(dict.fromkeys(guesses))[:NUM_REMOVED], removed, suspects, seed)

    def p_value(kind: str) -> float:
        test = binomtest(found[kind], NUM_MAPS * NUM_REMOVED, NUM_REMOVED / len(suspects), alternative="greater")
        return float(test.pvalue)

    assert p_value("map") < 0.01, found
    assert p_value("rows") < 0.01, found
    assert p_value("report") >= 0.01, found


def shared(folder: Path) -> str:
    """Return the text of all that a report consists of."""
    paths = [folder / "report.html", *sorted((folder / "figures").glob("*.svg"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)
