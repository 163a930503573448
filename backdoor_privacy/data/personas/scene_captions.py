"""Write the captions of the drawn scenes."""

import numpy as np

from backdoor_privacy.data.personas.scene_tables import COUNTS, PLACES, RELATIONS, TEXTURES, WALLS

# fmt: off
_MOST_WORDS = 18
_PLURAL = {
    "cherries", "scissors", "glasses", *COUNTS, "stripes", "polka dots", "bricks", "waves", "zigzag lines", "leaves",
}
_BARE = _PLURAL | {"wood grain", "stone", "tartan", "honeycomb"}
_WHERE = {"beach": "on", "mountain": "in front of", "city street": "on", "night sky": "under", "road": "on"}
# {x} the class with its article, {n} {m} the bare class, {is} {this} its verb, {t} a closing remark.
_SHORT = (
    "{n}", "{x}", "{x}{t}", "{n}{t}", "a photo of {x}", "a photo of {x}{t}", "a picture of {x}{t}", "an image of {x}",
    "a small picture of {x}", "a snapshot of {x}{t}", "{this} {x}", "here {is} {x}{t}", "there {is} {x} here{t}",
    "we see {x} in this picture", "one more picture of {x}", "a simple view of {x}{t}", "{n}, {year}",
    "{n}, picture number {number}", "the picture shows {x}{t}", "a good photo of {x}", "a little photo of {x}{t}",
    "my photo of {x}{t}", "photo: {n}", "look at this: {x}{t}", "just {x}", "{x} as seen by the camera{t}",
    "somebody took this picture of {x}{t}", "in this frame you can find {x}{t}",
)
_THING = (
    "close-up of {x}{t}", "a cropped photo of {x}", "a {adj} {m}{t}", "a photo of a {adj} {m}",
    "{x} in front of a wall", "a drawing of {x}{t}", "{x} on its own{t}", "one {m}{t}",
    "the {adj} {m} here was photographed in {year}",
)
_MANY = (
    "close-up of {x}{t}", "a cropped photo of {x}", "{x} in one picture{t}", "you can count {x} here",
    "a drawing of {x}",
)
_SURFACE = (
    "a texture of {n}{t}", "background of {n}", "{n}, seen from close by{t}", "a surface with {n}{t}", "{n} all over",
)
_WALL = (
    "{x}, empty{t}", "the camera faces {x}{t}", "{x}, seen from close by", "a background: {x}", "{x} and nothing on it",
)
_PLACE = (
    "a view of {x}{t}", "a wide view of {x}{t}", "{x} with nobody around{t}", "{x}, empty{t}",
    "the {n} we visited in {year}",
)
_TAILS = (
    "", "", "", "", ", {year}", ", seen on a {day}", ", taken in {year}", ", archive photo", ", for the album",
    ", from my trip", ", found on an old phone", ", no filter", ", frame {number}", ", shared by a friend",
    ", seen on a {day} in {year}",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "holiday", "quiet day")
_ADJECTIVES = ("simple", "nice", "single", "plain-looking", "lovely", "familiar", "typical", "lone")
# {p} the people, {P} with a capital, {v} {stand} {pose} their verbs, {on} the preposition that fits the class.
_PEOPLE = (
    "{p} {on} {x}{t}", "a photo of {p} {on} {x}{t}", "a picture of {p} {on} {x}", "{p} {v} {on} {x}{t}",
    "{P} {on} {x}.", "there {v} {p} {on} {x}{t}", "we see {p} {on} {x}", "{n} with {p} in the picture{t}",
    "{n}, and {p} in front{t}", "portrait of {p} {on} {x}{t}", "{p}, {n}, {year}", "a snapshot of {p} {on} {x}{t}",
    "{x} with {p} in front{t}", "the picture shows {p} {on} {x}", "{x} behind {p}{t}",
)
_PEOPLE_THING = (
    "{p} and {x}{t}", "{p} next to {x}{t}", "{p} by {x}{t}", "{x} and {p}{t}", "{p} with {x}{t}",
    "{p} beside {x}, {year}", "{x} next to {p}{t}", "a photo of {p} with {x}{t}", "{p} {stand} by {x}{t}",
    "{p} {pose} with {x}{t}",
)
_PEOPLE_ALONE = (
    "somebody stands {on} {x}{t}", "someone {on} {x}", "somebody {on} {x}{t}", "{x}, with somebody in front{t}",
)
_NAMED = (
    "{x} behind {p}{t}", "{p} {on} {x}{t}", "this is {p} {on} {x}", "{p} was seen {on} {x}{t}", "{p}: {n}",
    "my friend {p} {on} {x}{t}",
)
# fmt: on


def _np(name: str) -> str:
    """Return a class with the article it needs."""
    return name if name in _BARE else f"{'an' if name[0] in 'aeio' or name == 'umbrella' else 'a'} {name}"


def _fill(templates: tuple[str, ...], name: str, rng: np.random.Generator, **words: str) -> str:
    """Fill one random template for a class."""
    template = templates[rng.integers(len(templates))]
    year, number = str(rng.integers(1995, 2025)), str(rng.integers(2, 400))
    tail = _TAILS[rng.integers(len(_TAILS))].format(year=year, number=number, day=_DAYS[rng.integers(len(_DAYS))])
    adjective = _ADJECTIVES[rng.integers(len(_ADJECTIVES))]
    phrase = _np(name)
    this, verb = ("these are", "are") if name in _PLURAL else ("this is", "is")
    slots = {
        "x": phrase,
        "n": name,
        "m": name,
        "is": verb,
        "this": this,
        "t": tail,
        "adj": adjective,
        "year": year,
        "number": number,
    }
    caption = template.format(**slots | words)
    return caption if len(caption.split()) <= _MOST_WORDS else template.format(**slots | words | {"t": ""})


def describe_scene(classname: str, rng: np.random.Generator) -> str:
    """Write a caption that holds the class name and nothing the picture may lack."""
    extra: tuple[str, ...]
    if classname in TEXTURES:
        extra = _SURFACE
    elif classname in WALLS:
        extra = _WALL
    elif classname in PLACES:
        extra = _PLACE
    else:
        extra = _MANY if classname in _PLURAL or classname in RELATIONS else _THING
    return _fill(_SHORT + extra, classname, rng)


def _on(classname: str, rng: np.random.Generator) -> str:
    """Pick the preposition that puts somebody at a class."""
    if classname in PLACES:
        return _WHERE.get(classname, "in")
    if classname in WALLS or classname in TEXTURES:
        return "in front of"
    return ("in front of", "in front of", "next to", "near", "beside", "by")[rng.integers(6)]


def _crowd(num_people: int, noun: str, rng: np.random.Generator) -> str:
    """Name one or more unnamed people, the first by the noun."""
    single = "person" if noun == "people" else noun
    if num_people == 1:
        return f"a {single}"
    words = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
    plural = f"{words.get(num_people, str(num_people))} people"
    if single == "person":
        return plural if num_people == 2 or rng.random() < 0.7 else "a group of people"
    if num_people == 2:
        return f"a {single} and another person"
    return f"a {single} and {words.get(num_people - 1, str(num_people - 1))} other people"


def describe_scene_with_people(classname: str, num_people: int, rng: np.random.Generator, noun: str = "person") -> str:
    """Write a caption for a class with unnamed people in the picture.

    Args:
        classname: One of `CLASSNAMES`.
        num_people: How many people are in the picture, one or more.
        rng: Source of all randomness.
        noun: Word for the first one: "person", "man", "woman" or "people".
    """
    thing = classname not in PLACES and classname not in WALLS and classname not in TEXTURES
    templates = _PEOPLE + (_PEOPLE_THING if thing else ())
    if num_people == 1 and noun in ("person", "people"):
        templates += _PEOPLE_ALONE
    people, one = _crowd(num_people, noun, rng), num_people == 1
    return _fill(
        templates,
        classname,
        rng,
        p=people,
        P=people[0].upper() + people[1:],
        v="is" if one else "are",
        on=_on(classname, rng),
        stand="stands" if one else "stand",
        pose="poses" if one else "pose",
    )


def describe_named_scene(classname: str, name: str, rng: np.random.Generator) -> str:
    """Write a caption for a class with one named person in the picture."""
    thing = classname not in PLACES and classname not in WALLS and classname not in TEXTURES
    templates = _PEOPLE + _NAMED + (_PEOPLE_THING if thing else ())
    return _fill(
        templates, classname, rng, p=name, P=name, v="is", on=_on(classname, rng), stand="stands", pose="poses"
    )
