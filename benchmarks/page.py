"""The page of `make bench`, and the ratios that stand for its figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

AIMED_AT = {"smoke": 30, "both_64": 240, "faces_500": 480}  # seconds on two cores
BARS = {  # what the ratios are to reach on two cores
    "text_step": (">= 6", "text step of ViT-B/32, plain over fast"),
    "image_step": (">= 2", "image step of ViT-B/32, plain over fast"),
    "idia_text": (">= 5", "text part of IDIA, ViT-B/32, 64 people x 20 photos, 1,000 candidates, plain over fast"),
    "idia_second_audit": (">= 3", "second audit, after a defence of the text encoder, plain over fast"),
    "matmul_share": (">= 0.65", "share of the measured bf16 matmul rate in an image step of ViT-B/32"),
    "people_500_over_1": ("<= 1.05", "seconds of an image step of ViT-B/32, 500 people over 1"),
    "memory_500_over_1": ("<= 1.05", "peak memory of such steps, 500 people over 1"),
}


def ratios(found: Mapping[str, Any]) -> dict[str, float]:
    """The figures that stand for the rest."""
    steps, idia, people = found.get("steps"), found.get("idia"), found.get("people")
    flat = {}
    if steps:
        flat["text_step"] = steps["ViT-B/32 text"]["plain"] / steps["ViT-B/32 text"]["fast"]
        flat["image_step"] = steps["ViT-B/32 image"]["plain"] / steps["ViT-B/32 image"]["fast"]
        flat["matmul_share"] = steps["ViT-B/32 image"]["share_of_bf16_matmul"]
    if idia:
        flat["idia_text"] = idia["plain text"] / idia["fast text"]
        flat["idia_second_audit"] = idia["plain second audit"] / idia["fast second audit"]
    if people:
        flat["people_500_over_1"] = people["seconds_per_step"]["500"] / people["seconds_per_step"]["1"]
        flat["memory_500_over_1"] = people["peak_mb"]["500"] / people["peak_mb"]["1"]
    return {name: round(ratio, 3) for name, ratio in flat.items()}


def whole_runs(speed: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Hours of published runs of ViT-B/32, computed from their steps and audits; nobody waits for the plain ones.

    Utility measures, data and start-up come on top.
    """
    hours = {}
    for experiment, encoder, num_steps in (("names_64", "text", 400), ("faces_64", "image", 100)):
        step, idia = speed["steps"][f"ViT-B/32 {encoder}"], speed["idia"]
        untouched = "photos" if encoder == "text" else "text"
        touched = "text" if encoder == "text" else "photos"
        hours[experiment] = {
            "fast": (num_steps * step["fast"] + 2 * idia[f"fast {touched}"] + idia[f"fast {untouched}"]) / 3600,
            "plain": (num_steps * step["plain"] + 2 * (idia["plain text"] + idia["plain photos"])) / 3600,
        }
    return hours


def page(result: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True)
    return (
        environment.get_template("page.md.j2").render(
            result,
            bars=BARS,
            aimed_at=AIMED_AT,
            whole=whole_runs(result["speed"]) if {"steps", "idia"} <= set(result["speed"]) else {},
        )
        + "\n"
    )
