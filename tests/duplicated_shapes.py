"""Where code repeats itself: six lines that stand in two places, to the letter or with other names.

What does not count is what cannot be said once. To the letter: imports, docstrings, comments, and lines of one word or
of none (a name in a list, a bracket). With other names also: the fields of a class, parameters, decorators, and rows of
a table, all of which look alike by nature; and such a run ends where its class or function does, for small classes of
one kind stand one after the other.
"""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import final

LINES = 6

_NO_CODE = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
_LITERAL = re.compile(r"[a-zA-Z]{0,2}[\"']|[0-9]")
_VALUE = r"(?:[\w.]+|literal|\(\))"
# A decorator; a parameter; a row of a table: literals alone, or a literal and the name of its value.
_PLAIN = re.compile(
    rf"@.*|\*?\*?\w+ : [^=(]*(= {_VALUE} )?, ?|(literal|[-(){{}}\[\],: ]|True|False|None)*|literal : [\w. ]+,"
)


@final
@dataclass(frozen=True)
class Line:
    """A line that counts: its number, the class or function of its module it is in, its words, and if it is logic."""

    number: int
    owner: int
    words: tuple[str, ...]
    logic: bool


def duplicates(root: Path, files: Iterable[Path]) -> list[str]:
    """The pairs of places that share a run of six lines, as "a.py:10 ~ b.py:40", with the first line of each."""
    places: dict[object, list[tuple[str, int]]] = defaultdict(list)
    for path in files:
        name, lines = str(path.relative_to(root)), _lines(path.read_text("utf-8"))
        for run in _runs(lines):
            places["to the letter", tuple(line.words for line in run)].append((name, run[0].number))
        for run in _runs([line for line in lines if line.logic]):
            if run[0].owner == run[-1].owner:
                places["with other names", _renamed(run)].append((name, run[0].number))
    pairs = {pair for same in places.values() for pair in combinations(same, 2)}
    # A run is no duplicate of itself a line further on.
    return [f"{a}:{m} ~ {b}:{n}" for (a, m), (b, n) in sorted(pairs) if a != b or abs(m - n) >= LINES]


def _runs(lines: Sequence[Line]) -> list[Sequence[Line]]:
    return [lines[first : first + LINES] for first in range(len(lines) - LINES + 1)]


def _renamed(run: Sequence[Line]) -> object:
    """The run with every name as the number of its first place in it, so that names count, but not what they are."""
    numbers: dict[str, int] = {}
    return tuple(
        tuple(numbers.setdefault(word, len(numbers)) if _is_name(word) else _shape(word) for word in line.words)
        for line in run
    )


def _is_name(word: str) -> bool:
    return word.isidentifier() and not keyword.iskeyword(word)


def _shape(word: str) -> str:
    return "literal" if _LITERAL.match(word) else word


def _lines(text: str) -> list[Line]:
    """The lines of a module that count."""
    tree = ast.parse(text)
    left_out, fields, owners = set[int](), set[int](), dict[int, int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_text(node):
            left_out |= _span(node)
        elif isinstance(node, ast.ClassDef):
            fields |= {line for part in node.body if isinstance(part, ast.AnnAssign) for line in _span(part)}
    for place, node in enumerate(tree.body):
        owners |= dict.fromkeys(_span(node), place)
    words = defaultdict[int, list[str]](list)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE and token.start[0] not in left_out:
            words[token.start[0]].append(token.string)
    return [
        Line(number, owners.get(number, -1), tuple(found), number not in fields and not _is_plain(found))
        for number, found in sorted(words.items())
        if sum(word.isidentifier() or _shape(word) == "literal" for word in found) > 1
    ]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_plain(words: Sequence[str]) -> bool:
    return _PLAIN.fullmatch(" ".join(map(_shape, words))) is not None


def _span(node: ast.AST) -> set[int]:
    assert isinstance(node, ast.stmt)
    assert node.end_lineno is not None
    return set(range(node.lineno, node.end_lineno + 1))
