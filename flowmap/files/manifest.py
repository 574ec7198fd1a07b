"""What lies in a stage's folder: its checkpoints and what their manifests say, read with care. Torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from flowmap.files.texts import TextError, read_bytes, shaped

MANIFEST = "manifest.json"
FORMAT = 1
_STEP = re.compile(r"step-(\d{6,12})")

_Size = Annotated[int, Field(ge=0, lt=2**63)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# What a checkpoint is made of lies in its own folder.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors$", max_length=255)]


@dataclass(frozen=True)
class Checkpoint:
    """One folder of a stage's checkpoints; `step` is the number of finished steps."""

    path: Path
    step: int


class FileFacts(BaseModel):
    """Size and SHA-256 of a file."""

    model_config = ConfigDict(strict=True)

    bytes: _Size
    sha256: _Digest


class StepsSeal(BaseModel):
    """What `steps.jsonl` held when the checkpoint was saved: so many lines, with this SHA-256 (see `journal`)."""

    model_config = ConfigDict(strict=True)

    lines: _Size
    sha256: _Digest


class Manifest(BaseModel):
    """What is in a checkpoint; without `steps` it was written by a version that did not note them."""

    model_config = ConfigDict(strict=True)

    format: int
    step: _Size
    files: dict[_Name, FileFacts]
    steps: StepsSeal | None = None


def checkpoints(stage: Path) -> list[Checkpoint]:
    """The checkpoints of the stage folder, oldest first (not verified)."""
    folder = stage / "checkpoints"
    found = [(path, _STEP.fullmatch(path.name)) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((Checkpoint(path, int(m[1])) for path, m in found if m), key=lambda c: c.step)


def read_manifest(checkpoint: Checkpoint) -> Manifest:
    """What the manifest of `checkpoint` says; raises TextError, with the reason, if it is damaged or another's."""
    try:
        found = shaped(read_bytes(checkpoint.path / MANIFEST), Manifest)
    except OSError as error:
        raise TextError(f"its {MANIFEST} cannot be read ({error.strerror})") from None
    except TextError as error:
        raise TextError(f"its {MANIFEST} cannot be read: {error}") from None
    if (found.format, found.step) != (FORMAT, checkpoint.step):
        raise TextError(
            f"its {MANIFEST} is of format {found.format} and step {found.step}, not {FORMAT} and {checkpoint.step}"
        )
    return found
