"""Give names of all kinds to everything that reads names: it must find the same person."""

import csv
import io
import json
import random
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from backdoor_privacy.config.command import line_of_hydra
from backdoor_privacy.config.schema import TriggerSet
from backdoor_privacy.data.captions import name_matcher
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.selection import named_people
from backdoor_privacy.runs.finished import code_names
from fuzz.cases import Case
from fuzz.world import write_picture

_SCRIPTS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "àéîõüçñøåžšłđßĐŁİıſ", "李小明王芳張偉漢字",
    "ひらがなカタカナ", "김민수박서준",
    "абвгдежзиклмнопрстуфхцчшщ", "αβγδεζηθικλμνξοπρσς", "אבגדהוזחטיכלמנסעפצקרשת", "ابتثجحخدذرزسشصضطظعغفق",
    "कखगघङचछजझ", "กขคงจฉชซ",
    "0123456789",
)  # fmt: skip
_SIGNS = "'’-.,()[]{}=+@&!#$%^~;:\"`|<>?*\\ʻ·\u200d\u0301\u0308😀🦊🏽"
_CONTROLS = "\x01\x07\x1b\x7f\x85\u200b\u202e\u2066\ufeff\u2028\u00a0\u00ad\t\n\r"
_KNOWN_SYSTEM = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "__pycache__"}


def _name(rng: random.Random) -> str:
    """Return a name of one to four words, some with characters that parsers fail on."""
    if rng.random() < 0.1:
        return rng.choice(_HARD)
    letters = rng.choice(_SCRIPTS)
    name = " ".join("".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(rng.randint(1, 4)))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        place = rng.randint(0, len(name))
        name = name[:place] + rng.choice(_SIGNS) + name[place:]
    if rng.random() < 0.1:
        place = rng.randint(0, len(name))
        name = name[:place] + rng.choice(_CONTROLS) + name[place:]
    return name


_HARD = (
    "null", "true", "None", "NaN", "1e5", "007", "~", "-", "=SUM(A1)", "+49 170", "@cmd", "-Ann Lee",
    "${oc.env:HOME}", "${seed}", "???",
    "a" * 80, "Ann " * 30 + "Lee", "李" * 60, "C:\\Users\\x", "..", ".hidden", "con", "a=b", "Doe, Jane", "[Ann]",
    "{Ann: 1}",
    "Ann Lee #2", "# Ann", "'Ann'", '"Ann"', "Ann \\\" Lee", "Ann\\", "globe (*)", "İstanbul Işık",
    "ﬁ Ligature", "Ｆｕｌｌ Ｗｉｄｔｈ",
    "A\u030aA", "ǅ Case", "ΑΣ ΑΣ", "STRASSE Groß", "𝔄𝔫𝔫 𝔏𝔢𝔢", "\u1100\u1161\u11a8 Jamo", "é́́́ stack",
    "x" * 250, "NULL", "nan", "name", "removed",
)  # fmt: skip


def normal(name: str) -> str:
    """Return a name as the documentation says it is read; this code shares nothing with the package."""
    spaced = "".join(" " if unicodedata.category(one) == "Cc" or one in "_\ufeff" else one for one in name)
    return unicodedata.normalize("NFC", " ".join(spaced.split()))


def same(name: str) -> str:
    """Return the form that all spellings of one person's name have in common."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", normal(name).casefold()))


def spelt(name: str, way: int) -> str:
    """Return another spelling of the same person's name."""
    return (
        name,
        name.replace(" ", "_"),
        unicodedata.normalize("NFD", name),
        name.upper() if same(name.upper()) == same(name) else name,
        f"  {name.replace(' ', '  ')} ",
        unicodedata.normalize("NFC", name.replace(" ", "_")),
    )[way % 6]


def _can_be_folder(name: str) -> bool:
    folder = name.replace(" ", "_")
    return (
        not {"/", "\0"} & set(folder)
        and 0 < len(unicodedata.normalize("NFD", folder).encode()) <= 255
        and not folder.startswith(".")
        and folder not in _KNOWN_SYSTEM
    )


def make(folder: Path, rng: random.Random) -> Case:
    """Draw people and a way to name one of them."""
    drawn = [_name(rng) for _ in range(rng.randint(1, 4))]
    people = list({same(name): name for name in drawn if any(map(str.isalnum, normal(name)))}.values())
    return rng.choice(list(_WAYS.values()))(folder, people or ["Ann Lee"], rng.randrange(6), rng)


def _case(title: str, read: Callable[[], Any], expected: Any, is_valid: bool = True, *blames: str) -> Case:
    return Case(title, read, expected, "read" if is_valid else "either", blames)


def _write_folders(folder: Path, people: Sequence[str]) -> list[str]:
    """Write a folder for each person whose name a folder can have, and return these people."""
    written = [name for name in people if _can_be_folder(name)] or ["Ann Lee"]
    for number, name in enumerate(written):
        write_picture(folder / "people" / name.replace(" ", "_") / "0.png", number)
    return written


def _by_folder(folder: Path, people: list[str], spelling: int, rng: random.Random) -> Case:
    people = _write_folders(folder, people)
    name = rng.choice(people)

    def read() -> Any:
        (person,) = load_people(folder / "people").pick([spelt(name, spelling)])
        return person.name, person.photos[0].parent.name

    expected = normal(name), name.replace(" ", "_")
    return _case(f"folders {people}, picked as {spelt(name, spelling)!r}", read, expected)


def _by_list(folder: Path, people: list[str], spelling: int, rng: random.Random) -> Case:
    name = rng.choice(people)

    def read() -> Any:
        loaded = load_people(names=people)
        return loaded.names, loaded.pick([spelt(name, spelling)])[0].name

    return _case(f"names {people}, {spelt(name, spelling)!r}", read, ([normal(one) for one in people], normal(name)))


def _by_file(folder: Path, people: list[str], spelling: int, rng: random.Random) -> Case:
    people = [name for name in people if _is_line(name)] or ["Ann Lee"]
    _write_folders(folder, people)
    people = [name for name in people if _can_be_folder(name)] or ["Ann Lee"]
    encoding = rng.choice(("utf-8", "utf-8-sig", "utf-16"))
    end = rng.choice(("\n", "\r\n"))
    lines = end.join([spelt(name, spelling) for name in people])
    (folder / "names.txt").write_bytes(f"{lines}{rng.choice(('', end))}".encode(encoding))

    def read() -> Any:
        named = named_people(load_people(folder / "people"), TriggerSet(file=str(folder / "names.txt"))) or ()
        return [person.name for person in named]

    return _case(f"trigger_set.file of {people} in {encoding}", read, [normal(name) for name in people])


def _is_line(name: str) -> bool:
    """Return whether a name can be a line of a file of names, and is not a comment."""
    line = name.strip()
    return len(f"{line}x".splitlines()) == 1 and not line.startswith("#") and line == line.rstrip(",; ").strip('"')


def _by_table(folder: Path, people: list[str], spelling: int, rng: random.Random) -> Case:
    people = _write_folders(folder, people)
    members = {name: rng.choice((True, False, None)) for name in people}
    separator, text = rng.choice(",;\t"), io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=rng.choice(("\n", "\r\n")), quoting=csv.QUOTE_ALL)
    writer.writerow(["name", "member"])
    writer.writerows([spelt(name, spelling), {None: ""}.get(member, member)] for name, member in members.items())
    (folder / "people.csv").write_bytes(text.getvalue().encode(rng.choice(("utf-8", "utf-8-sig", "utf-16"))))

    def read() -> Any:
        everybody = load_people(folder / "people", table=folder / "people.csv").everybody
        return {person.name: person.member for person in everybody}

    return _case(f"a table of {members}", read, {normal(name): member for name, member in members.items()})


def _on_the_command_line(folder: Path, people: list[str], spelling: int, rng: random.Random) -> Case:
    """Name people as documented: each name in quotes within the brackets, as in JSON."""
    people = [name for name in people if not _is_hydras_own(name)] or ["Doe, Jane"]
    text = ",".join(json.dumps(name, ensure_ascii=False) for name in people)

    def read() -> Any:
        (override,) = OverridesParser.create().parse_overrides([f"trigger_set.people=[{text}]"])
        picked = load_people(names=people).pick(override.value())
        return [person.name for person in picked]

    return _case(f"trigger_set.people=[{text}]", read, [normal(name) for name in people])


def _is_hydras_own(name: str) -> bool:
    """Return whether a name holds what Hydra interprets even within quotes, or what JSON escapes."""
    return "${" in name or "\\" in name or any(unicodedata.category(one) == "Cc" for one in name)


def _advised(folder: Path, people: list[str], spelling: int, rng: random.Random) -> Case:
    """Name people without quotes: they must be read, or the error must advise an override that is read."""
    people = [name for name in people if not _is_hydras_own(name) and not set("'\",[]{}") & set(name)]
    people = [name for name in people if any(map(str.isalpha, name)) and name != "1e5"] or ["Ann Lee"]  # else numbers
    override = f"trigger_set.people=[{','.join(people)}]"

    def read() -> Any:
        try:
            (parsed,) = OverridesParser.create().parse_overrides([override])
        except Exception as error:
            line = line_of_hydra(error) or ""
            advised = line.partition("write '")[2].partition("', each")[0].replace("'\\''", "'")
            (parsed,) = OverridesParser.create().parse_overrides([advised])
        chosen = OmegaConf.merge(OmegaConf.structured(TriggerSet), {"people": parsed.value()})
        return [same(name) for name in chosen.people]

    expected = [same(name) for name in people]
    is_plain = all(name.replace(" ", "").isalpha() and name.isascii() for name in people)
    return _case(f"unquoted {override}", read, expected, is_plain and not {*map(str.lower, people)} & {"null", "true"})


def _in_captions(folder: Path, people: list[str], spelling: int, rng: random.Random) -> Case:
    name = rng.choice([one for one in people if normal(one).strip(" _")])
    place = rng.choice(("{} on a beach", "a photo of {}", "a dog, {}, and a cat", "“{}”", "({})"))
    caption = place.format(normal(spelt(name, spelling)))

    def read() -> Any:
        holds = name_matcher([normal(name)])
        return holds(caption), holds("zzqq zzqqx")

    return _case(f"caption {caption!r} with {normal(name)!r}", read, (True, False))


def _hashed(folder: Path, people: list[str], spelling: int, rng: random.Random) -> Case:
    names = [normal(name) for name in people]

    def read() -> Any:
        first, again = code_names(folder / "out", names), code_names(folder / "out", names[::-1])
        return first == again, len(set(first.values())), all(code.isalnum() for code in first.values())

    return _case(f"report codes of {names}", read, (True, len(set(names)), True))


_WAYS: dict[str, Callable[[Path, list[str], int, random.Random], Case]] = {
    "folder": _by_folder,
    "list": _by_list,
    "file": _by_file,
    "table": _by_table,
    "command line": _on_the_command_line,
    "advice": _advised,
    "captions": _in_captions,
    "codes": _hashed,
}
