"""What an exported student was trained as, beside its weights: what they would otherwise be asked in the wrong way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, final

from pydantic import Field, ValidationError

from flowmap.errors import FlowmapError
from flowmap.weights.fields import Fields, Size
from flowmap.weights.headers import read_json

FILE = "student.json"


@final
class Student(Fields):
    """Pictures of `height` x `width` pixels, prompts of at most `text_length` tokens, the prompt of the null condition.

    `gate` is the share of the r-embedding, `guidance` what a guidance-distilled transformer was told.
    """

    height: Size
    width: Size
    text_length: Size
    negative_prompt: str
    gate: Annotated[float, Field(ge=0, le=1)]
    guidance: float

    def write(self, folder: Path) -> None:
        """Write it into `folder`."""
        (folder / FILE).write_text(json.dumps(self.model_dump(), indent=2) + "\n", "utf-8")


def student_in(folder: Path) -> Student:
    """What the folder of an exported student says of it; raises FlowmapError if it says nothing, or what cannot be."""
    if not (folder / FILE).is_file():
        why = "which says as what these weights of two times were trained (gate, size, tokens)"
        raise FlowmapError(f"{folder} has no {FILE}, {why}; copy the whole folder, or export it again")
    try:
        return Student.model_validate(read_json(folder / FILE))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "it"
        raise FlowmapError(f"{folder / FILE}: {field}: {first['msg'].lower()}; export it again") from None
