"""A recipe of one's own, as a copy of another: `flowmap new recipe`. Torch-free."""

from __future__ import annotations

import os
import re
from pathlib import Path

from flowmap.errors import FlowmapError
from flowmap.files.texts import parse_toml
from flowmap.files.whole import write_whole
from flowmap.recipe.read import tables_of, text_of
from flowmap.recipe.shipped import SUFFIX, shipped
from flowmap.schema.bounds import MOST_NAME
from flowmap.schema.words import NAME, plain

_TOP_NAME = re.compile(r"^name[ \t]*=.*$", re.MULTILINE)
_SCHEMA = re.compile(r"#:schema (\S+)\n\s*")
_FIRST_TABLE = re.compile(r"^\[", re.MULTILINE)


def write_copy(name: str, source: Path) -> tuple[Path, bool]:
    """Write the recipe or comparison `source` into the current folder as `name`.toml, under that name.

    Returns the file, and whether it is a comparison. Raises FlowmapError if `name` is none, is taken, or `source` is no
    recipe.
    """
    name = name.removesuffix(SUFFIX)
    if not re.match(NAME, name) or len(name) > MOST_NAME:
        raise FlowmapError(
            f"'{plain(name)}' is no name for a recipe: use at most {MOST_NAME} letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit; it is written into the current folder"
        )
    if name in shipped():
        raise FlowmapError(f"flowmap itself brings a recipe called '{name}'; choose another name")
    text = text_of(source)
    tables = tables_of(source, text)
    copied = _renamed(_without_lost_schema(text), str(source), name)
    if parse_toml(copied) != {**tables, "name": name}:
        raise FlowmapError(f"{source}: has no line 'name = ...' of its own at the top, which the copy would change")
    file = Path(name + SUFFIX)
    if os.path.lexists(file):
        raise FlowmapError(f"{file} is there already, and is not overwritten; choose another name")
    write_whole(file, copied)
    return file, "contestants" in tables


def _renamed(text: str, source: str, name: str) -> str:
    """`text` with another name, in the commands that its comments give too."""
    table = _FIRST_TABLE.search(text)
    top = text[: table.start()] if table else text
    # A function, for a string would be read for groups.
    renamed = _TOP_NAME.sub(lambda _: f'name = "{name}"', top, count=1) + text[len(top) :]
    command = re.compile(rf"^(#.*\bflowmap \w+ ){re.escape(source)}(?![\w.-])", re.MULTILINE)
    return command.sub(lambda found: f"{found[1]}{name}{SUFFIX}", renamed)


def _without_lost_schema(text: str) -> str:
    """`text` without a first line that leads editors to a schema, unless that lies in the current folder too."""
    found = _SCHEMA.match(text)
    return text if found is None or Path(found[1]).is_file() else text[found.end() :]
