"""Metrics that are better when higher: every verdict is that of their mirror image, which is better when lower.

The mirror image of a score is 1 over it. Differences are of logarithms, so nothing that is said may change.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tomli_w
import torch

from flowmap.comparison.page import write_page
from flowmap.comparison.record import load
from flowmap.comparison.sentences import sentences
from flowmap.comparison.standings import Standings
from flowmap.files.json_lines import read_lines
from flowmap.interfaces import Evidence, Metric, References
from flowmap.plugin import Better, Finding, MetricConfig, SampleSpec
from flowmap.report.figures import Curve, Style, score_limits
from flowmap.report.page import write_report
from flowmap.statistics.claims import Control, claims
from flowmap.statistics.intervals import difference
from flowmap.statistics.scores import read_scores
from flowmap.statistics.sense import direction, times_better
from flowmap.statistics.spots import Spot
from flowmap.statistics.verdict import Cell, best, cells, costs_nothing
from flowmap.testing import check_metric
from flowmap.use.evaluate import evaluate
from tests.small_runs import EVALUATION, HEAD, TEACHER, planned, train_all
from tests.test_standings import CALLS, LEVELS, drawn, scored, verdicts

FLOOR = 0.9
CONTROL = Control("student", "ema", "control")


def lines(spread: float, start: int) -> list[dict[str, Any]]:
    """Scores of a teacher, of a student under two samplers and of its control; one draw for each of three seeds."""
    levels = {
        ("teacher", "euler"): (60, 30, 12, 4, 1.5),
        ("student", "flow_map"): (9, 5, 3, 2.5, 2.4),
        ("student", "consistency"): (9, 5, 3, 5, 8),
        ("control", "flow_map"): (12, 4, 2.9, 2.0, 0.7),
    }
    found = []
    for number, ((stage, sampler), values) in enumerate(levels.items()):
        for seed in range(3):
            rng = np.random.default_rng((start, number, seed))
            for calls, level in zip((1, 2, 4, 8, 16), values, strict=True):
                score = level * float(np.exp(rng.normal(0, spread)))
                line = {"stage": stage, "weights": "ema", "sampler": sampler, "nfe": calls, "metric": "m", "seed": seed}
                found.append(line | {"value": score, "values": [score], "spread": math.nan, "floor": FLOOR})
    return found


def mirrored(line: dict[str, Any]) -> dict[str, Any]:
    values = [1 / value for value in line["values"]]
    means = {"value": sum(values) / len(values)} if "value" in line else {}
    return line | {"values": values, "floor": 1 / line["floor"], "better": "higher"} | means


@pytest.mark.parametrize("spread", [0.02, 0.3])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_what_is_claimed_of_a_mirror_image_is_the_same(spread: float, start: int) -> None:
    one = lines(spread, start)
    other = [mirrored(line) for line in one]
    found, image = (claims(each, "teacher", [CONTROL]) for each in (one, other))
    compared = [claim for claim in found if claim.kind != "price"]  # in the metric's own unit, which 1 over it is not
    assert {claim.kind for claim in compared} == {"map", "consistency", "student", "gain"}
    assert len({claim.verdict for claim in compared}) > 1
    images = [claim for claim in image if claim.kind != "price"]
    for claim, its in zip(compared, images, strict=True):
        assert (claim.text, claim.verdict) == (its.text, its.verdict)
        for name in ("ratio", "low", "high", "over_floor"):
            assert getattr(its.found, name) == pytest.approx(getattr(claim.found, name)), name
        assert its.found.both_at_floor == claim.found.both_at_floor
        assert its.factor == pytest.approx(claim.factor, rel=4 * spread**2 + 1e-9)  # a mean of 1 over it is not 1 over
    assert best(cells(one), "m") == best(cells(other), "m")


def test_at_the_ceiling_a_perfect_model_is_no_better() -> None:
    def at(value: float) -> Cell:
        return cell(value, 0.0, 0.8)

    assert [at(value).at_floor for value in (0.7, 0.8, 0.9)] == [False, True, True]
    assert [at(value).raised for value in (0.7, 0.9, math.nan, math.inf)] == [0.7, 0.8, 0.0, 0.0]
    assert [at(value).spot.at_floor for value in (0.7, 0.9)] == [False, True]
    found = difference(at(0.9).spot, at(0.85).spot)
    assert (found.ratio, found.verdict) == (1.0, "same")


@pytest.mark.parametrize(
    ("after", "before", "better", "times"),
    [
        (1.0, 4.0, "lower", 4.0),
        (1.0, 4.0, "higher", 0.25),
        (0.0, 0.5, "higher", 0.0),  # no number
        (0.5, 0.0, "higher", math.inf),
        (math.inf, 0.5, "lower", 0.0),
    ],
)
def test_how_many_times_better(after: float, before: float, better: Better, times: float) -> None:
    assert times_better(after, before, better) == times


def test_a_score_that_is_no_number_is_the_worst_and_zero_the_next() -> None:
    good, none, bad = (cell(value, 0.01) for value in (0.5, 0.0, math.nan))
    assert difference(bad.spot, good.spot).verdict == "worse"
    assert difference(bad.spot, good.spot).mean == -math.inf
    assert difference(good.spot, bad.spot).mean == math.inf
    assert difference(none.spot, good.spot).ratio > 100
    table = cells([mirrored(line) | {"values": [math.nan], "value": math.nan} for line in lines(0.1, 0)])
    assert best(table, "m") == set()


def cell(value: float, noise: float = 0.0, ceiling: float = 1.0) -> Cell:
    draws = (value - noise, value, value + noise)
    return Cell(value, noise, None, ceiling, (0,), Spot({0: draws}, {0: ceiling}, "higher"))


@pytest.mark.parametrize(
    ("many", "expected"),
    [
        ((cell(0.90, 0.005), cell(0.90, 0.005)), "holds"),  # down to 0.987 times: 0.011 of the gain of 0.4
        ((cell(0.90, 0.044), cell(0.90, 0.044)), "holds"),  # down to 0.895 times: 0.094, and up to 1.117: 0.106
        ((cell(0.90, 0.06), cell(0.90, 0.06)), "noise"),  # down to 0.86 times: 0.126 is more than a quarter of it
        ((cell(0.90, 0.005), cell(0.60, 0.005)), "fails"),
    ],
)
def test_what_is_lost_is_a_share_of_what_is_gained(many: tuple[Cell, Cell], expected: str) -> None:
    gain = cell(0.3, 0.01), cell(0.7, 0.01)
    gained, change = (difference(stage.spot, control.spot, common_noise=False) for control, stage in (gain, many))
    assert gained.verdict == "better"
    assert costs_nothing(gain, gained, many, change) == expected
    if expected == "holds":
        turned = gain[1], gain[0]
        assert costs_nothing(turned, difference(gain[0].spot, gain[1].spot), many, change) == "noise"


@pytest.mark.parametrize("values", [(0.2, 0.9), (0.85, 0.95), (math.nan, 0.5)])
def test_the_axis_shows_how_far_below_the_ceiling_scores_are(values: tuple[float, float]) -> None:
    low, high = score_limits([Curve("", 0, Style(0), (1, 2), values, (0.0, 0.0))], 0.8, "higher")
    assert low < np.nanmin(values)
    assert high > max(0.8, np.nanmax(values))


# A comparison


def mirror(found: Standings, folder: Path, remark: str = "") -> Standings:
    """The same folder with the mirror images of all scores."""
    for path in found.folder.rglob("metrics.jsonl"):
        told = [mirrored(line) | {"remarks": [remark] * bool(remark)} for line in read_lines(path)]
        home = folder / path.relative_to(found.folder)
        home.parent.mkdir(parents=True)
        home.write_text("".join(json.dumps(line) + "\n" for line in told))
    (folder / "comparison.json").write_bytes((found.folder / "comparison.json").read_bytes())
    return load(folder)


def without_scores(text: str) -> str:
    return re.sub(r"\([\d.e-]+\)", "()", text)


@pytest.mark.parametrize("against", [None, "anna"])
def test_a_comparison_says_the_same_of_a_mirror_image(tmp_path: Path, against: str | None) -> None:
    # One draw a seed, and nothing so bad that it is below a thousandth of the ceiling.
    scores = {name: 0.1 * values[..., :1] for name, values in drawn(LEVELS).items()}
    found = scored(tmp_path / "one", scores, against)
    image = mirror(found, tmp_path / "other")
    assert [without_scores(text) for text in sentences(image)] == [without_scores(text) for text in sentences(found)]
    assert verdicts(image) == verdicts(found)
    assert len(set(verdicts(found).values())) == 3
    for calls in CALLS:
        one, other = (each.rounds["m", calls] for each in (found, image))
        assert (one.ranks(), one.leaders()) == (other.ranks(), other.leaders())


def test_the_pages_say_which_way_is_better_and_what_is_remarked(tmp_path: Path) -> None:
    found = scored(tmp_path / "one", drawn(LEVELS))
    image = mirror(found, tmp_path / "other", "24 samples <of> noise")
    lower, higher = (re.sub(r"\s+", " ", write_page(each.folder).read_text()) for each in (found, image))
    for words, others in (
        ("the lowest <span", "the highest <span"),
        ("Lower is better; both axes", "Higher is better; both axes"),
        ("How many times as high (above 1: worse)", "How many times as low (above 1: worse)"),
        ("The dashed floor is", "The dashed ceiling is"),
        (">floor</th>", ">ceiling</th>"),
        (">floor</text>", ">ceiling</text>"),
    ):
        assert (words in lower, others in lower) == (True, False), words
        assert (words in higher, others in higher) == (False, True), words
    assert (
        higher.count("Compares with no published number:</b> 24 samples &lt;of&gt; noise.") == 3
    )  # choice, curves, table
    assert "Compares with no published number" not in lower
    told = [line for line in read_lines(image.folder / "comparison.jsonl") if line["kind"] == "score"]
    assert {(line["better"], *line["remarks"]) for line in told} == {("higher", "24 samples <of> noise")}
    assert sentences(image)[-1] == "m compares with no published number: 24 samples <of> noise."


def test_directions_of_several_metrics_in_words() -> None:
    both: dict[str, Better] = {"fid": "lower", "precision": "higher"}
    assert direction(both) == "Lower is better, and higher by precision"
    assert direction(both | {"recall": "higher"}) == "Lower is better, and higher by precision and recall"
    assert direction(both | {"r": "higher", "c": "higher"}) == "Lower is better, and higher by precision, r and c"


# A run


class NearnessConfig(MetricConfig):
    """The share of samples near the middle."""

    type: Literal["nearness"] = "nearness"
    better = "higher"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        return []

    def remarks(self, spec: SampleSpec, samples: int, train: int, held_out: int) -> Iterable[str]:
        yield f"{samples} samples of {list(spec.shape)} and {train} + {held_out} real ones are few"

    def build(self, references: References) -> Metric:
        return Nearness()


class Nearness(Metric):
    def score(self, evidence: Evidence) -> float:
        return float((evidence.samples.abs() < 1).double().mean())

    def floor(self, size: int) -> float:
        return 0.85


def test_a_run_writes_and_shows_direction_and_remarks(install: Any, here: Path, one_thread: None) -> None:
    install(NearnessConfig)
    evaluation = re.sub(r"metrics = .*", 'metrics = ["nearness", "frechet_pixels"]', EVALUATION)
    evaluation = re.sub(r'    \{ stage = "forward".*\n', "", evaluation)
    plan = planned(HEAD + TEACHER + evaluation, here)
    train_all(plan)
    evaluate(plan, torch.device("cpu"), lambda text: None)
    scores = read_scores(plan.folder / "metrics.jsonl")
    remark = "24 samples of [1, 2] and 200 + 200 real ones are few"
    assert {(line["metric"], line["better"], *line["remarks"]) for line in scores} == {
        ("nearness", "higher", remark),
        ("frechet_pixels", "lower"),
    }
    (plan.folder / "recipe.lock.toml").write_text(tomli_w.dumps(plan.recipe.as_tables()))
    page = re.sub(r"\s+", " ", write_report(plan.folder).read_text())
    assert "Lower is better, and higher by nearness; both axes" in page
    assert page.count(f"Compares with no published number:</b> {remark}.") == 2
    assert page.count(">Higher is better.<") == 2  # beside what the plugin says, where the catalogue has it
    for tag in ("th", "text"):
        assert page.count(f">ceiling</{tag}>") == page.count(f">floor</{tag}>") == 1
    table = cells(scores)
    highest = {
        calls: max(c.raised for place, c in table.items() if place[1:] == ("nearness", calls)) for calls in (1, 2)
    }
    marked = best(table, "nearness")
    assert {table[place].raised for place in marked} == set(highest.values())


def test_lines_of_before_are_better_when_lower(tmp_path: Path) -> None:
    line = {"stage": "s", "weights": "ema", "sampler": "e", "nfe": 1, "metric": "m", "value": 1.0, "spread": "NaN"}
    line |= {"floor": 0.5, "seed": 0, "samples": 9, "repeats": 1, "values": [1.0]}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = read_scores(tmp_path / "metrics.jsonl")
    assert (found["better"], found["remarks"]) == ("lower", [])


def test_the_kit_takes_a_metric_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    check_metric(NearnessConfig())
    monkeypatch.setattr(NearnessConfig, "better", "lower")
    with pytest.raises(AssertionError, match="lower is better: 'nearness' must score the reference"):
        check_metric(NearnessConfig())
    monkeypatch.setattr(NearnessConfig, "better", "higher")
    monkeypatch.setattr(Nearness, "score", lambda self, evidence: -float(evidence.samples.std()))
    with pytest.raises(AssertionError, match="so they are 0 or above"):
        check_metric(NearnessConfig())
