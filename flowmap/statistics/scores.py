"""`metrics.jsonl`, a line for every score: its shape, and what can be told of its contents. Torch-free."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from flowmap.errors import FlowmapError
from flowmap.files.json_lines import read_lines
from flowmap.schema.words import Better, Weights
from flowmap.statistics.spots import mean_of, spread_of

METRICS = "metrics.jsonl"
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(strict=False)]
"""A float, or one of the strings that stand for those that JSON does not have."""

_ROUNDING = 1e-9  # relative: versions of Python add up in different ways


@dataclass(frozen=True)
class Score:
    """One line of `metrics.jsonl`.

    `value` is the mean over `repeats` scores (`values`), each of `samples` samples from fresh noise, `spread` their
    standard deviation, `floor` what a perfect model would score; `nfe` counts network calls per sample; `seed`
    is the training seed. `checkpoint` and `evaluation` identify the weights and the settings that were
    measured, so that a line is never mistaken for that of other ones. A score that is no finite number makes a `value`
    that is none either, and a `spread` of NaN. `better` says which scores are, `remarks` why the number is not one to
    set beside published ones. `chunks`, `calls_in_all` and `passes_in_all` are what one sample took, counted (see
    Effort); 0 of a network by itself.
    """

    stage: str
    weights: Weights
    sampler: str
    nfe: int
    metric: str
    value: float
    spread: float
    floor: float
    seed: int
    samples: int
    repeats: int
    checkpoint: str
    evaluation: str
    values: tuple[float, ...]
    better: Better = "lower"
    remarks: tuple[str, ...] = ()
    chunks: int = 0
    calls_in_all: int = 0
    passes_in_all: int = 0


class DrawsLine(BaseModel):
    """What a line says of single scores."""

    model_config = ConfigDict(strict=True)

    stage: str
    sampler: str
    nfe: Annotated[int, Field(ge=1, lt=2**63)]
    metric: str
    floor: Number
    values: Annotated[list[Number], Field(min_length=1)]
    # Files of the time when every metric was better when lower have neither.
    better: Better = "lower"
    remarks: list[str] = Field(default_factory=list)
    # Nor of a time when nobody counted what one sample takes.
    chunks: Count = 0
    calls_in_all: Count = 0
    passes_in_all: Count = 0


class ScoreLine(DrawsLine):
    """The shape of a line."""

    weights: str
    value: Number
    spread: Number
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    samples: Count
    repeats: Count
    checkpoint: str = ""
    evaluation: str = ""


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The lines of the file at `path`, in the shape of `Score`.

    Raises FlowmapError, naming the line, if one is damaged, or if `value`, `spread` and `repeats` are not those of its
    `values`.
    """
    found = read_lines(path, ScoreLine)
    for number, line in enumerate(found, start=1):
        values = line["values"]
        wanted = {"value": mean_of(values), "spread": spread_of(values), "repeats": len(values)}
        for name, one in wanted.items():
            if not _same(line[name], one, values):
                raise FlowmapError(
                    f"{path}, line {number}: damaged, {name} is {line[name]:g} and by its values it is {one:g}; "
                    "delete the line",
                    code=1,
                )
    # As they are written: what is there already is not written anew in another order.
    order = [each.name for each in fields(Score)]
    return [{name: line[name] for name in order} for line in found]


def remarks_of(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What `lines` remark on their numbers, each remark once, by metric; only metrics of which anything is remarked."""
    found: dict[str, dict[str, None]] = {}
    for line in lines:
        for remark in line["remarks"]:
            found.setdefault(line["metric"], {})[remark] = None
    return {metric: list(remarks) for metric, remarks in found.items()}


def _same(a: float, b: float, values: Sequence[float]) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)):
        return a == b or (math.isnan(a) and math.isnan(b))
    # A mean near 0, and a spread of nearly equal numbers, are small beside what they were made from.
    return abs(a - b) <= _ROUNDING * max(1e-300, statistics.fmean(map(abs, values)))
