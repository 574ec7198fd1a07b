"""The kinds of component that a package can begin with."""

from __future__ import annotations

from collections.abc import Mapping

KINDS: Mapping[str, str] = {
    "backbone": "backbone",
    "objective": "objective",
    "sampler": "sampler",
    "data": "data source",
    "metric": "metric",
}
"""Each has a template; and what a sentence calls one."""


def one_of(kind: str) -> str:
    """One of `kind`, which may be a kind without a template, as a sentence has it."""
    word = KINDS.get(kind, kind)
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
