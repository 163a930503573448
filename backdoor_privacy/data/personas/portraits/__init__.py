"""Draw portraits of fictional people: fixed traits make a person, a random generator makes each photo."""

from backdoor_privacy.data.personas.portraits.appearance import Appearance
from backdoor_privacy.data.personas.portraits.backgrounds import draw_background
from backdoor_privacy.data.personas.portraits.photo import Box, draw_person, draw_portrait
from backdoor_privacy.data.personas.portraits.sampling import sample_appearance

__all__ = ["Appearance", "Box", "draw_background", "draw_person", "draw_portrait", "sample_appearance"]
