from collections import Counter

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from backdoor_privacy.data.plain_captions import NUM_CAPTIONS, TEMPLATES, nouns, plain_captions
from backdoor_privacy.system.paths import CONFIG_FOLDER


def test_nouns_are_distinct_lower_case_words():
    words = nouns()
    assert 1000 <= len(words) == len(set(words)) <= 1200
    assert all(
        word == word.lower() == " ".join(word.split()) and word.replace(" ", "").replace("-", "").isalpha()
        for word in words
    )


def test_plain_captions_are_the_same_always_and_cover_every_noun(tmp_path):
    captions, again = ((plain_captions(tmp_path / name) / "captions.txt").read_text() for name in "ab")
    assert captions == again
    lines = captions.splitlines()
    assert len(lines) == len(set(lines)) == NUM_CAPTIONS
    assert 20 <= len(TEMPLATES) <= 30
    assert all(3 <= len(line.split()) <= 16 for line in lines)
    seen = Counter(word for word in nouns() for line in lines if f" {word} " in f" {line} ")
    assert min(seen.values()) >= 10
    assert seen.keys() == set(nouns())


def test_articles_fit_the_sound(tmp_path):
    text = (plain_captions(tmp_path) / "captions.txt").read_text()
    for right in ("an owl", "a unicycle", "an hourglass", "a house", "an umbrella", "a ukulele"):
        assert f"{right} " in text or f"{right}\n" in text


def test_the_group_option_reads_them(tmp_path):
    overrides = ["captions=plain", f"captions.file.cache={tmp_path}", "captions.max_captions=100"]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        captions = instantiate(compose("config", overrides).captions)
    assert len(captions) == 100
    assert all(" " in caption for caption in captions)
