"""Read a recipe from its file: every problem with its line. Torch-free."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowmap.errors import FlowmapError
from flowmap.files.texts import TextError, parse_toml, read_text
from flowmap.recipe.messages import Source, explain, explain_syntax, explain_validation
from flowmap.recipe.overrides import override
from flowmap.recipe.recipe import Absent, Recipe
from flowmap.recipe.shipped import file_of, near


def read(path: Path, overrides: Sequence[str] = (), absent: Absent = "ignore") -> tuple[Recipe, list[str]]:
    """Read and check the recipe at `path`, with `a.b=value` overrides; return it and its warnings.

    `path` is a file, or the name of a recipe that flowmap brings. `absent` says what it means if weights or data are
    not on this machine. Raises FlowmapError with one line per problem: file, line, field, what is allowed, the nearest
    word.
    """
    text = text_of(path)
    raw = tables_of(path, text)
    if "contestants" in raw and "stages" not in raw:
        raise FlowmapError(f"{path}: is a comparison, not a recipe; flowmap compare {path}")
    source = Source(str(path), text, raw)
    for setting in overrides:
        override(source, setting)
    if not raw:
        needed = [name for name, field in Recipe.model_fields.items() if field.is_required()]
        raise FlowmapError(f"{path}: nothing is set; a recipe has at least {', '.join(needed)}, and mostly stages")
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise FlowmapError("\n".join(explain_validation(error, source))) from None
    findings = list(recipe.findings())
    findings += recipe.here(absent)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise FlowmapError("\n".join(explain(errors, source)))
    return recipe, explain(findings, source)


def is_comparison(path: Path) -> bool:
    """Whether the file at `path` looks like a specification of contestants."""
    try:
        return "contestants" in parse_toml(text_of(path))
    except ValueError:  # it is no TOML, which will be said where it is read
        return False


def tables_of(path: Path, text: str) -> dict[str, Any]:
    """The tables of the recipe `text` that stands at `path`; raises FlowmapError if it is no TOML, or has too much."""
    try:
        return parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise FlowmapError(explain_syntax(error, str(path), text)) from None
    except TextError as error:
        raise FlowmapError(f"{path}: {error}; that is no recipe") from None


def text_of(path: Path) -> str:
    """The text of the recipe at `path`, or of that name that flowmap brings.

    Raises FlowmapError, with the recipes that are near, if there is none.
    """
    try:
        return read_text(file_of(path))
    except FileNotFoundError:
        raise FlowmapError(f"{path}: there is no such recipe{near(path)}") from None
    except IsADirectoryError:
        raise FlowmapError(f"{path}: is a folder, not a recipe{near(path / 'any')}") from None
    except TextError as error:
        raise FlowmapError(f"{path}: {error}") from None
    except OSError as error:
        raise FlowmapError(f"{path}: cannot be read: {error.strerror}") from None
