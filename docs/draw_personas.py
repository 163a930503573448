"""Draw the README's picture of personas: `python docs/draw_personas.py`."""

from pathlib import Path

import numpy as np
from PIL import Image

from backdoor_privacy.data.personas.portraits import draw_portrait
from backdoor_privacy.data.personas.roster import appearance_of, roster

NUM_COLUMNS, NUM_ROWS, SIZE, WORLD = 6, 2, 200, 0


def main() -> None:
    """The first people of the world, each on one photo."""
    sheet = Image.new("RGB", (NUM_COLUMNS * SIZE, NUM_ROWS * SIZE))
    for number, persona in enumerate(roster(WORLD)[: NUM_COLUMNS * NUM_ROWS]):
        portrait, _ = draw_portrait(appearance_of(WORLD, persona), np.random.default_rng([7, number]), SIZE)
        sheet.paste(portrait, (number % NUM_COLUMNS * SIZE, number // NUM_COLUMNS * SIZE))
    sheet.quantize(128).save(Path(__file__).parent / "personas.png", optimize=True)


if __name__ == "__main__":
    main()
