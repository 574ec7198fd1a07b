"""What the pages of flowmap share: how they are rendered, and how they print a score. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from flowmap.errors import FlowmapError
from flowmap.plugin.catalogue import catalogue
from flowmap.report.vbench import boards
from flowmap.schema.words import Better
from flowmap.statistics.sense import bound_word, direction


def rendered(template: str, view: Mapping[str, Any], folder: Path) -> str:
    """The page that `template` makes of `view` and of the rows of VBench in `folder`.

    Raises FlowmapError if a file of `folder` lacks what the page shows.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    try:
        return pages.get_template(template).render({**view, "boards": boards(folder)})
    except (KeyError, TypeError, ValueError, jinja2.UndefinedError) as error:
        raise FlowmapError(f"{folder}: a file of this run is not as flowmap writes it: {error!r}", code=1) from error


def shown(value: float, digits: int) -> str:
    """A score as a page prints it; what would read as 0 and is not says so."""
    if not math.isfinite(value):
        return "not finite"
    least = 10.0**-digits
    return f"<{least:.{digits}f}" if 0 < value < least / 2 else f"{value:.{digits}f}"


def described(metric: str, better: Better = "lower") -> str:
    """What its plugin says a metric is, by its label, and that higher is better, if that is so.

    Of a plugin that is not installed any more nothing is known but that.
    """
    try:
        told = (catalogue().find("metric", metric.partition(":")[0]).__doc__ or "").strip().split("\n")[0]
    except LookupError:
        told = ""
    return f"{told} Higher is better.".lstrip() if better == "higher" else told


def in_words(metrics: Mapping[str, Better]) -> dict[str, Any]:
    """What pages say of metrics: what each is, which way it is better, what the score of a perfect model is called."""
    bounds = {metric: bound_word(better) for metric, better in metrics.items()}
    return {
        "descriptions": {metric: described(metric, better) for metric, better in metrics.items()},
        "direction": direction(metrics),
        "bound": bounds,
        "bounds": " or ".join(sorted(set(bounds.values()), reverse=True)),
    }


def guided(evaluation: Mapping[str, Any]) -> list[str]:
    """What of an evaluation is guided, and by how much: each of their calls evaluates the network twice."""
    rows = {c["stage"]: c.get("cfg_scale", 1.0) for c in evaluation.get("contests", ()) if c.get("cfg_scale", 1.0) != 1}
    told = [f"{stage} (by {scale:g})" for stage, scale in rows.items()]
    of_teacher = evaluation.get("teacher_cfg_scale", 1.0)
    return told + ([f"the teacher's reference samples (by {of_teacher:g})"] if of_teacher != 1 else [])
