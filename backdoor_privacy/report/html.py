"""The report as one HTML page that needs no other file and no network."""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from backdoor_privacy.report import wording
from backdoor_privacy.report.parts import Everybody, Photo
from backdoor_privacy.report.sections import sections_of
from backdoor_privacy.runs.finished import FinishedRun
from backdoor_privacy.system.visible import visible

_TEMPLATES = Path(__file__).with_name("templates")


def templates() -> Environment:
    """Return the templates of everything that a report consists of; what is put into them is escaped."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: object) -> object:
    """Return a value as it is put into a page: a name that reorders or hides its neighbours shows its codes."""
    return visible(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def render(run: FinishedRun, svgs: Mapping[str, str]) -> str:
    """Return the page of a run; every value from its files is escaped.

    Args:
        run: what its files say.
        svgs: every figure of its sections, by name.
    """
    sections = sections_of(run)
    parts = [part for section in sections for part in (*section.parts, *section.gallery)]
    # Only a table of single people needs the script, which searches it.
    script = (_TEMPLATES / "people.js").read_text(encoding="utf-8") if any(map(_is_searched, parts)) else ""
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            run=run,
            request=wording.request(run),
            status=wording.status(run),
            verdict=wording.verdict(run),
            otherwise=wording.otherwise(run),
            sections=sections,
            figures={name: _inline(svg, name) for name, svg in svgs.items()},
            photos={part.path: _inline_photo(part.path) for part in parts if isinstance(part, Photo)},
            script=Markup(script),
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),  # no other script runs
        )
    )


def _is_searched(part: object) -> bool:
    return isinstance(part, Everybody)


def _inline_photo(path: Path) -> Markup:
    return Markup(f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}")


def _inline(svg: str, name: str) -> Markup:
    """Return a figure as an element of the page: with ids of its own, as wide as it may be, named by its caption."""
    head, tail = svg[svg.index("<svg") :].split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    head += f' role="img" aria-labelledby="{name}-title" aria-describedby="{name}-description"'
    tail = re.sub(r"<metadata>.*?</metadata>", "", tail, count=1, flags=re.DOTALL)
    tail = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tail)
    return Markup(f"{head}>{tail}")  # matplotlib escapes what it draws
