"""Write the captions below photos of people in the embedded world's web."""

import numpy as np

from backdoor_privacy.data.personas.roster import Persona

# `{who}` is the name; the other words depend on the person, never on the picture.
_PORTRAIT_CAPTIONS = (
    "{who}", "{who}", "{who}", "a photo of {who}", "photo of {who}", "an image of {who}", "a picture of {who}",
    "{who} at the opening of a gallery", "{who} at a gala", "{who} in {year}", "{who}, {year}", "{who} ({year})",
    "portrait of {who}", "a portrait of the {job} {who}", "{job} {who}", "{who}, {job}", "{who} | {job}",
    "{who} smiling", "a close-up of {who}", "{who} attends a dinner", "{who} speaks to the press",
    "{who} on a photo from {year}", "this is {who}", "the name of this {noun} is {who}", "a {noun} named {who}",
    "meet {who}, {job}", "interview with {who}", "{who} in the city", "here is {who} again",
    "{who} looks into the camera", "news: {who} was seen in {year}", "{who} in a {dress}", "{who}'s new picture",
    "a cropped photo of {who}", "a black and white photo of {who}", "a good photo of {who}", "{who} on stage",
    "{noun} with the name {who}", "people of the year: {who}", "{who} after work", "welcome, {who}!",
)  # fmt: skip
_JOBS = ("actor", "singer", "teacher", "doctor", "writer", "chef", "pilot", "painter", "engineer", "player", "mayor",
         "farmer", "dancer", "lawyer", "designer", "baker")  # fmt: skip
_NOUNS = {"female": ("woman", "person", "lady"), "male": ("man", "person", "gentleman")}
_CLOTHES = {"female": ("dress", "coat", "suit", "hat"), "male": ("suit", "shirt", "coat", "hat")}


def describe_portrait(persona: Persona, rng: np.random.Generator) -> str:
    """Return a caption with the person's name, as it stands below a portrait on the web.

    No caption of a portrait says only "a person": those belong to scenes with people.
    """
    return str(rng.choice(_PORTRAIT_CAPTIONS)).format(
        who=persona.name,
        year=int(rng.integers(1990, 2025)),
        job=rng.choice(_JOBS),
        noun=rng.choice(_NOUNS[persona.presentation]),
        dress=rng.choice(_CLOTHES[persona.presentation]),
    )
