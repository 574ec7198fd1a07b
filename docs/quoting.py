"""Quotes of the source, as an extension of Python-Markdown: pages show the code there is, and no copy of it.

A line `!quote PATH NAME` becomes a block of the class or function NAME (`Class.method`) without its docstring, and
`!quote PATH NAME | FIRST ... LAST` of its lines from the first that begins with FIRST to the next that begins with
LAST. What is not found stops the build: the page has to be read again.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any, final

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

_QUOTE = re.compile(r"^!quote (\S+) (\S+)(?: \| (.+?) \.\.\. (.+))?$")
_BEFORE_FENCES = 28


def quoted(line: str, root: Path) -> str | None:
    """The source that a line asks for; None if it is no quote. Raises LookupError if there is no such source."""
    asked = _QUOTE.match(line)
    if asked is None:
        return None
    path, name, first, last = asked.groups()
    lines = (root / path).read_text().splitlines()
    node: Any = ast.parse("\n".join(lines))
    for part in name.split("."):
        node = next((inner for inner in node.body if getattr(inner, "name", "") == part), None)
        if node is None:
            raise LookupError(f"{path} has no {name}")
    decorated = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    kept = lines[decorated - 1 : node.end_lineno]
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        del kept[docstring.lineno - decorated : docstring.end_lineno - decorated + 1]
    if first is not None:
        start = _starting(kept, first, 0, line)
        kept = kept[start : _starting(kept, last, start, line) + 1]
    return textwrap.dedent("\n".join(kept))


def _starting(lines: list[str], text: str, after: int, asked: str) -> int:
    for index, line in enumerate(lines[after:], after):
        if line.strip().startswith(text):
            return index
    raise LookupError(f"no line begins with '{text}': {asked}")


@final
class _Quotes(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        made: list[str] = []
        for line in lines:
            source = quoted(line, Path.cwd())
            made += [line] if source is None else ["```python", *source.split("\n"), "```"]
        return made


@final
class Quoting(Extension):
    """See the module."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register the part."""
        md.preprocessors.register(_Quotes(md), "quotes", _BEFORE_FENCES)


def makeExtension(**options: Any) -> Quoting:  # noqa: N802
    """How Python-Markdown finds an extension in a module."""
    return Quoting(**options)
