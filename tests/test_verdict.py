"""The rule that decides a run's claims: floors, noise, several seeds, and what is compared to what."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flowmap.verdict import (
    Cell,
    Claim,
    Control,
    Place,
    Series,
    beats,
    best,
    cells,
    change,
    claims,
    costs_nothing,
    ordered_metrics,
)


def cell(value: float, noise: float = 0.0, floor: float = 0.0) -> Cell:
    return Cell(value, noise, None, floor, (0,))


def line(sampler: str, nfe: int, value: float, spread: float = 0.01, **more: Any) -> dict[str, Any]:
    base = {"stage": "student", "weights": "ema", "metric": "m", "floor": 0.0, "seed": 0, "samples": 9, "repeats": 3}
    return base | {"sampler": sampler, "nfe": nfe, "value": value, "spread": spread} | more


def curve(sampler: str, values: dict[int, float], **more: Any) -> list[dict[str, Any]]:
    return [line(sampler, nfe, value, **more) for nfe, value in values.items()]


def verdicts(found: list[Claim], kind: str) -> list[str]:
    return [claim.verdict for claim in found if claim.kind == kind]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (cell(10, 3), cell(20, 4), "same"),  # exactly 2 sqrt(9 + 16) apart: not further apart
        (cell(10, 3), cell(20.0001, 4), "worse"),
        (cell(20.0001, 4), cell(10, 3), "better"),
        (cell(0.1, floor=0.5), cell(0.4, floor=0.5), "same"),  # both below the floor, without any noise
        (cell(0.1, 0.01, 0.5), cell(0.51, 0.01, 0.5), "same"),  # far apart, but not above the floor
        (cell(0.1, 0.01, 0.5), cell(0.6, 0.01, 0.5), "worse"),
        (cell(0.2), cell(math.nan), "worse"),
        (cell(math.inf), cell(math.nan, math.nan), "same"),
    ],
)
def test_two_values_differ_only_beyond_twice_their_joint_spread_above_the_floor(
    before: Cell, after: Cell, expected: str
) -> None:
    assert change(before, after) == expected


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        (cell(2.5, 0.1), cell(1.0, 0.1), "holds"),  # (2.5 - .1) / (1 + .1) = 2.18
        (cell(2.5, 0.3), cell(1.0, 0.1), "noise"),  # 2.5 times as good, but 2.0 with the spreads against it
        (cell(1.9, 0.1), cell(1.0, 0.1), "noise"),  # 1.9 times, 2.2 with the spreads for it
        (cell(1.5, 0.1), cell(1.0, 0.1), "fails"),
        (cell(0.5, floor=0.3), cell(0.01, floor=0.3), "fails"),  # no credit below the floor
        (cell(0.5, 0.02, 0.3), cell(0.31, 0.2, 0.3), "fails"),  # nor for a spread that reaches below it
        (cell(1.0), cell(0.0), "holds"),
        (cell(0.0), cell(0.0), "fails"),
        (cell(1.0), cell(math.nan), "fails"),
    ],
)
def test_a_factor_must_hold_with_the_spreads_against_it(teacher: Cell, student: Cell, expected: str) -> None:
    assert beats(teacher, student, 2.0) == expected


def test_one_seed_keeps_the_fresh_noise_spread_and_several_take_the_larger() -> None:
    calm = cells([line("flow_map", 4, v, spread=0.5, seed=s) for s, v in enumerate((1.0, 1.1, 1.2))])
    wild = cells([line("flow_map", 4, v, spread=0.5, seed=s) for s, v in enumerate((1.0, 3.0, 5.0))])
    (one,) = cells([line("flow_map", 4, 1.0, spread=0.5)]).values()
    (calm_cell,), (wild_cell,) = calm.values(), wild.values()
    assert (one.between, one.spread, one.noise) == (None, 0.5, 0.5)
    assert calm_cell.value == pytest.approx(1.1)
    assert (calm_cell.spread, calm_cell.noise) == (pytest.approx(0.1), 0.5)
    assert (wild_cell.value, wild_cell.spread, wild_cell.noise) == (3.0, 2.0, 2.0)
    assert wild_cell.seeds == (0, 1, 2)


def test_seeds_that_disagree_turn_a_loss_of_quality_into_noise() -> None:
    few = [line("flow_map", 4, v, seed=s) for s, v in enumerate((1.0, 1.0, 1.0))]
    steady = [line("flow_map", 32, v, seed=s) for s, v in enumerate((2.0, 2.0, 2.0))]
    torn = [line("flow_map", 32, v, seed=s) for s, v in enumerate((1.0, 1.5, 3.5))]
    assert verdicts(claims(few + steady), "map") == ["fails"]
    assert verdicts(claims(few + torn), "map") == ["holds"]


def test_a_score_taken_again_replaces_the_older_one() -> None:
    found = cells([line("flow_map", 4, 9.0), line("flow_map", 4, 1.0)])
    assert [c.value for c in found.values()] == [1.0]
    assert next(iter(found.values())).between is None


def test_scores_at_the_floor_share_the_best_place() -> None:
    assert [cell(v, floor=0.5).at_floor for v in (0.4, 0.5, 0.6)] == [True, True, False]
    table = cells(
        [line("flow_map", 4, v, stage=s, floor=0.5) for s, v in {"a": 0.1, "b": 0.5, "c": 0.6, "d": math.nan}.items()]
        + [line("flow_map", 8, v, stage=s, floor=0.5) for s, v in {"a": 0.8, "b": 0.7}.items()]
        + [line("flow_map", 16, math.nan, floor=0.5)]
    )
    assert {(p.series.stage, p.calls) for p in best(table, "m")} == {("a", 4), ("b", 4), ("b", 8)}


def test_claims_compare_four_calls_to_the_most_there_are() -> None:
    better, worse = {1: 9.0, 4: 1.0, 8: 3.0, 50: 0.9}, {1: 0.1, 4: 1.0, 8: 0.9, 50: 3.0}
    found = claims(curve("flow_map", better) + curve("consistency", worse))
    assert [(c.kind, c.verdict) for c in found] == [("map", "holds"), ("consistency", "holds")]
    assert "student" in found[0].text
    assert "from 4 to 50 calls" in found[0].text
    assert (found[1].before.value, found[1].after.value) == (1.0, 3.0)
    assert verdicts(claims(curve("flow_map", worse)), "map") == ["fails"]


@pytest.mark.parametrize(("last", "expected"), [(2.0, "holds"), (1.01, "noise"), (0.5, "fails")])
def test_the_consistency_claim_tells_worse_from_equal_from_better(last: float, expected: str) -> None:
    lines = curve("flow_map", {4: 1.0, 32: 1.0}) + curve("consistency", {4: 1.0, 32: last})
    assert verdicts(claims(lines), "consistency") == [expected]


def test_a_map_within_noise_has_not_become_worse() -> None:
    assert verdicts(claims(curve("flow_map", {4: 1.0, 32: 1.02})), "map") == ["holds"]


def test_no_claim_without_its_data() -> None:
    assert claims([]) == []
    assert claims(curve("flow_map", {1: 1.0, 2: 1.0, 8: 9.0})) == []  # never scored at 4 calls
    assert claims(curve("flow_map", {1: 1.0, 4: 1.0})) == []  # 4 is the most
    assert claims(curve("consistency", {4: 1.0, 32: 3.0})) == []  # not the same weights as any map
    network = [line("flow_map", 3, 0.1, metric="semigroup")]  # a metric of the network, not of samples
    assert claims(curve("consistency", {4: 1.0, 32: 3.0}) + network) == []


def test_raw_and_averaged_weights_are_not_the_same_weights() -> None:
    lines = curve("flow_map", {4: 1.0, 32: 1.0}) + curve("consistency", {4: 1.0, 32: 3.0}, weights="raw")
    assert verdicts(claims(lines), "consistency") == []
    swapped = [one | {"weights": {"ema": "raw", "raw": "ema"}[one["weights"]]} for one in lines]
    assert verdicts(claims(swapped), "consistency") == []
    (claim,) = claims(curve("flow_map", {4: 1.0, 32: 1.0}, weights="raw"))
    assert claim.text.startswith("student (raw weights)")


def test_the_student_is_compared_to_the_stage_sampled_with_euler() -> None:
    students = curve("flow_map", {4: 1.0}) + curve("euler", {4: 1.5})
    teacher = curve("euler", {4: 5.0}, stage="teacher") + curve("heun", {4: 0.1}, stage="teacher")
    (claim,) = claims(students + teacher)
    assert (claim.before.value, claim.after.value, claim.verdict) == (5.0, 1.0, "holds")
    assert claim.factor == 5.0
    assert claims(students + teacher, teacher="student") == []  # nobody is compared to itself
    assert claims(students, teacher="absent") == []


def test_headline_metrics_come_first_and_each_has_its_own_verdict() -> None:
    fell, rose = {4: 2.0, 32: 1.0}, {4: 1.0, 32: 2.0}
    lines = [
        one
        for metric, values in {"other": fell, "frechet_pixels": rose, "frechet_teacher": fell}.items()
        for one in curve("flow_map", values, metric=metric)
    ]
    expected = {"frechet_teacher": "holds", "frechet_pixels": "fails", "other": "holds"}
    assert {c.metric: c.verdict for c in claims(lines)} == expected
    assert [c.metric for c in claims(lines)] == list(expected)
    place = Place(Series("a", "ema", "euler"), "x", 1)
    assert ordered_metrics([place, place._replace(metric="frechet_features")]) == ["frechet_features", "x"]


def test_a_network_that_diverges_with_more_calls_is_worse() -> None:
    assert verdicts(claims(curve("flow_map", {4: 1.0, 32: math.nan})), "map") == ["fails"]


CONTROL = Control("student", "ema", "control", 1000, 1009)


def held_against(ours: dict[int, float], theirs: dict[int, float], spread: float = 0.01) -> list[Claim]:
    lines = curve("flow_map", ours, spread=spread) + curve("flow_map", theirs, stage="control", spread=spread)
    return [claim for claim in claims(lines, controls=[CONTROL]) if claim.versus]


def test_a_stage_is_better_than_its_control_at_one_and_two_calls_and_loses_nothing_at_the_most() -> None:
    found = held_against({1: 1.0, 2: 0.5, 4: 9.0, 16: 9.0, 32: 0.25}, {1: 2.0, 2: 0.9, 4: 0.1, 16: 0.1, 32: 0.2})
    cost = "for as much compute (1,000 against 1,009 call equivalents)"
    assert [(claim.kind, claim.verdict, claim.text) for claim in found] == [
        ("gain", "holds", f"student: better than 'control' at 1 call {cost}"),
        ("gain", "holds", f"student: better than 'control' at 2 calls {cost}"),
        ("price", "fails", f"student: loses nothing to 'control' at 32 calls {cost}"),
    ]
    assert [(claim.before.value, claim.after.value) for claim in found] == [(2.0, 1.0), (0.9, 0.5), (0.2, 0.25)]
    assert found[0].factor == 2.0


@pytest.mark.parametrize(("ours", "expected"), [(1.5, "holds"), (1.99, "noise"), (2.5, "fails")])
def test_a_gain_is_told_from_noise_and_from_a_loss(ours: float, expected: str) -> None:
    assert verdicts(held_against({1: ours, 8: 1.0}, {1: 2.0, 8: 1.0}), "gain") == [expected]


@pytest.mark.parametrize(
    ("gain", "many", "expected"),
    [
        ((cell(2.0, 0.1), cell(1.0, 0.1)), (cell(0.5, 0.05), cell(0.5, 0.05)), "holds"),  # hidden: 0.14 of 0.25
        ((cell(2.0, 0.1), cell(1.0, 0.1)), (cell(0.5, 0.05), cell(0.6, 0.05)), "holds"),  # 0.24
        ((cell(2.0, 0.1), cell(1.0, 0.1)), (cell(0.5, 0.05), cell(0.62, 0.05)), "noise"),  # 0.26: too near a quarter
        ((cell(2.0, 0.1), cell(1.0, 0.1)), (cell(0.5, 0.05), cell(0.7, 0.05)), "fails"),  # worse beyond noise
        ((cell(2.0, 0.1), cell(1.0, 0.1)), (cell(0.5, 0.2), cell(0.5, 0.2)), "noise"),  # nothing can be seen
        (
            (cell(2.0, 0.1), cell(1.0, 0.1)),
            (cell(0.5, 5.0), cell(0.4, 5.0)),
            "noise",
        ),  # nor here, however good it looks
        ((cell(2.0, 0.6), cell(1.0, 0.6)), (cell(0.5, 0.01), cell(0.5, 0.01)), "noise"),  # a gain within noise is none
        ((cell(1.0, 0.1), cell(2.0, 0.1)), (cell(0.5, 0.01), cell(0.1, 0.01)), "noise"),  # nor is a loss
        ((cell(2.0), cell(1.0)), (cell(0.1, floor=0.3), cell(0.2, floor=0.3)), "holds"),  # both as good as perfect
        ((cell(math.nan), cell(1.0)), (cell(0.5, 0.1), cell(0.5, 0.1)), "holds"),  # the control's one call is no number
        ((cell(2.0), cell(1.0)), (cell(0.5), cell(math.nan)), "fails"),
        ((cell(2.0), cell(1.0)), (cell(math.nan), cell(math.nan)), "noise"),
    ],
)
def test_nothing_is_lost_only_where_noise_can_hide_no_more_than_a_quarter_of_the_gain(
    gain: tuple[Cell, Cell], many: tuple[Cell, Cell], expected: str
) -> None:
    assert costs_nothing(gain, many) == expected


@pytest.mark.parametrize(
    ("cost", "control", "words"),
    [
        (1000, 990, " for 1.01 times the compute (1,000 against 990 call equivalents)"),
        (1000, 1010, " for as much compute (1,000 against 1,010 call equivalents)"),
        (1000, 500, " for 2.00 times the compute (1,000 against 500 call equivalents)"),
        (None, 500, ""),
        (0, 0, ""),  # never trained in this folder
    ],
)
def test_as_much_compute_is_a_number_of_the_run(cost: int | None, control: int | None, words: str) -> None:
    assert Control("a", "ema", "b", cost, control).compute == words


def test_a_control_is_met_on_equal_terms_only() -> None:
    ours, theirs = curve("flow_map", {1: 1.0, 32: 1.0}), curve("flow_map", {1: 2.0, 32: 1.0}, stage="control")
    assert len([c for c in claims(ours + theirs, controls=[CONTROL, CONTROL]) if c.versus]) == 2  # not twice
    assert claims(ours + theirs) == []
    assert claims(ours, controls=[CONTROL]) == []
    raw = [line | {"weights": "raw"} for line in theirs]
    assert claims(ours + raw, controls=[CONTROL]) == []
    assert claims([line | {"weights": "raw"} for line in ours] + raw, controls=[CONTROL]) == []  # not asked for
    other = [line | {"sampler": "gamma"} for line in theirs]
    assert claims(ours + other, controls=[CONTROL]) == []
    both = [line | {"sampler": "gamma"} for line in ours + theirs]
    assert {c.text for c in claims(both, controls=[CONTROL]) if c.kind == "price"} == {
        "student: loses nothing to 'control' at 32 calls by gamma "
        "for as much compute (1,000 against 1,009 call equivalents)"
    }
    unpaired = [line for line in ours + theirs if (line["stage"], line["nfe"]) != ("control", 1)]
    assert claims(unpaired, controls=[CONTROL]) == []  # no gain was measured that it could be a price of
