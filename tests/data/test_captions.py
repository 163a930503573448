import csv
import itertools
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pyarrow import parquet, table

from backdoor_privacy.data.captions import host_captions, load_captions, name_matcher, without_names
from backdoor_privacy.data.names import random_names
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER

RAGGED = ["a dog", " a  cat\nin\tthe snow ", "", "  ", "fünf Bäume"]
TIDY = ["a dog", "a cat in the snow", "fünf Bäume"]


def published_pattern(names: Sequence[str]) -> re.Pattern[str]:
    """One alternative for each name, which is slow: what `name_matcher` must be equal to."""
    alternatives = [r"[\s_]+".join(map(re.escape, re.split(r"[\s_]+", name.strip()))) for name in names]
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(alternatives)})(?![^\W_])", re.IGNORECASE)


def test_names_are_found_in_running_text():
    # The published code compares "First_Last", a folder's name, with running text and never filters anything.
    captions = ["a photo of Ann Lee at a gala", "a dog on a beach", "Ann_Lee smiling"]
    for name in ("Ann Lee", "Ann_Lee"):
        assert without_names(captions, [name]) == ["a dog on a beach"]


@pytest.mark.parametrize(
    "caption",
    [
        "ann lee in a suit",
        "ANN LEE",
        "a portrait of Ann Lee",
        "Ann Lee's new picture",
        "welcome,Ann Lee!",
        "(Ann Lee)",
        "ann_lee.jpg",
        "img_ann_lee_2",
        "Ann  Lee",
        "Ann\tLee",
        "ann_ _lee",
        "Ann\u00a0Lee",
        "Bob and Ann Lee",
        "“Ann Lee”",
        "我见到Ann Lee了",
    ],
)
def test_caption_with_the_name_is_left_out(caption: str):
    assert without_names([caption, "a dog"], ["Bob Ray", "Ann Lee"]) == ["a dog"]


@pytest.mark.parametrize(
    "caption",
    ["Joann Leeds", "Joann Lee", "Ann Leeds", "Ann and Lee", "Lee Ann", "AnnLee", "Ann", "Ann. Lee", "Ann Lee9"],
)
def test_caption_with_only_parts_of_the_name_or_longer_words_stays(caption: str):
    assert without_names([caption], ["Ann Lee"]) == [caption]


def test_names_with_accents_and_signs_are_matched_literally():
    names = ["José O'Neil-Ruiz", "J. R. (Bob) Ray"]
    captions = ["meet JOSÉ O'NEIL-RUIZ", "here is J. R. (Bob) Ray again", "Jx Rx Bob Ray", "a dog"]
    assert without_names(captions, names) == ["Jx Rx Bob Ray", "a dog"]


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("Zoë Núñez", ["zoë núñez", "ZOË NÚÑEZ"]),
        ("Jörg Weiß", ["jörg weiß", "JÖRG WEISS", "Jörg Weiss"]),
        ("İlkay I\u015f\u0131k", ["ilkay i\u015f\u0131k", "İLKAY IŞIK"]),
        ("Sean O'Brien", ["sean o\u2019brien", "Sean O'Brien's"]),
        ("Mary-Jane Fox", ["mary\u2010jane fox", "MARY\u2011JANE FOX"]),
        ("Σοφός Άννας", ["ΣΟΦΌΣ ΆΝΝΑΣ"]),
        ("Madonna", ["madonna on stage", "a fan of MADONNA"]),
    ],
)
def test_spellings_of_one_name_are_one(name: str, spellings: list[str]):
    forms = [unicodedata.normalize(form, text) for text in [name, *spellings] for form in ("NFC", "NFD")]
    for form in ("NFC", "NFD"):
        assert without_names([*forms, "a dog"], [unicodedata.normalize(form, name)]) == ["a dog"]


def test_an_accent_more_makes_another_name():
    captions = [unicodedata.normalize(form, "Ann Leé") for form in ("NFC", "NFD")]
    assert without_names(captions, ["Ann Lee"]) == captions


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("王小明", "昨天王小明在北京"),
        ("佐々木 太郎", "写真は佐々木 太郎さん"),
        ("佐々木 太郎", "写真は佐々木太郎さん"),
        ("김철수", "김철수가 웃는다"),
        ("สมชาย", "นี่คือสมชายครับ"),
    ],
)
def test_name_in_a_script_without_spaces_is_found_in_running_text(name: str, caption: str):
    assert without_names([caption, "一只狗"], [name]) == ["一只狗"]


def test_filter_equals_a_slow_one():
    names = ["Ann Lee", "Lee Ray", "Bo Li"]
    words = ["Ann", "Lee", "Ray", "Bo", "Li", "a", "LEE"]
    captions = [f"{a} {b} {c}" for a in words for b in words for c in words]

    def holds_a_name(caption: str) -> bool:
        parts = caption.casefold().split()
        pairs = list(itertools.pairwise(parts))
        return any(tuple(name.casefold().split()) in pairs for name in names)

    expected = [caption for caption in captions if not holds_a_name(caption)]
    assert 0 < len(expected) < len(captions)
    assert without_names(captions, names) == expected


def test_matcher_equals_one_alternative_for_each_name():
    names = [
        *random_names(12, seed=0),
        "Ann",
        "Ann Lee",
        "Ann Lee-Ray",
        "Ann_Leeds",
        "Lee Ann",
        "J. R. (Bob) Ray",
        "[x]",
    ]
    pieces = [
        *dict.fromkeys(part for name in names for part in re.split(r"([\s_.-])", name) if part),
        " ",
        "_",
        "s",
        ", ",
    ]
    texts = [
        a + gap + b + end for a in pieces for gap in (" ", "__", " _ ", "", "-") for b in pieces for end in ("", "s")
    ]
    found = list(map(name_matcher(names), texts))
    assert 100 < sum(found) < len(found) - 100
    assert found == [published_pattern(names).search(text) is not None for text in texts]


def test_without_a_name_every_caption_stays():
    assert without_names(["a dog", "", "Ann Lee"], []) == ["a dog", "", "Ann Lee"]


def test_number_of_captions_left_out_is_logged(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        without_names(["Ann Lee", "ann lee", "a dog"], ["Ann Lee"])
    assert "Up to 67% of the captions hold a name to remove; they are left out" in caplog.text


def write_shards(folder: Path, samples: Sequence[dict[str, Any]]) -> Path:
    """As img2dataset writes them: `00000.tar` and so on with keys of nine digits, beside a table of each."""
    folder.mkdir(parents=True)
    for number, part in enumerate((samples[:2], samples[2:])):
        with wds.writer.TarWriter(str(folder / f"{number:05}.tar")) as writer:
            for place, sample in enumerate(part):
                writer.write({"__key__": f"{number:05}{place:04}", **sample})
        (folder / f"{number:05}_stats.json").write_text("{}")
        parquet.write_table(table({"key": ["000000000"]}), folder / f"{number:05}.parquet")
    return folder


def write_text(path: Path) -> Path:
    path.write_text("a dog\n\n a  cat in\tthe snow \r\nfünf Bäume\n", encoding="utf-8-sig")
    return path


def write_coco(path: Path) -> Path:
    annotations = [{"id": n, "image_id": n // 2, "caption": caption} for n, caption in enumerate(RAGGED)]
    images = [{"id": n, "file_name": f"{n:012}.jpg", "height": 480, "width": 640} for n in range(3)]
    content = {"info": {"year": 2014}, "images": images, "licenses": [], "annotations": annotations}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_table(path: Path, column: str = "caption", separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, delimiter=separator)
        texts = [text.replace("\t", " ") if separator == "\t" else text for text in RAGGED]
        rows.writerows([["url", column], *([f"https://host/{n}", text] for n, text in enumerate(texts))])
    return path


def write_parquet(path: Path, column: str = "caption") -> Path:
    parquet.write_table(table({"url": [None] * 6, column: [*RAGGED, None]}), path)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "mine.txt": write_text,
    "mine.json": write_coco,
    "mine.csv": write_table,
    "mine.tsv": lambda path: write_table(path, separator="\t"),
    "mine.parquet": write_parquet,
    "txt": lambda path: write_shards(path, [{"jpg": b"", "txt": text, "json": {}} for text in RAGGED]),
    "json": lambda path: write_shards(path, [{"jpg": b"", "json": {"caption": text or None}} for text in RAGGED]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_captions(name: str, tmp_path: Path):
    column = "caption" if Path(name).suffix in (".csv", ".tsv", ".parquet") else None
    file = WRITERS[name](tmp_path / name)
    assert load_captions(file, column) == load_captions(str(file), column) == TIDY
    assert load_captions(file, column, 2) == TIDY[:2]


def test_captions_are_read_from_a_file_or_a_folder(tmp_path: Path):
    file = write_text(tmp_path / "captions.txt")
    assert load_captions(file) == load_captions(tmp_path) == TIDY


def test_captions_are_read_from_one_shard_or_a_pattern(tmp_path: Path):
    folder = WRITERS["txt"](tmp_path / "shards")
    assert load_captions(folder / "{00000..00001}.tar") == TIDY
    assert load_captions(folder / "00000.tar") == TIDY[:2]


def test_a_column_chooses_the_key_in_the_json_of_shards(tmp_path: Path):
    samples = [{"txt": "title", "json": {"caption": "title", "alt": text}} for text in RAGGED]
    folder = write_shards(tmp_path / "shards", samples)
    assert load_captions(folder) == ["title"] * 5
    assert load_captions(folder, "alt") == TIDY


def test_words_that_look_like_no_value_are_captions(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("caption\nNA\nnull\n7\n")
    assert load_captions(tmp_path / "mine.csv", "caption") == ["NA", "null", "7"]


@pytest.mark.parametrize(
    ("group", "name", "column"),
    [
        ("file", "mine.txt", None),
        ("file", "mine.parquet", "caption"),
        ("coco", "mine.json", None),
        ("webdataset", "txt", None),
        ("webdataset", "json", "caption"),
    ],
)
def test_configs_load_captions(group: str, name: str, column: str | None, tmp_path: Path):
    overrides = [f"captions={group}", f"captions.file={WRITERS[name](tmp_path / name)}", "captions.max_captions=2"]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", [*overrides, *([] if column is None else [f"captions.column={column}"])])
    assert instantiate(cfg.captions) == TIDY[:2]


def test_captions_that_are_not_there_are_an_error(tmp_path: Path):
    for name in ("nowhere.txt", "nowhere.json", "nowhere.csv", "nowhere.parquet"):
        with pytest.raises(InputError, match=rf"captions\.file: expected .* got .*{re.escape(name)}"):
            load_captions(tmp_path / name, "caption")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(InputError, match=r"captions\.file: expected a caption or more in .*empty\.txt, found none"):
        load_captions(tmp_path / "empty.txt")
    with pytest.raises(
        InputError, match=r"expected captions\.txt or WebDataset shards \(\*\.tar\) in .*, found neither"
    ):
        load_captions(tmp_path)


@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv", "mine.parquet"])
@pytest.mark.parametrize("column", [None, "text"])
def test_table_without_the_column_is_an_error_that_names_its_columns(name: str, column: str | None, tmp_path: Path):
    file = WRITERS[name](tmp_path / name)
    expected = rf"^captions\.column: expected one of url, caption \(columns of {re.escape(str(file))}\), got {column}$"
    with pytest.raises(InputError, match=expected):
        load_captions(file, column)


@pytest.mark.parametrize("name", ["mine.txt", "mine.csv", "mine.json", "mine.parquet"])
def test_other_bytes_are_an_error(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes("caption\nfünf Bäume\n".encode("latin-1"))
    with pytest.raises(InputError, match=rf"^captions\.file: expected .*{re.escape(name)}") as error:
        load_captions(tmp_path / name, "caption")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"annotations": [{"bbox": [1, 2]}]}', '{"annotations": [{"caption": 3}]}']
)
def test_json_that_is_no_coco_file_is_an_error(content: str, tmp_path: Path):
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(InputError, match=r"captions\.file: expected COCO's JSON of captions .* in .*instances\.json"):
        load_captions(tmp_path / "instances.json")


def test_parquet_without_its_reader_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"expected pyarrow to read .*; pip install 'backdoor_privacy\[parquet\]'"):
        load_captions(tmp_path / "mine.parquet", "caption")


def test_broken_shards_are_an_error(tmp_path: Path):
    shard = WRITERS["txt"](tmp_path / "shards") / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(InputError, match=r"^captions\.file: expected a complete tar, .*00001\.tar: .*"):
        load_captions(tmp_path / "shards")


def test_shards_with_other_content_are_an_error(tmp_path: Path):
    other_key = write_shards(tmp_path / "other_key", [{"json": {"text": "a dog"}}])
    with pytest.raises(
        InputError, match=r"captions\.column: expected JSON with the key caption, got other content in 000000000 of .*"
    ):
        load_captions(other_key)
    latin = write_shards(tmp_path / "latin", [{"txt": "fünf".encode("latin-1")}])
    with pytest.raises(InputError, match=r"captions\.file: expected text in UTF-8, got other bytes in 000000000 of"):
        load_captions(latin)
    nothing = write_shards(tmp_path / "nothing", [{"jpg": b""}])
    with pytest.raises(InputError, match=r"captions\.file: expected a caption or more in .*, found none"):
        load_captions(nothing)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.txt", 'image,caption\na.jpg,a dog\na.jpg,"a cat, asleep"\nb.jpg,the "best" cake, and tea\n'),
        (
            "results.csv",
            "image_name| comment_number| comment\na.jpg| 0| a dog\na.jpg| 1| a cat, asleep\n"
            'b.jpg| 2| the "best" cake, and tea\n',
        ),
        ("results.token", 'a.jpg#0\ta dog\na.jpg#1\ta cat, asleep\n\nb.jpg#0\tthe "best" cake, and tea\n'),
        ("Flickr8k.token.txt", 'a.jpg#0\ta dog\na.jpg#1\ta cat, asleep\nb.jpg#0\tthe "best" cake, and tea\n'),
        ("lines.jsonl", '{"caption": "a dog"}\n\n["a cat, asleep"]\r\n"the \\"best\\" cake, and tea"\n'),
        ("lines.ndjson", '{"caption": ["a dog", "a cat, asleep", null]}\n{"caption": "the \\"best\\" cake, and tea"}'),
        (
            "lines.json",
            '{"caption": ["a dog", "a cat, asleep"]}\n{"caption": "the \\"best\\" cake, and tea"}',
        ),
        (
            "lines.txt",
            '{"caption": ["a dog", "a cat, asleep"]}\n{"caption": "the \\"best\\" cake, and tea"}',
        ),
        ("texts.json", '["a dog", "a cat, asleep", "the \\"best\\" cake, and tea"]'),
        ("objects.json", '[{"caption": "a dog"}, {"caption": ["a cat, asleep", "the \\"best\\" cake, and tea"]}]'),
        (
            "karpathy.json",
            '{"images": [{"sentences": [{"raw": "a dog"}, {"raw": "a cat, asleep"}]},'
            '{"sentences": [{"raw": "the \\"best\\" cake, and tea"}]}]}',
        ),
        ("no_suffix", 'a dog\na cat, asleep\nthe "best" cake, and tea'),
        ("old_mac.txt", 'a dog\r\ra cat, asleep\rthe "best" cake, and tea'),
        ("lists.txt", '["a dog", "a cat, asleep"]\nthe "best" cake, and tea'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_what_data_sets_are_written_as_is_read(name: str, content: str, encoding: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content.encode(encoding))
    column = "comment" if name.endswith(".csv") else None
    assert load_captions(tmp_path / name, column) == ["a dog", "a cat, asleep", 'the "best" cake, and tea']


@pytest.mark.parametrize(
    "content",
    ["image, caption\na second line\n", "Image, text and sound\na.jpg, b\n", "caption\na dog\n", "image,caption\n"],
)
def test_a_first_caption_is_no_header(content: str, tmp_path: Path):
    (tmp_path / "mine.txt").write_text(content)
    assert load_captions(tmp_path / "mine.txt") == content.splitlines()


@pytest.mark.parametrize(
    ("name", "rows", "captions"),
    [
        (
            "a.tsv",
            ['"the house\t1', "a dog\t2", 'the "best" cake\t3'],
            ['"the house', "a dog", 'the "best" cake'],
        ),
        ("a.tsv", ['"the big house\t1', 'a screen of 19"\t2'], ['"the big house', 'a screen of 19"']),
        ("a.tsv", ['"the ""big"" house"\t1', '"a dog\t2', '"a cat\t3'], ['the "big" house', '"a dog', '"a cat']),
        ("a.tsv", ['"a dog\t1', 'runs"\t2', '"in the', 'snow"\t3'], ['"a dog', 'runs"', "in the snow"]),
        ("a.csv", ['"the big house,1', "a dog,2", 'the "best" cake,3'], ['"the big house', "a dog", 'the "best" cake']),
        ("a.csv", ['"a dog, and', 'a ""big"" cat",1', ' "a tram, red" , 2'], ['a dog, and a "big" cat', "a tram, red"]),
        ("a.csv", ['""" hi"", he', 'said",1', '"to the end,2'], ['" hi", he said', '"to the end']),
        ("a.csv", ["a dog;1", "a cat;2"], None),
    ],
)
def test_a_lone_quotation_mark_swallows_nothing(name: str, rows: list[str], captions: list[str] | None, tmp_path: Path):
    separator = "\t" if name.endswith("tsv") else ","
    (tmp_path / name).write_text("\n".join([f"caption{separator}n", *rows]))
    if captions is None:
        assert load_captions(tmp_path / name, "caption") == rows
    else:
        assert load_captions(tmp_path / name, "caption") == captions


def test_a_caption_with_bare_separators_is_read_whole_or_refused(tmp_path: Path):
    (tmp_path / "last.csv").write_text("url,caption\n1,a dog, a cat\n")
    assert load_captions(tmp_path / "last.csv", "caption") == ["a dog, a cat"]
    (tmp_path / "first.csv").write_text("caption,url\na dog,1\n\na dog, a cat,1\n")
    with pytest.raises(InputError, match=r"^captions\.file: expected 2 cells in each row of .*, got 3 in line 4; put"):
        load_captions(tmp_path / "first.csv", "caption")


@pytest.mark.parametrize(
    ("cells", "captions"),
    [
        ([["a dog", "a cat"], [], None], ["a dog", "a cat"]),
        ([b"f\xc3\xbcnf B\xc3\xa4ume", None], ["fünf Bäume"]),
        (
            ['["a dog", "a cat"]', "['a tram', \"a bus's\"]", "b'oak'"],
            ["a dog", "a cat", "a tram", "a bus's", "oak"],
        ),
        (["[laughs] a man", "[a dog]", "{a cat"], ["[laughs] a man", "[a dog]", "{a cat"]),
        (["\ufeffa dog"], ["a dog"]),
    ],
)
def test_cells_of_a_table_are_one_caption_or_several(cells: list[Any], captions: list[str], tmp_path: Path):
    parquet.write_table(table({"caption": cells}), tmp_path / "mine.parquet")
    assert load_captions(tmp_path / "mine.parquet", "caption") == captions


@pytest.mark.parametrize(
    "cell", [7, 2.5, True, {"en": "a dog"}, [{"raw": "a dog"}], [7], b"\xff\xfa", "['a' 'b']", "[1]", '{"en": "a dog"}']
)
def test_a_cell_that_is_no_text_is_refused_in_one_line_with_its_place(cell: Any, tmp_path: Path):
    parquet.write_table(table({"caption": [cell]}), tmp_path / "mine.parquet")
    with pytest.raises(
        InputError, match=r"^captions\.file: expected .* in row 1, column caption of .*parquet"
    ) as error:
        load_captions(tmp_path / "mine.parquet", "caption")
    assert "\n" not in str(error.value)


def test_empty_cells_of_numbers_are_no_captions(tmp_path: Path):
    parquet.write_table(table({"caption": [float("nan"), None]}), tmp_path / "mine.parquet")
    with pytest.raises(InputError, match="expected a caption or more"):
        load_captions(tmp_path / "mine.parquet", "caption")


def test_the_json_of_shards_has_cells_of_the_same_kinds(tmp_path: Path):
    samples = [
        {"json": {"caption": ["a dog", "a cat"]}},
        {"json": '\ufeff{"caption": "a tram"}'.encode()},
        {"txt": "\ufeffa bus".encode()},
        {"txt": "a ship".encode("utf-16")},
    ]
    assert load_captions(write_shards(tmp_path / "good", samples)) == ["a dog", "a cat", "a tram", "a bus", "a ship"]
    with pytest.raises(InputError, match=r"expected text or a list .*, got int '7' in key caption of 000000000 of"):
        load_captions(write_shards(tmp_path / "bad", [{"json": {"caption": 7}}]))


@pytest.mark.parametrize("name", ["mine.csv.gz", "mine.xlsx", "mine.txt.bz2", "mine.zip", "shards.tar.gz", "mine.pkl"])
def test_another_suffix_is_refused_with_the_list_of_what_is_read(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"a dog\n")
    with pytest.raises(InputError, match=rf"expected \.txt, .*\.jsonl, .*, got .*{re.escape(name)}; unpack or"):
        load_captions(tmp_path / name)


@pytest.mark.parametrize("content", [b"a dog\0\n", "a dog\n".encode("utf-16-le")])
def test_text_with_nul_bytes_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"captions\.file: expected .* in UTF-8, got other bytes in .*mine\.txt"):
        load_captions(tmp_path / "mine.txt")


def test_a_column_without_captions_is_refused(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("image,n,link\na b.jpg,1,https://a/b\n b.jpg,2.5,https://a/c\n")
    for column in ("n", "link"):
        with pytest.raises(InputError, match=r"only numbers, addresses or names of files, as .*; choose another"):
            load_captions(tmp_path / "mine.csv", column)


def test_only_captions_of_two_words_carry_a_name():
    assert host_captions(["dog", "a dog", "tree", "red tree"]) == ["a dog", "red tree"]
    with pytest.raises(InputError, match="expected captions of two words or more"):
        host_captions(["dog", "tree"])


def test_json_of_too_many_levels_is_refused_in_one_line(tmp_path: Path):
    for name in ("deep.json", "deep.jsonl"):
        (tmp_path / name).write_text("[" * 100_000)
        with pytest.raises(InputError, match=r"captions\.file: expected .*JSON"):
            load_captions(tmp_path / name)


def test_photos_with_spaces_in_their_names_are_no_captions(tmp_path: Path):
    (tmp_path / "captions.txt").write_text('Image_name,Caption\na dog.jpg,"a dog, asleep"\n')
    assert load_captions(tmp_path) == ["a dog, asleep"]


def test_numbers_and_tabs_before_captions_are_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("0\ta dog asleep\n1\ta cat\n")
    with pytest.raises(InputError, match=r"captions\.file: .*save it as \.tsv with the names of its columns"):
        load_captions(tmp_path / "mine.txt")


def test_a_column_mostly_of_numbers_is_refused(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("caption\n12\n13\na cat\n")
    with pytest.raises(InputError, match=r"got 2 of 3 that are only numbers, addresses or names of files, as '12'"):
        load_captions(tmp_path / "mine.csv", "caption")


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    (tmp_path / "mine.csv").write_text("caption,caption\na cat,a dog\n")
    with pytest.raises(InputError, match=r"captions\.column: expected columns of different names .*several caption"):
        load_captions(tmp_path / "mine.csv", "caption")


def test_samples_of_shards_without_a_caption_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write_shards(tmp_path / "shards", [{"txt": "a dog"}, {"jpg": b"x"}, {"json": {"caption": None}}])
    with caplog.at_level(logging.WARNING):
        assert load_captions(folder) == ["a dog"]
    assert "captions.file: 2 samples hold no caption" in caplog.text
