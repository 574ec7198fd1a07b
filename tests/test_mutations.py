"""Whatever stands in a recipe or a comparison, `flowmap check` answers in lines that say where, or finds it right."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import tomli_w

from .mutations import ill_said, mutated_recipes, mutated_settings, outcome

pytestmark = pytest.mark.usefixtures("here")

MOST_BYTES = 500_000_000


def _check(text: str, *settings: str) -> list[str]:
    said = outcome(text, Path("r.toml"), *settings)
    assert not ill_said(said)
    return said


@pytest.mark.parametrize(("seed", "count"), [(0, 80), pytest.param(1, 200, marks=pytest.mark.slow)])
def test_what_is_wrong_with_any_recipe_is_said(seed: int, count: int) -> None:
    """The long form is tests/faults; what is tried is the same at every run."""
    refused = sum(any("warning: " not in line for line in _check(text)) for text in mutated_recipes(seed, count))
    # Neither is what is tried nonsense throughout, nor is it all right.
    assert 0.25 * count < refused < 0.95 * count


def test_what_is_wrong_with_any_setting_is_said() -> None:
    found = [_check(text, setting) for text, setting in mutated_settings(0, 100)]
    assert 20 < sum(any("warning: " not in line for line in said) for said in found) < 95


def test_the_same_seed_gives_the_same_recipes() -> None:
    assert list(mutated_recipes(3, 5)) == list(mutated_recipes(3, 8))[:5]
    assert list(mutated_recipes(3, 5)) != list(mutated_recipes(4, 5))


OTHERS = {"objective": {"type": "backward_simulation", "forward": "flow_map"}, "steps": 10, "batch": 64}
STAGES = [{"name": f"s{n}", **OTHERS, "roles": {"student": {"from": f"s{n - 1}"}} if n else {}} for n in range(64)]
ARCHITECTURE = {"weights": "random", "architecture": {"channels": 1, "text_dim": 16}}
BASE = {
    "data": {"type": "moving_digits", "frames": 2**16, "size": 32},
    "backbone": {"type": "far_wan21", "chunks": [16] * 4096, **ARCHITECTURE},
}
CONTESTS = [{"stage": f"s{n % 64}", "samplers": ["flow_map", *["gamma"] * 15], "context": 16 * n} for n in range(256)]
EVALUATION = {"teacher": "s0", "metrics": ["frechet_pixels"]}
LARGEST = {
    "as many as are let in, of all": {
        "name": "a",
        **BASE,
        "seeds": list(range(1000)),
        "stages": STAGES,
        "evaluation": {**EVALUATION, "calls": list(range(1, 65)), "contests": CONTESTS},
    },
    "a comparison": {
        "name": "a",
        "budget": {"amount": 1e18},
        "recipe": {**BASE, "stages": STAGES[:8], "evaluation": EVALUATION},
        "contestants": [
            {"name": f"c{n}", "samplers": ["flow_map"], "stages": [{"name": f"t{m}", **OTHERS} for m in range(8)]}
            for n in range(64)
        ],
    },
    "unknown fields": {"name": "a", **BASE, **{f"key{n}": n for n in range(3000)}},
    "wrong elements": {"name": "a", **BASE, "seeds": ["x"] * 5000, "stages": [{}] * 500},
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_recipes_are_looked_at_in_little_memory(name: str) -> None:
    text = tomli_w.dumps(LARGEST[name])
    tracemalloc.start()
    try:
        _check(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES


def test_objectives_inside_objectives_are_refused_where_they_are_read() -> None:
    """Each would look at all those inside it, and more often than once."""
    text = tomli_w.dumps({"name": "a", "data": "gaussian", "backbone": "gaussian"}) + "[[stages]]\nname='s'\n"
    text += "steps=1\nbatch=8\n" + "".join(f"[stages.objective{'.forward' * n}]\ntype='rcm'\n" for n in range(50))
    (said,) = _check(text)
    assert said.endswith("'rcm' cannot be co-trained: it must train the student's flow map and nothing else")
