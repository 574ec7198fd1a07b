"""The recipes that flowmap brings: found by name, whether it is installed or a clone, and what each says of itself."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

from flowmap.files.texts import is_folder

_PACKAGE = Path(__file__).parents[1]
# A wheel has them in the package; in a clone the package's folder has none, and they lie beside it.
_PLACES = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")
SUFFIX = ".toml"
"""Of the file of a recipe, which is called by its name."""


@cache
def shipped() -> dict[str, Path]:
    """The file of each recipe and comparison that flowmap brings, by its name, in alphabetical order."""
    folder = next((place for place in _PLACES if is_folder(place)), None)
    return {} if folder is None else {path.stem: path for path in _recipes_in(folder)}


@final
@dataclass(frozen=True)
class Head:
    """What a recipe says of itself in the comment at its head, each in a line: what it is, how long, what it needs.

    What it does not say is empty.
    """

    about: str
    takes: str
    needs: str


def head_of(text: str) -> Head:
    """The head of the recipe `text`: the first sentence of its first comment, and its lines `Takes:` and `Needs:`."""
    comment = re.match(r"(?:#:.*\n|\s*\n)*((?:#.*\n)*)", text)
    lines = [line.removeprefix("#").strip() for line in comment[1].splitlines()] if comment else []
    said = dict(line.rstrip(".").split(": ", 1) for line in lines if line.startswith(("Takes: ", "Needs: ")))
    prose = " ".join(lines[: lines.index("")] if "" in lines else lines)
    sentence = re.match(r".*?[.?](?= |$)|.*", prose)
    return Head(sentence[0].rstrip(".") if sentence else "", said.get("Takes", ""), said.get("Needs", ""))


def file_of(path: Path) -> Path:
    """The file that is meant by `path`: what is there, or else the recipe of that name that flowmap brings.

    A folder of that name is in nobody's way. What is neither is returned as it is.
    """
    there = os.path.exists(path) and not is_folder(path)
    return path if there else shipped().get(str(path), path)


def near(path: Path) -> str:
    """The recipes that somebody may have meant who wrote `path`, as a message ends; nothing if there are none."""
    if path.suffix != SUFFIX and len(path.parts) == 1:
        # A bare name, which would be one of ours, or lacks the suffix of one that lies here.
        files = [str(file) for folder in (Path(), Path("recipes")) for file in _recipes_in(folder)]
        likely = _nearest(str(path), {Path(file).stem: file for file in reversed(files)} | {n: n for n in shipped()})
        return f", neither a file nor one that flowmap brings: {', '.join(shipped())}{_hint(likely)}"
    folder = path.parent if is_folder(path.parent) else Path("recipes")
    names = [file.name for file in _recipes_in(folder)]
    found = _nearest(path.name, {name: str(folder / name) for name in names})
    if not found and path.stem in shipped():
        return f"; flowmap brings one of that name: write '{path.stem}'"
    return f"; {folder}/ has: {', '.join(names)}{_hint(found)}" if names else ""


def _recipes_in(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob(f"*{SUFFIX}"))
    except OSError:
        return []  # a folder that cannot be read has nothing to offer


def _nearest(word: str, meant: dict[str, str]) -> str | None:
    found = difflib.get_close_matches(word, meant, n=1)
    return meant[found[0]] if found else None


def _hint(found: str | None) -> str:
    return f". Did you mean '{found}'?" if found else ""
