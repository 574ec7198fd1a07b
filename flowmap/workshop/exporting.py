"""The rest of an exported folder: configurations and index as diffusers writes them, encoders, how it is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers

from flowmap.phases import Phase, phase
from flowmap.weights.pipeline import INDEX, Pipeline
from flowmap.workshop.quiet import no_bars


def copy_encoders(source: Pipeline, folder: Path) -> None:
    """Every part of `source` but the transformer, linked where the file system can: they are large and never change."""
    for part in source.encoders():
        files = [file for file in (source.folder / part).rglob("*") if file.is_file()]
        with phase(f"copying {part}", sum(file.stat().st_size for file in files), "bytes") as doing:

            def copy(file: str, to: str, doing: Phase = doing) -> None:
                _link(file, to)
                doing.advance(os.path.getsize(to))

            shutil.copytree(source.folder / part, folder / part, copy_function=copy)


def _link(source: str, target: str) -> None:
    # Not the small files: who edits one here would edit it there.
    if not source.endswith(".safetensors"):
        shutil.copy2(source, target)
        return
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def write_scheduler(scheduler: Any, folder: Path) -> None:
    """Write a scheduler of diffusers into the exported `folder`."""
    with no_bars():
        scheduler.save_pretrained(folder / "scheduler")


def write_index(folder: Path, pipeline: str, parts: Mapping[str, Sequence[str]]) -> None:
    """Write which pipeline the folder is, and library and class of each of its parts."""
    write_config(folder / INDEX, pipeline, parts)


def write_config(file: Path, kind: str, fields: Mapping[str, Any]) -> None:
    """Write the configuration of a `kind` (a class) as diffusers writes one."""
    whole = {"_class_name": kind, "_diffusers_version": diffusers.__version__, **dict(sorted(fields.items()))}
    file.write_text(json.dumps(whole, indent=2) + "\n")


def dtype_words(precision: str, source: Pipeline | None = None) -> str:
    """The argument with which a folder is loaded: the transformer in `precision`, encoders of `source` as they are."""
    found = {"transformer": precision}
    if source is not None:
        found |= {part: source.precision(part) for part in source.weighted if part != "transformer"}
    if len(set(found.values())) == 1:
        return f"dtype=torch.{precision}"
    return "dtype={" + ", ".join(f'"{part}": torch.{name}' for part, name in found.items()) + "}"


def loading(model: str, pipeline: str | None, dtype: str) -> list[str]:
    """The lines that load the transformer, a `model` (a class), by itself or with its `pipeline` (a class too)."""
    if pipeline is None:
        return [f'transformer = {model}.from_pretrained("FOLDER/transformer", {dtype})']
    return [f'pipe = {pipeline}.from_pretrained("FOLDER", {dtype})', "transformer = pipe.transformer"]
