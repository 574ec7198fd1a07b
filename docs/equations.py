"""What Markdown lacks for our pages, as an extension of Python-Markdown: the site (`make docs`) is built with it.

Equations, `$u$` within a line and numbered ones between lines of `$$`, become MathML while the site is built: browsers
draw that themselves, so that pages need no script and no font from elsewhere. The number of an equation is its `\\tag`,
and its anchor `#eq-<number>`. Pages that quote files of the repository's root keep those files' links.
"""

from __future__ import annotations

import re
from typing import Any, final
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor

_INLINE = r"\$(?=\S)([^$\n]+?)(?<=\S)\$"
_DISPLAY = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.DOTALL | re.MULTILINE)
_TAG = re.compile(r"\s*\\tag\{(\w+)\}")
_AFTER_FENCES, _BEFORE_ESCAPES = 22, 185
# Links as they are written in the repository's root, where README, CONTRIBUTING and CHANGELOG are.
_FROM_ROOT = ((r"\]\(docs/", "]("), (r"\]\(CONTRIBUTING\.md", "](contributing.md"))


@final
class _Inline(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[Element | str, int, int]:  # type: ignore[override]  # noqa: N802
        return self.md.htmlStash.store(convert(m[1])), m.start(0), m.end(0)


@final
class _Display(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return _DISPLAY.sub(self._equation, "\n".join(lines)).split("\n")

    def _equation(self, found: re.Match[str]) -> str:
        number = _TAG.search(found[1])
        mathml = convert(_TAG.sub("", found[1]), display="block")
        anchor, label = "", ""
        if number is not None:
            anchor = f' id="eq-{number[1]}"'
            label = f'<a class="number" href="#eq-{number[1]}">({number[1]})</a>'
        return self.md.htmlStash.store(f'<div class="equation"{anchor}><div>{mathml}</div>{label}</div>')


@final
class _RootLinks(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        for written, here in _FROM_ROOT:
            lines = [re.sub(written, here, line) for line in lines]
        return lines


@final
class Equations(Extension):
    """See the module."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register the parts, in Python-Markdown's order of priorities."""
        md.preprocessors.register(_RootLinks(md), "links from the root", _AFTER_FENCES + 1)
        md.preprocessors.register(_Display(md), "equations", _AFTER_FENCES)
        md.inlinePatterns.register(_Inline(_INLINE, md), "inline equations", _BEFORE_ESCAPES)


def makeExtension(**options: Any) -> Equations:  # noqa: N802
    """How Python-Markdown finds an extension in a module."""
    return Equations(**options)
