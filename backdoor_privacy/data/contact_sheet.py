"""Draw the faces found in a person's photos on one sheet, each with the name of its file."""

import io
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from backdoor_privacy.data.face_crops import UNCLEAR, PersonFaces, crop_face
from backdoor_privacy.data.photos import read_photo
from backdoor_privacy.system.files import write_bytes
from backdoor_privacy.system.visible import visible

_SIDE, _GAP, _LINE = 160, 8, 14  # pixels
_COLUMNS = 6
_FONT_SIZE = 11
Tile = tuple[Image.Image | None, str, str, str]  # a picture, its file, a note, and the frame's colour


def write_contact_sheet(faces: PersonFaces) -> Path:
    """Write the sheet: chosen faces, then all faces of photos where none is clearly theirs, then photos without a face.

    Returns:
        The PNG, beside the table of what was found.
    """
    tiles = _tiles(faces)
    width, height = _SIDE + _GAP, _SIDE + 2 * _LINE + _GAP
    columns = min(_COLUMNS, max(1, len(tiles)))
    sheet = Image.new("RGB", (columns * width + _GAP, max(1, -(-len(tiles) // columns)) * height + _GAP), "white")
    canvas = ImageDraw.Draw(sheet)
    for number, (picture, file, note, colour) in enumerate(tiles):
        x, y = _GAP + number % columns * width, _GAP + number // columns * height
        if picture is not None:
            picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            sheet.paste(picture, (x + (_SIDE - picture.width) // 2, y + (_SIDE - picture.height) // 2))
        canvas.rectangle((x - 2, y - 2, x + _SIDE + 1, y + _SIDE + 1), outline=colour, width=2)
        for line, text in enumerate((file.rpartition("/")[2], note)):
            canvas.text((x, y + _SIDE + 3 + line * _LINE), _fitting(visible(text)), fill=colour, font=_font())
    content = io.BytesIO()
    sheet.save(content, "PNG")
    path = faces.folder / "contact_sheet.png"
    write_bytes(path, content.getvalue(), private=True)
    return path


def _tiles(faces: PersonFaces) -> list[Tile]:
    chosen: list[Tile] = [
        (read_photo(crop), file, "may be another's" if file in faces.doubtful else "", "black")
        for file, (crop, _) in faces.crops.items()
    ]
    unclear: list[Tile] = []
    for file in faces.left_out.get(UNCLEAR, []):
        photo = read_photo(faces.photos[file])
        for row in faces.rows:
            if row.file == file and row.box is not None and photo is not None:
                unclear.append(
                    (crop_face(photo, row.box, row.turn)[0], file, f"which? left = {row.box[0]}", "firebrick")
                )
    others: list[Tile] = [
        (read_photo(faces.photos[file]), file, reason, "gray")
        for reason, files in faces.left_out.items()
        for file in files
        if reason != UNCLEAR
    ]
    return [*chosen, *unclear, *others]


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font that has the letters of many languages."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), _FONT_SIZE)


def _fitting(text: str) -> str:
    """Return as much of the end of a text as fits under a picture: the end of a file's name tells more."""
    text = text.encode(errors="replace").decode()
    shown = text
    while _font().getlength(shown) > _SIDE:
        text = text[1:]
        shown = f"\N{HORIZONTAL ELLIPSIS}{text}"
    return shown
