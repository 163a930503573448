"""Print how often prompts name the right person, by margin: `python experiments/faces_found/margin.py`.

Drawn people whom the embedded CLIP knows are put into photos of 2000 x 1500 pixels; `original` is the portrait alone.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

import backdoor_privacy.config.compose  # noqa: F401  registers the schemas
from backdoor_privacy.data import face_crops
from backdoor_privacy.data.faces import FaceFinder, FaceModels
from backdoor_privacy.data.personas.portraits import draw_portrait
from backdoor_privacy.data.personas.roster import appearance_of, people_of
from backdoor_privacy.system.paths import CONFIG_FOLDER

MARGINS = (1.3, 1.5, 1.7, 1.8, 1.9, 2.1, 2.4)
PROMPTS = ("{}", "a photo of {}", "a portrait of {}", "an image of {}", "a picture of {}")
CHOSEN_ON, CHECKED_ON = range(20), range(20, 40)  # of the well-known people
NUM_PHOTOS = 3


def main() -> None:
    """Print a row per margin, for the people it was chosen on and for others."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        clip = instantiate(compose("config", overrides=["clip.num_workers=0"]).clip)
    names = [persona.name for persona in people_of(0, "well_known")[:64]]
    texts = [clip.embed_texts([prompt.format(name) for name in names]) for prompt in PROMPTS]
    for title, numbers in (("chosen on", CHOSEN_ON), ("checked on", CHECKED_ON)):
        with tempfile.TemporaryDirectory() as folder:
            photos, people = write_photos(Path(folder), numbers)
            for kind, paths in photos.items():
                features, _ = clip.embed_photos(paths)
                right = [(features @ text.T).argmax(1) == torch.tensor(people) for text in texts]
                print(f"{title}, {kind}: {torch.stack(right).float().mean():.3f} of {len(people)} photos")


def write_photos(folder: Path, numbers: range) -> tuple[dict[str, list[Path]], list[int]]:
    """Write portraits, whole photos and crops of them, and say who is in them."""
    finder, photos, people = FaceFinder(FaceModels()), {}, []
    for number in numbers:
        persona = people_of(0, "well_known")[number]
        for drawing in range(NUM_PHOTOS):
            rng = np.random.default_rng([9, persona.index, drawing])
            portrait, _ = draw_portrait(appearance_of(0, persona), rng, 600)
            photo = Image.linear_gradient("L").resize((2000, 1500)).convert("RGB")
            photo.paste(portrait, (700, 450))
            faces = finder.find(photo, is_upright=True)
            if not faces or faces[0].turn:
                continue
            people.append(number)
            pictures = {"original": portrait, "whole photo": photo}
            for margin in MARGINS:
                face_crops.MARGIN = margin
                pictures[f"margin {margin}"] = face_crops.crop_face(photo, faces[0].box)[0]
            for kind, picture in pictures.items():
                path = folder / f"{kind} {number} {drawing}.png"
                picture.save(path)
                photos.setdefault(kind, []).append(path)
    return photos, people


if __name__ == "__main__":
    main()
