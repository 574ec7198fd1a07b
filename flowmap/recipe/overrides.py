"""`--set a.b=value`: change one field of a recipe before it is checked."""

from __future__ import annotations

import tomllib
from typing import Any

from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.files.texts import MOST_DEPTH, TextError, parse_toml
from flowmap.recipe.lines import Path
from flowmap.recipe.messages import SHOWN, Source
from flowmap.schema.words import plain, unknown_word


def override(source: Source, text: str) -> None:
    """Apply `text`, as in `stages.teacher.steps=10`, to the tables of `source`, and note where it did.

    An element of an array goes by its name, stage, type or position. The value is TOML; what is no TOML is a
    string. Tables on the way are made where they are missing. Raises FlowmapError if the field cannot exist, or if this
    would undo what was set under another name; of the same name the last counts.
    """
    _refuse_unreadable(text)
    _, equals, value = text.partition("=")
    said = plain(text, SHOWN)
    parts = _key(text)
    if not equals or not all(parts):
        raise FlowmapError(f"{option('set', said)}: must look like field.of.the.recipe=value")
    if len(parts) > MOST_DEPTH:
        raise FlowmapError(f"{option('set', said)}: has {len(parts)} fields within one another, and no recipe has")
    node: Any = source.raw
    path: Path = ()
    for part in parts[:-1]:
        made = isinstance(node, dict) and part not in node
        node, step = _enter(node, part, said)
        path = (*path, step)
        if made:
            source.overridden[path] = text
    if not isinstance(node, dict | list):
        inside = plain(".".join(parts[:-1]), SHOWN)
        raise FlowmapError(f"{option('set', said)}: '{inside}' is a single value; it has no field '{plain(parts[-1])}'")
    step = _step(node, parts[-1], said)
    path = (*path, step)
    _refuse_second(source, path, text)
    node[step] = _value(value)
    source.overridden[path] = text


def _refuse_second(source: Source, path: Path, text: str) -> None:
    """Refuse to undo what a --set of another field, or of this one under another name, has done."""
    for earlier, by in source.overridden.items():
        if earlier[: len(path)] == path and _key(by) != _key(text):
            raise FlowmapError(
                f"{option('set', plain(text, SHOWN))}: undoes {option('set', plain(by, SHOWN))}, which sets the same "
                "field or one in it; give one of them"
            )


def _key(text: str) -> list[str]:
    """The names of the field that a --set gives, from the outermost in."""
    return [part.strip() for part in text.partition("=")[0].split(".")]


def _enter(node: Any, part: str, text: str) -> tuple[Any, str | int]:
    """The table or array `part` of `node`, made if it is missing, and how `node` is indexed for it."""
    if not isinstance(node, dict | list):
        raise FlowmapError(f"{option('set', text)}: '{plain(part)}' is asked of a single value; it has no fields")
    step: Any = _step(node, part, text)
    inside = node.setdefault(step, {}) if isinstance(node, dict) else node[step]
    if isinstance(inside, str):
        # A component by its bare name: the table that the name stands for can take further fields.
        inside = node[step] = {"type": inside}
    return inside, step


def _step(node: Any, part: str, text: str) -> Any:
    """What indexes `part` of a table or an array."""
    if isinstance(node, dict):
        return part
    labels = [_label(element, position) for position, element in enumerate(node)]
    if part in labels:
        return labels.index(part)
    if part.isdecimal() and len(part) < 10 and int(part) < len(node):
        return int(part)
    raise FlowmapError(f"{option('set', text)}: {unknown_word('element', part, labels)}")


def _label(element: Any, position: int) -> str:
    if not isinstance(element, dict):
        return str(element)
    return str(element.get("name") or element.get("stage") or element.get("type") or position)


def _refuse_unreadable(text: str) -> None:
    """Refuse what could not be written into a recipe again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = plain(text.encode("utf-8", "backslashreplace").decode(), SHOWN)
        raise FlowmapError(f"{option('set', shown)}: is not UTF-8 text") from None


def _value(text: str) -> Any:
    try:
        parsed = parse_toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text.strip()
    except TextError as error:
        raise FlowmapError(f"{option('set', f'...={plain(text, SHOWN)}')}: {error}") from None
    # A line break would let further fields in by the back door.
    return parsed["value"] if len(parsed) == 1 else text
