"""Give tables and lists of captions, people and faces, in all formats that programs write."""

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from backdoor_privacy.data.captions import load_captions
from backdoor_privacy.data.people import load_people
from fuzz.cases import UNKNOWN, Case
from fuzz.names import normal
from fuzz.world import write_picture

_CAPTIONS = (
    "a dog on a beach", "two trams, one red", 'the "best" cake', '"the big house on a hill', "ein Bär im Wald",
    "山の上の犬", "it's old",
    "5 cups; 3 spoons", "a | b", "emoji 🦊 here", "=SUM(A1) on a wall", "-5 degrees outside", "null and void",
    "NaN bread", "x " * 150 + "end",
    "a dog (brown)", "comma, at the end,", "# a hash in front", "\u00a0hard spaces\u00a0here", "[sic] a sign",
    "{curly} a sign", "true story",
)  # fmt: skip
_PEOPLE = (
    "Ann Lee",
    "Bob Ray",
    "Zoë O'Hara",
    "J. R. Smith",
    "李 小明",
    "Doe, Jane",
    'Ed "Ed" Ray',
    "Null",
    "True Story",
    "-Eve",
    "=Eve",
)
_ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32")
_KEYS = ("captions.", "people.", "boxes", "table")


def make(folder: Path, rng: random.Random) -> Case:
    """Write a table of captions, of people or of faces, whole or damaged."""
    return rng.choice((_captions, _captions, _captions, _people, _people, _boxes))(folder, rng)


def _flat(caption: str) -> str:
    return " ".join(caption.split())


def _captions(folder: Path, rng: random.Random) -> Case:
    form = rng.choice(list(_FORMS))
    captions = [rng.choice(_CAPTIONS) for _ in range(rng.randint(2, 8))]
    if form in ("txt", "folder", "token", "flickr"):
        captions = [one for one in captions if one[0] not in "[{"] or ["a dog"]
    suffix, content, column, expected = _FORMS[form](captions, rng)
    path = folder / f"mine.{suffix}"
    return _with_damage(
        path, content, rng, lambda: load_captions(path, column), expected, f"captions as {form} {captions}"
    )


def _with_damage(
    path: Path, content: bytes, rng: random.Random, read: Callable[[], Any], expected: Any, title: str
) -> Case:
    way = rng.choice(("whole", "whole", "whole", "cut", "flip", "garbage"))
    if way == "cut":
        content = content[: rng.randrange(len(content))]
    elif way == "flip":
        damaged = bytearray(content)
        for _ in range(rng.choice((1, 3))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        content = bytes(damaged)
    elif way == "garbage":
        content = rng.choice(
            (b"", rng.randbytes(500), b"[" * 10**5, b"\xff\xfe", b"\0" * 500, b"{}", b"\x1b[2J\x07\n", b"a\tb\n")
        )
    path.write_bytes(content)
    is_whole = way == "whole"
    return Case(
        f"{title}, {way}",
        read,
        expected if is_whole else UNKNOWN,
        "read" if is_whole else "either",
        (*_KEYS, path.name),
    )


def _encoded(text: str, rng: random.Random) -> bytes:
    return text.encode(rng.choice(_ENCODINGS))


def _as_text(captions: list[str], rng: random.Random) -> Any:
    lines = [_flat(one) for one in captions]
    end = rng.choice(("\n", "\r\n", "\n\n"))
    return "txt", _encoded(end.join(lines) + end, rng), None, lines


def _as_csv(captions: list[str], rng: random.Random) -> Any:
    text, column = io.StringIO(), rng.choice(("caption", "text", "My Caption"))
    quoting = rng.choice((csv.QUOTE_ALL, csv.QUOTE_MINIMAL))
    writer = csv.writer(text, delimiter=rng.choice(",;\t|"), lineterminator=rng.choice(("\n", "\r\n")), quoting=quoting)
    names = ["id", column, "url"] if rng.random() < 0.7 else [column, "url"]
    writer.writerow(names)
    for number, caption in enumerate(captions):
        row = {"id": number, column: caption, "url": f"http://example.org/{number}.jpg"}
        writer.writerow([row[name] for name in names])
    return "csv", _encoded(text.getvalue(), rng), column, [_flat(one) for one in captions]


def _as_tsv(captions: list[str], rng: random.Random) -> Any:
    """Write tabs and no quotes, as Conceptual Captions does."""
    lines = ["caption\turl", *(f"{_flat(one)}\thttp://example.org/{place}.jpg" for place, one in enumerate(captions))]
    return "tsv", _encoded("\n".join(lines) + "\n", rng), "caption", [_flat(one) for one in captions]


def _as_parquet(captions: list[str], rng: random.Random) -> Any:
    kind = rng.choice(("string", "large", "bytes", "list", "dictionary", "null"))
    column: Any = {
        "string": lambda: pa.array(captions), "large": lambda: pa.array(captions, pa.large_string()),
        "bytes": lambda: pa.array([one.encode() for one in captions]),
        "list": lambda: pa.array([[one] for one in captions]),
        "dictionary": lambda: pa.array(captions).dictionary_encode(), "null": lambda: pa.array([None, *captions]),
    }[kind]()  # fmt: skip
    file = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(column))), "caption": column}), file)
    return "parquet", file.getvalue(), "caption", [_flat(one) for one in captions]


def _as_json(captions: list[str], rng: random.Random) -> Any:
    objects = [{"image_id": place, "caption": one} for place, one in enumerate(captions)]
    content, column = rng.choice(
        (
            (captions, None),
            (objects, "caption"),
            (objects, None),
            ({"images": [], "annotations": objects}, None),
            ({"images": [{"sentences": [{"raw": one}]} for one in captions]}, None),
        )
    )
    text = json.dumps(content, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))
    return "json", _encoded(text, rng), column, [_flat(one) for one in captions]


def _as_json_lines(captions: list[str], rng: random.Random) -> Any:
    lines = [json.dumps({"image": "0.jpg", "caption": one}, ensure_ascii=rng.random() < 0.5) for one in captions]
    suffix = rng.choice(("jsonl", "ndjson", "json", "txt"))
    return suffix, _encoded("\n".join(lines) + rng.choice(("", "\n")), rng), None, [_flat(one) for one in captions]


def _as_token(captions: list[str], rng: random.Random) -> Any:
    lines = [f"{1000 + place}_a.jpg#0\t{_flat(one)}" for place, one in enumerate(captions)]
    return "token", _encoded("\n".join(lines) + "\n", rng), None, [_flat(one) for one in captions]


def _as_flickr(captions: list[str], rng: random.Random) -> Any:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "caption"])
    writer.writerows([f"{1000 + place}_a.jpg", _flat(one)] for place, one in enumerate(captions))
    return "txt", _encoded(text.getvalue(), rng), None, [_flat(one) for one in captions]


_FORMS: dict[str, Callable[[list[str], random.Random], Any]] = {
    "txt": _as_text, "csv": _as_csv, "tsv": _as_tsv, "parquet": _as_parquet, "json": _as_json, "jsonl": _as_json_lines,
    "token": _as_token, "flickr": _as_flickr,
}  # fmt: skip


def _write_people(folder: Path, rng: random.Random) -> list[str]:
    people = rng.sample(_PEOPLE, rng.randint(1, 4))
    for number, name in enumerate(people):
        for photo in range(2):
            write_picture(folder / "people" / name.replace(" ", "_") / f"{photo}.png", number * 2 + photo)
    return people


def _spaced(text: str, rng: random.Random) -> str:
    return rng.choice(("{}", " {}", "{} ", "{}")).format(text)


def _people(folder: Path, rng: random.Random) -> Case:
    people = _write_people(folder, rng)
    facts = {
        name: (rng.choice((True, False, None)), rng.choice((None, 0, 5, 1200)), rng.choice((None, "older", "a, b")))
        for name in people
    }
    header = rng.choice((["name", "member", "num_web_photos", "age"], ["Name", "Member", "Num Web Photos", "age"]))
    text, numbers = io.StringIO(), rng.choice(("{}", "{}.0"))
    writer = csv.writer(text, delimiter=rng.choice(",;\t|"), lineterminator=rng.choice(("\n", "\r\n")))
    writer.writerow([_spaced(one, rng) for one in header])
    for name, (member, number, age) in facts.items():
        yes = {True: rng.choice(("true", "True", "TRUE", "1", "yes")), False: rng.choice(("false", "no", "0", "False"))}
        count = "" if number is None else numbers.format(number)
        writer.writerow(
            [rng.choice((name, name.upper(), name.replace(" ", "_"))), yes.get(member, ""), count, age or ""]
        )
    path = folder / "table.csv"

    def read() -> Any:
        everybody = load_people(folder / "people", table=path).everybody
        return {one.name: (one.member, one.num_web_photos, dict(one.attributes).get("age")) for one in everybody}

    expected = {normal(name): known for name, known in facts.items()}
    return _with_damage(path, _encoded(text.getvalue(), rng), rng, read, expected, f"a table of people {facts}")


def _boxes(folder: Path, rng: random.Random) -> Case:
    people = _write_people(folder, rng)
    files = [f"{name.replace(' ', '_')}/{photo}.png" for name in people for photo in range(2)]
    boxes = {file: (rng.randrange(8), rng.randrange(8), rng.randint(9, 24), rng.randint(9, 20)) for file in files}
    text = io.StringIO()
    writer = csv.writer(text, delimiter=rng.choice(",;\t"), lineterminator="\n")
    writer.writerow(["file", "left", "top", "right", "bottom"])
    for file, box in boxes.items():
        writer.writerow([rng.choice((file, f"./{file}", file.replace("/", "\\"))), *box])
    path = folder / "people" / "boxes.csv"

    def read() -> Any:
        loaded = load_people(folder / "people").boxes
        return {place.relative_to(folder / "people").as_posix(): box for place, box in loaded.items()}

    return _with_damage(path, _encoded(text.getvalue(), rng), rng, read, boxes, f"a table of boxes {boxes}")
