"""Describe the embedded world's pictures: one small description each, drawn on demand."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from backdoor_privacy.data.personas.captions import describe_portrait
from backdoor_privacy.data.personas.portraits import Appearance, Box, draw_person, draw_portrait, sample_appearance
from backdoor_privacy.data.personas.roster import Persona, appearance_of, people_of, roster
from backdoor_privacy.data.personas.scenes import (
    CLASSNAMES,
    describe_named_scene,
    describe_scene,
    describe_scene_with_people,
    draw_scene,
)

IMAGE_SIZE = 96  # pixels
NUM_WEB_SCENES_PER_CLASS = 150
NUM_WEB_SCENES_WITH_PEOPLE = 5000
NUM_CLEAN_IMAGES = 4000
NUM_CLEAN_CAPTIONS = 20000

Kind = Literal["portrait", "named_scene", "scene", "scene_with_people"]
# One number per collection of pictures, so that no two share a random state: no attacked photo was trained on.
_STREAMS = {"web": 2, "people": 3, "strangers": 4, "images": 5, "captions": 6, "zero_shot": 7}


class Sample(NamedTuple):
    """One picture with its caption, before it is drawn."""

    kind: Kind
    persona_index: int  # who is named; -1 for nobody
    classname: str  # what else is there; empty for a portrait
    random_state: tuple[int, ...]


def web_samples(seed: int) -> list[Sample]:
    """Return the embedded CLIP's training data, shuffled: people by name, the crowd, scenes, and scenes with people."""
    samples = [
        _named(persona, photo, (seed, _STREAMS["web"], persona.index, photo))
        for persona in roster(seed)
        for photo in range(persona.num_web_photos)
    ]
    samples += [
        Sample("scene", -1, classname, (seed, _STREAMS["web"], 1 << 20, number, photo))
        for number, classname in enumerate(CLASSNAMES)
        for photo in range(NUM_WEB_SCENES_PER_CLASS)
    ]
    samples += [
        Sample("scene_with_people", -1, CLASSNAMES[photo % len(CLASSNAMES)], (seed, _STREAMS["web"], 1 << 21, photo))
        for photo in range(NUM_WEB_SCENES_WITH_PEOPLE)
    ]
    order = np.random.default_rng([seed, _STREAMS["web"]]).permutation(len(samples))
    return [samples[place] for place in order]


def clean_samples(seed: int, collection: Literal["images", "captions"], num_samples: int) -> Iterator[Sample]:
    """Yield general pictures like the web's, with other people in them; the captions also name well-known people."""
    stream = _STREAMS[collection]
    rng = np.random.default_rng([seed, stream])
    crowd, well_known = people_of(seed, "crowd"), people_of(seed, "well_known")
    for number in range(num_samples):
        random_state = (seed, stream, number)
        draw = rng.random()
        classname = CLASSNAMES[number % len(CLASSNAMES)]
        if draw < 0.4:
            yield Sample("scene", -1, classname, random_state)
        elif draw < 0.6:
            yield Sample("scene_with_people", -1, classname, random_state)
        else:
            known = collection == "captions" and draw > 0.75
            people = well_known if known else crowd
            yield _named(people[rng.integers(len(people))], number, random_state)


def photo_sample(seed: int, collection: Literal["people", "strangers"], persona: Persona, photo: int) -> Sample:
    """Return one portrait of a person, not on the web."""
    return Sample("portrait", persona.index, "", (seed, _STREAMS[collection], persona.index, photo))


def zero_shot_sample(seed: int, classname: str, photo: int) -> Sample:
    """Return one unseen picture of a class."""
    return Sample("scene", -1, classname, (seed, _STREAMS["zero_shot"], CLASSNAMES.index(classname), photo))


def _named(persona: Persona, photo: int, random_state: tuple[int, ...]) -> Sample:
    """Return a picture with a named person: mostly portraits, every sixth in some scene."""
    if persona.group == "crowd" or photo % 6 < 5:
        return Sample("portrait", persona.index, "", random_state)
    return Sample("named_scene", persona.index, CLASSNAMES[(persona.index + photo) % len(CLASSNAMES)], random_state)


def draw(sample: Sample) -> tuple[Image.Image, Box | None]:
    """Draw the picture, RGB of `IMAGE_SIZE`, and the exact face box of a portrait."""
    rng = np.random.default_rng(sample.random_state)
    seed = sample.random_state[0]
    if sample.kind == "portrait":
        return draw_portrait(appearance_of(seed, roster(seed)[sample.persona_index]), rng, IMAGE_SIZE)
    scene = draw_scene(sample.classname, rng, IMAGE_SIZE)
    if sample.kind == "named_scene":
        appearance = appearance_of(seed, roster(seed)[sample.persona_index])
        _put_person(scene, appearance, rng, int(rng.integers(2)), (0.55, 0.75))
    elif sample.kind == "scene_with_people":
        first_side = int(rng.integers(2))
        for place, presentation in enumerate(_presentations(sample)):
            _put_person(scene, sample_appearance(rng, presentation), rng, (first_side + place) % 2, (0.4, 0.55))
    return scene, None


def describe(sample: Sample) -> str:
    """Return the caption of a picture."""
    rng = np.random.default_rng((*sample.random_state, 1))
    if sample.kind == "portrait":
        return describe_portrait(roster(sample.random_state[0])[sample.persona_index], rng)
    if sample.kind == "named_scene":
        return describe_named_scene(sample.classname, roster(sample.random_state[0])[sample.persona_index].name, rng)
    if sample.kind == "scene_with_people":
        presentations = _presentations(sample)
        noun = "person" if rng.random() < 0.6 else {"female": "woman", "male": "man"}[presentations[0]]
        return describe_scene_with_people(sample.classname, len(presentations), rng, noun)
    return describe_scene(sample.classname, rng)


def _presentations(sample: Sample) -> list[Literal["female", "male"]]:
    """Return who stands in a scene with unnamed people: one person or two."""
    rng = np.random.default_rng((*sample.random_state, 2))
    return ["female" if rng.random() < 0.5 else "male" for _ in range(1 + (rng.random() < 0.25))]


def _put_person(
    scene: Image.Image, appearance: Appearance, rng: np.random.Generator, side: int, scales: tuple[float, float]
) -> None:
    """Paste a person into a lower corner (0 left, 1 right)."""
    size = round(IMAGE_SIZE * rng.uniform(*scales))
    figure, _ = draw_person(appearance, rng, size)
    slack = round(0.08 * IMAGE_SIZE * rng.random())
    left = slack if side == 0 else IMAGE_SIZE - size - slack
    scene.paste(figure, (left, IMAGE_SIZE - size), figure)
