"""Turn what is wrong with a recipe into one short line each: file, line, field, what is allowed."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from flowmap.configs import Finding
from flowmap.locate import Path, line_of


@dataclass(frozen=True)
class Source:
    """A recipe as it was written: the file's name and text, the parsed tables, the `--set` overrides."""

    name: str
    text: str
    raw: dict[str, Any]
    overridden: dict[Path, str] = field(default_factory=dict)

    def place(self, path: Path) -> str:
        """Where `path` was set: `file:line`, or the `--set` that did it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return f"--set {self.overridden[path[:length]]}"
        return f"{self.name}:{line_of(self.text, path)}"

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
            words.append(node["name"] if named else str(part))
        return ".".join(words)


def explain(finding: Finding, source: Source) -> str:
    """One line for `finding`."""
    label = "" if finding.level == "error" else "warning: "
    return f"{source.place(finding.field)}: {source.dotted(finding.field)}: {label}{finding.message}"


def explain_validation(error: ValidationError, source: Source) -> str:
    """One line per problem that pydantic found, in the order of the file."""
    findings = [Finding("error", tuple(details["loc"]), _message(details)) for details in error.errors()]
    findings.sort(key=lambda f: line_of(source.text, f.field))
    return "\n".join(explain(f, source) for f in findings)


def _message(details: ErrorDetails) -> str:
    given = details["input"]
    match details["type"]:
        case "missing":
            return "this field is required"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", str(details.get("ctx", {}).get("expected", "")))
            near = difflib.get_close_matches(str(given), allowed, n=1, cutoff=0.5)
            hint = f". Did you mean '{near[0]}'?" if near else ""
            return f"{_shown(given)} is not allowed; allowed: {', '.join(allowed)}{hint}"
        case "string_pattern_mismatch":
            return f"{_shown(given)} is not a name; use letters, digits, '.', '_' and '-', beginning with a letter or digit"
        case "unknown_field" | "component_unknown" | "component_type" | "component_shape" | "value_error":
            return details["msg"].removeprefix("Value error, ")
        case _:
            wanted = details["msg"].removeprefix("Input should be ").split(", ")[0]
            return f"must be {wanted[0].lower()}{wanted[1:]}, not {_shown(given)}"


def _shown(value: Any) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
