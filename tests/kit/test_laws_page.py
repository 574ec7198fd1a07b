"""docs/laws.md says what the checks prove, each law at an anchor of its own."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from flowmap import interfaces, plugin
from flowmap.maths import draw
from flowmap.plugin.catalogue import KINDS
from flowmap.schema import specs
from flowmap.testing import CHECKS, checks_of

from ..doc_scripts import doc_script

PAGE = Path(__file__).parents[2] / "docs" / "laws.md"
ALL = [check for kind in KINDS for check in checks_of(kind)]


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == doc_script("laws").page().rstrip() + "\n", "run: python docs/laws.py"


def test_every_kind_has_laws_and_every_law_an_anchor() -> None:
    assert CHECKS.keys() == KINDS.keys()
    anchors = re.findall(r'<a id="(.*?)">', PAGE.read_text())
    assert len(anchors) == len(set(anchors))
    assert {check.anchor for check in ALL} == set(anchors)


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.anchor)
def test_what_states_a_law_is_there(check: object) -> None:
    """Each name is a class or a member of one that is public."""
    footprint = importlib.import_module("flowmap.plugin.footprint")
    for name in check.stated.split(", "):  # type: ignore[attr-defined]
        first, _, rest = name.partition(".")
        owner = next(
            getattr(module, first) for module in (interfaces, plugin, draw, specs, footprint) if hasattr(module, first)
        )
        fields = getattr(owner, "model_fields", {}) | getattr(owner, "__dataclass_fields__", {})
        annotations = {k for base in owner.__mro__ for k in vars(base).get("__annotations__", {})}
        assert not rest or hasattr(owner, rest) or rest in fields or rest in annotations, name


def test_laws_are_sentences_and_names_are_stable_words() -> None:
    for check in ALL:
        assert re.fullmatch(r"[a-z_]+", check.name), check.name
        assert check.law[0].isupper(), check.law
        assert check.law.endswith("."), check.law
