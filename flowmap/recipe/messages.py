"""Turn what is wrong with a recipe into one short line each: file, line, field, what is allowed."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flowmap.console.options import option
from flowmap.recipe.lines import Path, line_of
from flowmap.schema.bounds import shown
from flowmap.schema.config import Finding
from flowmap.schema.words import NAME, plain


@dataclass(frozen=True)
class Source:
    """A recipe as it was written: the file's name and text, the parsed tables, the `--set` overrides."""

    name: str
    text: str
    raw: dict[str, Any]
    overridden: dict[Path, str] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of the file where `path`, or else its nearest parent, is set."""
        return line_of(self.text, path)

    def place(self, path: Path) -> str:
        """Where `path` was set: `file:line`, or the `--set` that did it or that set a field of it."""
        parents = [path[:length] for length in range(len(path), 0, -1)]
        children = [set_path for set_path in self.overridden if set_path[:-1] == path]
        for candidate in (*parents, *children):
            if candidate in self.overridden:
                return option("set", plain(self.overridden[candidate], SHOWN))
        return f"{self.name}:{self.line(path)}"

    def dotted(self, path: Path) -> str:
        """`path` as `--set` spells it: stages by name, other elements by position."""
        words: list[str] = []
        node: Any = self.raw
        for part in path:
            try:
                node = node[part]
            except (LookupError, TypeError):
                node = None
            named = isinstance(part, int) and isinstance(node, dict) and isinstance(node.get("name"), str)
            words.append(plain(node["name"] if named else str(part)))
        return ".".join(words)


def explain(findings: Iterable[Finding], source: Source) -> list[str]:
    """One line for each of `findings`, in the order of the file."""
    ordered = sorted(findings, key=lambda f: source.line(f.field))
    told = [
        f"{source.place(f.field)}: {source.dotted(f.field)}: {'' if f.level == 'error' else 'warning: '}{f.message}"
        for f in ordered[:_MOST_TOLD]
    ]
    more = len(ordered) - len(told)
    return [*told, f"{source.name}: and {more:,} more like these"] if more else told


def explain_validation(error: ValidationError, source: Source) -> list[str]:
    """One line for each problem that pydantic found, in the order of the file."""
    return explain(validation_findings(error), source)


def validation_findings(error: ValidationError) -> list[Finding]:
    """Each problem that pydantic found, in words."""
    problems = error.errors()
    messages: dict[Path, str] = {}
    for details in problems:
        path: Path = tuple(details["loc"])
        if details["type"] == "missing" and isinstance(path[-1], int):
            # The last one that is missing from a tuple of fixed length tells the length.
            messages[path[:-1]] = f"must have {_elements(path[-1] + 1)}, not {len(details['input'])}"
        elif not (details["type"] == "too_short" and _has_problems_inside(path, problems)):
            messages[path] = _message(details)
    return [Finding("error", path, message) for path, message in messages.items()]


def explain_syntax(error: tomllib.TOMLDecodeError, name: str, text: str) -> str:
    """One line for text that is not TOML."""
    what, _, where = str(error).partition(" (at ")
    found = re.match(r"line (\d+), column (\d+)", where)
    line, column = found.groups() if found else (str(text.rstrip("\n").count("\n") + 1), "the end")
    # Python shows a key as a tuple of its parts; the user wrote dots between them.
    what = re.sub(r"\(('[^()]*',?)\)", lambda m: f"'{'.'.join(re.findall(_QUOTED, m[1]))}'", what)
    return f"{name}:{line}: invalid TOML: {what[0].lower()}{what[1:]} (column {column})"


def _has_problems_inside(path: Path, problems: Iterable[ErrorDetails]) -> bool:
    """Whether an array seems too short only because its elements were refused."""
    return any(len(p["loc"]) > len(path) and tuple(p["loc"])[: len(path)] == path for p in problems)


_QUOTED = r"'([^']*)'"

_MOST_TOLD = 200  # problems of one recipe
SHOWN = 240
"""Characters of a setting that are shown."""

_MOST_BITS = 8192  # of a whole number that is shown; Python itself writes no more than 4300 digits

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "tuple": "an array",
    "list": "an array",
    "model": "a table",
    "dict": "a table",
}
"""What a value must be, by the beginning of the type of pydantic's error."""

_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


def _message(details: ErrorDetails) -> str:
    given, kind, context = details["input"], details["type"], details.get("ctx", {})
    wanted = _KINDS.get(kind.removesuffix("_type")) or details["msg"].removeprefix("Input should be ")
    message = f"must be {wanted[0].lower()}{wanted[1:]}, not {_shown(given)}"
    if kind == "float_type" and isinstance(given, int) and not isinstance(given, bool):
        message = f"must be a number that floating point has, not {_shown(given)}"
    elif wanted == "an array" and not isinstance(given, dict):
        message += f"; write [{_shown(given)}]"
    elif kind in _BOUNDS:
        message = f"must be {_BOUNDS[kind]} {shown(next(iter(context.values())))}, not {_shown(given)}"
    elif kind == "missing":
        message = "this field is required"
    elif kind == "literal_error":
        message = _not_allowed(given, re.findall(_QUOTED, str(context.get("expected", ""))))
    elif kind == "too_short":
        least = context["min_length"]
        message = "must not be empty" if least == 1 else f"must have at least {_elements(least)}, not {len(given)}"
    elif kind == "too_long":
        message = f"must have at most {_elements(context['max_length'])}, not {len(given)}"
    elif kind == "string_too_long":
        message = f"must have at most {shown(context['max_length'])} characters, not {len(given):,}"
    elif kind == "string_pattern_mismatch" and context.get("pattern") == NAME:
        rule = "use letters, digits, '.', '_' and '-', beginning with a letter or digit"
        message = f"{_shown(given)} is not a name; {rule}"
    elif kind in ("explained", "value_error"):
        message = details["msg"].removeprefix("Value error, ")
    return message


def _not_allowed(given: Any, allowed: list[str]) -> str:
    near = difflib.get_close_matches(plain(given) if isinstance(given, str) else "", allowed, n=1, cutoff=0.5)
    hint = f". Did you mean '{near[0]}'?" if near else ""
    return f"{_shown(given)} is not allowed; allowed: {', '.join(allowed)}{hint}"


def _elements(count: int) -> str:
    return "1 element" if count == 1 else f"{count} elements"


def _shown(value: Any) -> str:
    """`value` as a recipe has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "an array"
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a number of {value.bit_length():,} bits"
    text = repr(value) if isinstance(value, str | int | float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
