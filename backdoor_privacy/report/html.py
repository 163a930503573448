"""The report as one HTML page that needs no other file and no network."""

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from backdoor_privacy.report import wording
from backdoor_privacy.report.everybody import groups_table, people_rows
from backdoor_privacy.report.tables import (
    attacks_table,
    checks_table,
    comparison_table,
    findings_table,
    idia_table,
    kept_table,
    names_table,
    paired_table,
    similarity_table,
    utility_table,
)
from backdoor_privacy.runs.finished import FinishedRun
from backdoor_privacy.system.visible import visible

_TEMPLATES = Path(__file__).with_name("templates")


def templates() -> Environment:
    """The templates of everything that a report consists of; what is put into them is escaped."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: Any) -> Any:
    """Return a value as it is put into a page: a name that reorders or hides what stands beside it shows its codes."""
    return visible(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def render(run: FinishedRun, svgs: Mapping[str, str]) -> str:
    """The page of a run; every value from its files is escaped.

    Args:
        run: what its files say.
        svgs: the figures by name: `idia`, `prompts`, `losses`, and `margins`, `votes` and `map` where there are any.
    """
    tables = [
        make(run)
        for make in (
            checks_table,
            idia_table,
            paired_table,
            names_table,
            attacks_table,
            findings_table,
            groups_table,
            kept_table,
            utility_table,
            similarity_table,
        )
    ]
    script = (_TEMPLATES / "people.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            run=run,
            people=people_rows(run) if run.has_names else [],
            people_note=wording.people_note(names=run.has_names),
            script=Markup(script),
            script_digest=base64.b64encode(digest).decode(),  # the page runs this script and no other
            request=wording.request(run),
            status=wording.status(run),
            verdict=wording.verdict(run),
            otherwise=wording.otherwise(run),
            asked=wording.asked(run),
            tables={table.name: table for table in tables if table.rows},
            figures={name: _inline(svg, name) for name, svg in svgs.items()},
            triggers=run.has_names and run.triggers and _photo(run.triggers),  # a face says who it is as a name does
            descriptions=wording.descriptions(run),
            limits=[*wording.limits(run), wording.people_note(names=run.has_names)],
            seconds=wording.seconds(run),
            defended=wording.defended(run.fullest),
        )
    )


def compare(runs: Mapping[str, FinishedRun]) -> str:
    """A page that sets runs side by side, a row for each.

    Args:
        runs: by their folders, as seen from the page.
    """
    table = comparison_table(runs)
    return templates().get_template("comparison.html.j2").render(table=table, addresses=list(runs))


def _photo(path: Path) -> Markup:
    return Markup(f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}")


def _inline(svg: str, name: str) -> Markup:
    """A figure as an element of the page: with ids of its own, as wide as there is room, and named by its caption."""
    head, tail = svg[svg.index("<svg") :].split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    head += f' role="img" aria-labelledby="{name}-title" aria-describedby="{name}-description"'
    tail = re.sub(r"<metadata>.*?</metadata>", "", tail, count=1, flags=re.DOTALL)
    tail = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tail)
    return Markup(f"{head}>{tail}")  # matplotlib escapes what it draws
