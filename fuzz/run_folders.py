"""Give the files of a finished run that a stranger sends, whole, damaged and hostile."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from backdoor_privacy.errors import InputError
from backdoor_privacy.report.collected import collect
from backdoor_privacy.report.writing import write_report
from backdoor_privacy.runs.attacks import load_context
from backdoor_privacy.runs.finished import read_run
from fuzz.cases import UNKNOWN, Case
from fuzz.children import Line, world_of
from fuzz.settings import leaves
from fuzz.world import PEOPLE

_TARGETS = (
    "os.system", "builtins.exec", "builtins.eval", "subprocess.check_output", "joblib.load", "pandas.read_pickle",
    "numpy.load",
    "torch.load", "pathlib.Path.touch", "fuzz.cases.canary", "backdoor_privacy.attack.Path.write_text",
    "backdoor_privacy.run.run",
    "backdoor_privacy.system.files.write_text", "hydra.utils.call", "backdoor_privacy.config.checks.os.system", "",
    "no.such.thing",
)  # fmt: skip
_TEXTS = (
    "!!python/object/apply:fuzz.cases.canary ['x']\n", "a: &a [x]\nb: [*a, *a]\n", "", "[]", "- 1\n", ": : :\n",
    "\x00", "\x1b[2J: 1\n",
    "{" * 5000, "x: ${x}\n", "people: ${oc.env:HOME}\n", "é: 1\n", "%YAML 9\n", "a: b: c\n",
)  # fmt: skip


def make(folder: Path, rng: random.Random) -> Case:
    """Write the folder of a run."""
    return rng.choice([_whole_run] * 5 + [_hostile_config] * 3 + [_broken_file] * 4)(folder, rng)


def _finished(folder: Path) -> Path:
    """Return a copy of a finished run; all inputs share the run itself."""
    base = folder.parent
    line = Line(base / "_finished", world_of(base))
    if line.run is None or not (line.run / "metrics.json").exists():
        ended = line.start("run")
        if ended.code:
            raise RuntimeError(ended.output[-3000:])
    assert line.run is not None
    run, cache = folder / "out" / "seed=0", folder / "out" / "cache"
    shutil.copytree(line.run, run)
    config = run / ".hydra" / "config.yaml"
    config.write_text(
        config.read_text(encoding="utf-8").replace(str(line.folder / "cache"), str(cache)), encoding="utf-8"
    )
    os.environ["BACKDOOR_PRIVACY_CACHE"] = str(cache)  # for a config that does not name a cache
    return run


def _scene(run: Path) -> Any:
    context = load_context(run)
    return context.people.names, list(context.removed), list(context.clips)


def _report(run: Path) -> Any:
    write_report(run)
    return (run / "report.html").stat().st_size > 1000


def _collected(run: Path) -> Any:
    table, failed = collect(run.parent)
    if failed:
        raise InputError(failed[0])
    return len(table)


def _people(run: Path) -> Any:
    finished = read_run(run, names=True)
    return finished.people["person"].tolist(), int(finished.num_removed)


_READERS: dict[str, Callable[[Path], Any]] = {
    "scene": _scene,
    "report": _report,
    "collect": _collected,
    "people": _people,
}


def _whole_run(folder: Path, rng: random.Random) -> Case:
    run, reader = _finished(folder), rng.choice(list(_READERS))
    names = [name.replace("_", " ") for name in sorted(one.replace(" ", "_") for one in PEOPLE)]
    expected = {"report": True, "collect": 3, "people": (names, 1)}.get(reader, UNKNOWN)
    return Case(f"a whole run, {reader}", lambda: _READERS[reader](run), expected, "read")


def _hostile_config(folder: Path, rng: random.Random) -> Case:
    """Write the config of a stranger: with other targets, odd values, or text that is no config."""
    run, way = _finished(folder), rng.choice(("target", "target", "value", "text", "cut"))
    path = run / ".hydra" / "config.yaml"
    change: Any = ""
    if way == "text":
        change = rng.choice(_TEXTS)
        path.write_text(change, encoding="utf-8")
    elif way == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: rng.randrange(len(content))])
    else:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        keys = [key for key in leaves(config) if not key.startswith(("paths", "hydra"))]
        key = rng.choice(
            keys if way == "value" else ["clip", "people", "strangers", "attack", "people.folder", "clip.model"]
        )
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        target = rng.choice(_TARGETS)
        spoiled = rng.choice(
            (None, -1, "x", [], {}, [1], 1e308, "${x}", "${oc.env:HOME}", True, "/nothing", "a\nb", "\x1b[2J")
        )
        node[last] = spoiled if way == "value" else {"_target_": target, "_args_": [str(folder / "ran")]}
        change = (key, spoiled if way == "value" else target)
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
    blames = (
        "config.yaml",
        "config",
        "people",
        "clip",
        "attack",
        "strangers",
        "_target_",
        *(str(change[0]).split(".") if change else ()),
    )
    return Case(f"a config from a stranger, {way} {change!r}", lambda: _scene(run), UNKNOWN, "either", blames)


def _broken_file(folder: Path, rng: random.Random) -> Case:
    """Cut a file of a finished run off, flip a bit of it, or replace its content."""
    run = _finished(folder)
    name = rng.choice(
        (
            "metrics.json",
            "metrics.json",
            "people.csv",
            "losses.csv",
            "votes.csv",
            "map.csv",
            "manifest.json",
            ".hydra/config.yaml",
        )
    )
    path, reader = run / name, rng.choice(list(_READERS))
    way = rng.choice(("cut", "flip", "empty", "garbage", "spoil"))
    content, spoiled = path.read_bytes(), ""
    if way == "cut":
        content = content[: rng.randrange(len(content))]
    elif way == "flip":
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        content = bytes(damaged)
    elif way == "spoil" and name.endswith(".json"):
        whole = json.loads(content)
        spoiled = rng.choice(leaves(whole))
        *parents, last = spoiled.split(".") if spoiled in whole else _split(whole, spoiled)
        node = whole
        for key in parents:
            node = node[key]
        node[last] = rng.choice((None, -1, "x", [], {}, 1e308, float("nan"), "a\nb", True))
        content = json.dumps(whole).encode()
    else:
        content = (
            b""
            if way == "empty"
            else rng.choice((rng.randbytes(300), b"[]", b"{}", b"null", b"\xff\xfe", b"a,b\n1,2\n", b"[" * 10**5))
        )
    path.write_bytes(content)
    is_config = name == ".hydra/config.yaml"  # any key in it may be the one that is damaged
    blames = () if is_config else (path.name, "attack", str(run), "config", "people", "clip")
    return Case(f"{name}, {way} {spoiled}, {reader}", lambda: _READERS[reader](run), UNKNOWN, "either", blames)


def _split(content: Any, dotted: str) -> list[str]:
    """Split a dotted key, of which a single key may itself hold dots."""
    for key, value in content.items():
        if dotted == key:
            return [key]
        if dotted.startswith(f"{key}.") and isinstance(value, dict):
            return [key, *_split(value, dotted[len(key) + 1 :])]
    raise KeyError(dotted)
