"""`vbench.json`: what was scored, of what it is made, what is missing; written whole, read by reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flowmap.errors import FlowmapError
from flowmap.files.texts import TextError, read_bytes, shaped
from flowmap.files.whole import write_whole
from flowmap.vbench.dimensions import Suite
from flowmap.vbench.intervals import Values, half_width, half_width_of_total
from flowmap.vbench.protocol import Protocol
from flowmap.vbench.totals import share, totals

RECORD = "vbench.json"
_MOST_BYTES = 50_000_000


class Row(BaseModel):
    """A dimension: its raw score, its share of the range, half of its interval (raw), clips that were left out."""

    model_config = ConfigDict(strict=True)

    score: float
    share: float
    half: float | None
    clips: int
    left_out: int


class Total(BaseModel):
    """A total and its parts as shares; `clipped` where clipping into the ranges gives another."""

    model_config = ConfigDict(strict=True)

    parts: dict[str, float]
    total: float
    half: float | None
    clipped: float | None


class Record(BaseModel):
    """A row of VBench and all that it hangs on.

    `incomparable` has the reasons why it must not stand beside published rows, none in a whole row. `missing` has, by
    dimension, why there is no score, `not_asked` the dimensions that a total needs and nobody asked for. There is a
    `total` only if all dimensions have scores, over all prompts.
    """

    model_config = ConfigDict(strict=True)

    format: Literal[1] = 1
    suite: str
    made_of: dict[str, Any]
    protocol: dict[str, Any]
    environment: dict[str, str]
    rows: dict[str, Row]
    total: Total | None
    missing: dict[str, str]
    not_asked: list[str]
    incomparable: Annotated[list[str], Field(default_factory=list)]


def row(suite: Suite, name: str, score: float, values: Values) -> Row:
    """The row of a dimension."""
    return Row(
        score=score,
        share=share(score, suite.dimensions[name]),
        half=half_width(name, score, values),
        clips=len(values),
        left_out=sum(value is None for value in values.values()),
    )


def total_of(protocol: Protocol, scores: Mapping[str, float], values: Mapping[str, Values]) -> Total | None:
    """The total of raw scores over the whole list of prompts; None over a part of it, or of the dimensions."""
    found = None if protocol.subset is not None else totals(protocol.suite, scores)
    if found is None:
        return None
    return Total(
        parts={str(part): value for part, value in found.parts.items()},
        total=found.total,
        half=half_width_of_total(protocol.suite, scores, values),
        clipped=found.clipped if found.clipping_matters else None,
    )


def write_record(folder: Path, record: Record) -> Path:
    """Write the record into `folder`; returns its path."""
    path = folder / RECORD
    write_whole(path, record.model_dump_json(indent=1) + "\n")
    return path


def read_record(folder: Path) -> Record | None:
    """The record in `folder`; None if there is none. Raises FlowmapError for one that cannot be read."""
    path = folder / RECORD
    try:
        return shaped(read_bytes(path, _MOST_BYTES), Record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FlowmapError(f"{path} cannot be read: {error.strerror}", code=1) from None
    except TextError as error:
        raise FlowmapError(f"{path} {error}; score again, which writes it anew", code=1) from None
