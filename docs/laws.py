"""Write docs/laws.md from the checks of the conformance kit themselves: `python docs/laws.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flowmap.testing.check import Check
from flowmap.testing.configurations import LAWS
from flowmap.testing.kit import CHECKS

HEADER = """# The laws

What components of each kind promise, and the check of the conformance kit that proves each. This page is written by
`python docs/laws.py` from the checks themselves, and a test fails when it is out of date. The interfaces state the
laws; nothing is checked that none of them states. How to run the checks: [plugins.md](plugins.md#test-it).

A law of the tier *basic* holds for all components of its kind. The others hold for those with a capability
(`flowmap.testing.Capabilities` says what each is): flowmap finds out itself what it can, and a component may say
otherwise. A check that comes *after* others is not run where one of those failed, since that would show in it too.
"""

TITLES = {
    "configuration": "All configurations",
    "backbone": "Backbones",
    "data": "Data sources",
    "objective": "Objectives",
    "sampler": "Samplers",
    "metric": "Metrics",
    "features": "Features",
}


def page() -> str:
    """The whole page."""
    parts = {"configuration": tuple(LAWS), **CHECKS}
    return HEADER + "".join(f"\n## {TITLES[kind]}\n\n{''.join(_laws(checks))}" for kind, checks in parts.items())


def _laws(checks: Iterable[Check]) -> Iterable[str]:
    for check in checks:
        stated = ", ".join(f"`{name}`" for name in check.stated.split(", "))
        after = f" After {', '.join(f'`{name}`' for name in check.after)}." if check.after else ""
        equation = f" Equation: {check.equation}." if check.equation else ""
        yield f'<a id="{check.anchor}"></a>\n**`{check.name}`**: {check.law}\n\n'
        yield f"*{check.tier}*, stated by {stated}.{equation}{after}\n\n"


if __name__ == "__main__":
    (Path(__file__).parent / "laws.md").write_text(page().rstrip() + "\n")
