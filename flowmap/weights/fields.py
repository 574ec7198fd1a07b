"""The fields of a configuration that diffusers or transformers wrote, each of its type, or refused. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowmap.errors import FlowmapError
from flowmap.schema.config import frozen
from flowmap.weights.headers import read_json

CONFIG = "config.json"
"""What the configuration of a part is called."""
PREPROCESSING = "preprocessor_config.json"
"""What that of a processor of images is called: how they are resized and scaled. It has no weights."""

# Above any model there is, and low enough that nobody works for minutes on a number that is wrong.
Size = Annotated[int, Field(ge=1, le=2_000_000)]
"""A width, or a number of tokens."""
Few = Annotated[int, Field(ge=1, le=1000)]
"""A number of layers, heads, patches."""
Small = Annotated[float, Field(gt=0, lt=1)]
"""What is added so that nothing is divided by zero."""


class Fields(BaseModel):
    """Some of the fields of a configuration; others are for others."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


F = TypeVar("F", bound=Fields)


def fields_of(part: Path, kind: type[F], file: str = CONFIG) -> F:
    """The configuration of `part`, in its `file`.

    Raises FlowmapError, naming file and field, if it cannot be one of this kind.
    """
    raw = read_json(part / file)
    try:
        return kind.model_validate({key: frozen(value) for key, value in raw.items()})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "it"
        given = (
            "is missing" if first["type"] == "missing" else f"is {str(first['input'])[:60]!r}: {first['msg'].lower()}"
        )
        raise FlowmapError(f"{part / file}: {field} {given}; fetch it again") from None
