"""docs/derivations.md: its equations hold where a closed form is known, and docstrings cite equations that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from .doc_scripts import doc_script
from .maths.support import MIXTURE, mixture

ROOT = Path(__file__).parents[1]
CITED = re.compile(r"docs/derivations\.md, eqs?\.\s+([\d,\sand]+?)\)")
T, R, S = 0.8, 0.3, 0.55
H = 1e-4


def at(time: float) -> Tensor:
    return torch.tensor(time, dtype=torch.float64)


def velocity(x: Tensor, t: float) -> Tensor:
    return mixture(MIXTURE).velocity(x, at(t))


def jump(x: Tensor, t: float, r: float) -> Tensor:
    return mixture(MIXTURE).map(x, at(t), at(r))


def mean_velocity(x: Tensor, t: float, r: float) -> Tensor:
    return (x - jump(x, t, r)) / (t - r)


X = torch.linspace(-2, 2, 41, dtype=torch.float64)


def test_equations_are_numbered_in_order() -> None:
    tags = re.findall(r"\\tag\{(\d+)\}", (ROOT / "docs/derivations.md").read_text())
    assert tags == [str(number) for number in range(1, len(tags) + 1)]


def test_equation_2_is_the_flow_of_the_mixture() -> None:
    """A fine Runge-Kutta solution of dx/dt = v arrives where the closed form of the map says."""
    x, steps = X.clone(), 200
    h = (T - R) / steps
    for k in range(steps):
        t = T - k * h
        a = velocity(x, t)
        b = velocity(x - h / 2 * a, t - h / 2)
        c = velocity(x - h / 2 * b, t - h / 2)
        x = x - h / 6 * (a + 2 * b + 2 * c + velocity(x - h * c, t - h))
    assert (x - jump(X, T, R)).abs().max() < 1e-8


def test_equations_5_to_7_semigroup() -> None:
    assert (mean_velocity(X, T, T - 1e-6) - velocity(X, T)).abs().max() < 1e-4
    by_way = jump(jump(X, T, S), S, R)
    assert (by_way - jump(X, T, R)).abs().max() < 1e-10
    share = (T - S) / (T - R)
    composed = share * mean_velocity(X, T, S) + (1 - share) * mean_velocity(jump(X, T, S), S, R)
    assert (composed - mean_velocity(X, T, R)).abs().max() < 1e-9


def test_equations_8_and_9_lagrangian() -> None:
    arrived = velocity(jump(X, T, R), R)
    speed = (jump(X, T, R + H) - jump(X, T, R - H)) / (2 * H)
    assert (speed - arrived).abs().max() < 1e-5
    slope = (mean_velocity(X, T, R + H) - mean_velocity(X, T, R - H)) / (2 * H)
    assert (mean_velocity(X, T, R) - (T - R) * slope - arrived).abs().max() < 1e-5


@pytest.mark.parametrize("h", [4e-3, 2e-3])
def test_equations_10_to_13_mean_flow_identity_by_a_central_difference_of_second_order(h: float) -> None:
    def residual(h: float) -> float:
        v = velocity(X, T)
        du_dt = (mean_velocity(X + h * v, T + h, R) - mean_velocity(X - h * v, T - h, R)) / (2 * h)
        return float((mean_velocity(X, T, R) - v + (T - R) * du_dt).abs().max())

    assert residual(h) < 1e-2
    assert residual(h) / residual(h / 2) == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_equations_22_and_23_keep_the_distribution_at_every_time(gamma: float) -> None:
    """Mean and variance of x_r, for normal data of which both are known."""
    mean, std, s = 0.5, 0.4, (1 - gamma) * R
    a = (1 - R) / (1 - s)
    assert a * (1 - s) * mean == pytest.approx((1 - R) * mean)
    variance = a**2 * ((1 - s) ** 2 * std**2 + s**2) + R**2 - a**2 * s**2
    assert variance == pytest.approx((1 - R) ** 2 * std**2 + R**2)


def test_every_citation_of_an_equation_leads_to_one() -> None:
    page = (ROOT / "docs/derivations.md").read_text()
    found = 0
    for file in (f for folder in ("flowmap", "plugins") for f in (ROOT / folder).glob("**/*.py")):
        text = file.read_text()
        citations = CITED.findall(text)
        assert len(citations) == text.count("docs/derivations.md"), f"{file}: cite as (docs/derivations.md, eq. 3)"
        for number in re.findall(r"\d+", " ".join(citations)):
            assert f"\\tag{{{number}}}" in page, f"{file} cites equation {number}"
            found += 1
    assert found > 20


def test_every_objective_and_sampler_cites_its_equations() -> None:
    """Modules of configurations aside; and every equation but those that others are derived by is cited somewhere."""
    cited: set[str] = set()
    for file in (f for folder in ("flowmap", "plugins") for f in (ROOT / folder).glob("**/*.py")):
        found = re.findall(r"\d+", " ".join(CITED.findall(file.read_text())))
        cited |= set(found)
        of_equations = file.parts[-3] in ("objectives", "samplers") and not re.search(
            r"__init__|configs|parts", file.stem
        )
        assert found or not of_equations, f"{file} cites no equation of docs/derivations.md"
    for number in ("16", "21", *map(str, range(28, 43))):
        assert number in cited, f"nobody cites equation {number}"


def test_a_quote_of_what_is_not_there_stops_the_build() -> None:
    pytest.importorskip("markdown")
    quoting = doc_script("quoting")
    whole = quoting.quoted("!quote flowmap/maths/path.py noised", ROOT)
    assert whole.splitlines()[0].startswith("def noised(")
    assert '"""' not in whole
    part = quoting.quoted("!quote flowmap/maths/path.py noised | t = ... return", ROOT)
    assert part == "t = like(t, x0)\nreturn (1 - t) * x0 + t * noise"
    for line in ("path.py", "path.py gone", "path.py noised | u = ... return"):
        with pytest.raises(LookupError) if " " in line else pytest.raises(AssertionError):
            assert quoting.quoted(f"!quote flowmap/maths/{line}", ROOT) is not None
