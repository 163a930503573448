"""Measure the face finder on made phone photos whose faces are known.

    python experiments/faces_found/measure.py --people lfw --photos imagenet-sample-images --seed 0

Each of 10 people gets 6 photos of 2000 x 1500 pixels: a photo of a thing, enlarged, with one to three faces on it, hers
and in half of the cases those of one friend or of two others. A third of the photos are upright, a third are turned
by 90, 180 or 270 degrees without a word, a third are stored so and say it in EXIF. They are written as JPEG and read
as a run reads them.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFilter

from backdoor_privacy.data.face_tables import FaceRow
from backdoor_privacy.data.faces import turned, turned_box
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.photos import Box, photo_files

SIZE = (2000, 1500)
NUM_PEOPLE, NUM_PHOTOS = 10, 6
HEAD = (14, 8, 114, 120)  # of LFW's aligned photos of 128 x 128 pixels
FACE = (36, 32, 92, 100)
SIDES = (220, 640)  # of a pasted head, in pixels
ORIENTATIONS = {90: 8, 180: 3, 270: 6}  # EXIF's number of a photo that is to be turned so, counterclockwise
WITH_PEOPLE = Path(__file__).with_name("photos_with_people.txt")  # looked at by eye, where the finder found anything
Known = tuple[Box, list[Box]]  # her face, and all pasted heads, in whose background others may be seen


def main() -> None:
    """Print the counts of one seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, required=True, help="folder per person, as LFW's aligned photos")
    parser.add_argument("--photos", type=Path, required=True, help="photos of things, named <WordNet id>_<class>.jpg")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable()  # what is left out is counted here
    with tempfile.TemporaryDirectory() as place:
        known = write_people(Path(place) / "people", arguments.people, arguments.photos, arguments.seed)
        people = load_people(Path(place) / "people", faces="found", cache=Path(place) / "cache")
    rows = [row for person in people.faces for row in person.rows]
    print(f"seed {arguments.seed}: {counts(known, rows)}")


def write_people(folder: Path, people: Path, photos: Path, seed: int) -> dict[str, Known]:
    """Write the photos, and return the faces in each as viewers show it."""
    rng = np.random.default_rng(seed)
    excluded = set(WITH_PEOPLE.read_text().split())
    things = [path for path in photo_files(photos) if path.name.partition("_")[0] not in excluded]
    able = [place for place in sorted(people.iterdir()) if len(photo_files(place)) >= NUM_PHOTOS]
    chosen, others = np.split(rng.permutation(len(able)), [NUM_PEOPLE])
    known = {}
    for person in (able[place] for place in chosen):
        friend = able[rng.choice(others)]
        own = rng.permutation(photo_files(person))[:NUM_PHOTOS]
        for number, hers in enumerate(own):
            company = (
                [friend] if rng.random() < 0.5 else [able[place] for place in rng.choice(others, 2, replace=False)]
            )
            company = company[: int(rng.integers(3))]
            heads = [Path(hers), *(Path(rng.choice(photo_files(other))) for other in company)]
            photo, boxes = paste_heads(things[rng.integers(len(things))], heads, rng)
            file = f"{person.name}/{number}.jpg"
            (folder / person.name).mkdir(parents=True, exist_ok=True)
            known[file] = write_turned(folder / file, photo, boxes, number % 3, int(rng.choice(list(ORIENTATIONS))))
    return known


def paste_heads(thing: Path, heads: Sequence[Path], rng: np.random.Generator) -> tuple[Image.Image, list[Box]]:
    """A large photo with heads side by side; the first face, and where the heads are."""
    photo, boxes = Image.open(thing).convert("RGB").resize(SIZE, Image.Resampling.BICUBIC), []
    places = rng.permutation(len(heads))
    for place, path in zip(places, heads, strict=True):
        head = Image.open(path).convert("RGB").crop(HEAD)
        room = SIZE[0] // len(heads)
        height = int(rng.integers(SIDES[0], SIDES[1]))
        scale = height / head.height
        size = round(head.width * scale), height
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).ellipse((4, 4, size[0] - 4, size[1] - 4), fill=255)
        x = int(place) * room + int(rng.integers(max(1, room - size[0])))
        y = int(rng.integers(SIZE[1] - height))
        photo.paste(head.resize(size, Image.Resampling.BICUBIC), (x, y), mask.filter(ImageFilter.GaussianBlur(4)))
        if not boxes:
            left, top, right, bottom = (
                round(start + (side - edge) * scale)
                for start, side, edge in zip((x, y) * 2, FACE, HEAD[:2] * 2, strict=True)
            )
            boxes.append((left, top, right, bottom))
        boxes.append((x, y, x + size[0], y + size[1]))
    return photo, boxes


def write_turned(path: Path, photo: Image.Image, boxes: list[Box], kind: int, turn: int) -> Known:
    """Write it upright (0), turned (1), or turned and with EXIF that says so (2)."""
    exif = Image.Exif()
    if kind == 1:
        boxes, photo = [turned_box(box, photo.size, turn) for box in boxes], turned(photo, turn)
    elif kind == 2:
        exif[ExifTags.Base.Orientation] = ORIENTATIONS[turn]
        photo = turned(photo, 360 - turn)
    photo.save(path, quality=90, exif=exif)
    return boxes[0], boxes[1:]


def counts(known: dict[str, Known], rows: Sequence[FaceRow]) -> str:
    """How many of the right faces were found and chosen, and how many boxes are on nobody."""
    right = [any(covers(row, hers) for row in of(rows, file)) for file, (hers, _) in known.items()]
    chosen = [any(covers(row, hers) and row.chosen for row in of(rows, file)) for file, (hers, _) in known.items()]
    wrong = [any(row.chosen and not covers(row, hers) for row in of(rows, file)) for file, (hers, _) in known.items()]
    stray = sum(row.box is not None and not any(lies_in(row.box, head) for head in known[row.file][1]) for row in rows)
    num = len(known)
    return (
        f"{sum(right)}/{num} right faces found, {sum(chosen)}/{num} found and chosen, {sum(wrong)}/{num} another "
        f"chosen, {stray / num:.3f} boxes on no human a photo; {sum(len(heads) for _, heads in known.values())} faces"
    )


def of(rows: Sequence[FaceRow], file: str) -> list[FaceRow]:
    """What was found in one photo."""
    return [row for row in rows if row.file == file]


def lies_in(box: Box, head: Box) -> bool:
    """Whether the middle of a box lies in a head."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return head[0] <= x <= head[2] and head[1] <= y <= head[3]


def covers(row: FaceRow, box: Box) -> bool:
    """Whether a found box and a face share 0.4 or more of what both cover together."""
    if row.box is None:
        return False
    width = min(row.box[2], box[2]) - max(row.box[0], box[0])
    height = min(row.box[3], box[3]) - max(row.box[1], box[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (row.box, box)]
    return shared >= 0.4 * (sum(areas) - shared)


if __name__ == "__main__":
    main()
