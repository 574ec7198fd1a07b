"""The rule that decides a run's claims: floors, noise, several seeds, and what is compared to what."""

from __future__ import annotations

import math
from typing import Any

import pytest

from flowmap.statistics.claims import Claim, Control, claims
from flowmap.statistics.intervals import Difference, difference
from flowmap.statistics.spots import Spot
from flowmap.statistics.verdict import (
    NO_WORSE,
    Cell,
    Place,
    Series,
    beats,
    best,
    cells,
    costs_nothing,
    no_worse,
    ordered_metrics,
)


def draws(value: float, spread: float) -> tuple[float, float, float]:
    """Three numbers with this very mean and standard deviation."""
    return value - spread, value, value + spread


def cell(value: float, noise: float = 0.0, floor: float = 0.0) -> Cell:
    return Cell(value, noise, None, floor, (0,), Spot({0: draws(value, noise)}, {0: floor}))


def found(
    ratio: float, low: float, high: float, both_at_floor: bool = False, over_floor: float = math.inf
) -> Difference:
    """That one scores `ratio` times as high as another."""
    return Difference(0.0, ratio, low, high, 3, "noise", both_at_floor, over_floor)


def line(sampler: str, nfe: int, value: float, spread: float = 0.01, **more: Any) -> dict[str, Any]:
    base = {"stage": "student", "weights": "ema", "metric": "m", "floor": 0.0, "seed": 0, "samples": 9, "repeats": 3}
    made = base | {"sampler": sampler, "nfe": nfe, "value": value, "spread": spread} | more
    return {"values": draws(value, spread)} | made


def curve(sampler: str, values: dict[int, float], **more: Any) -> list[dict[str, Any]]:
    return [line(sampler, nfe, value, **more) for nfe, value in values.items()]


def verdicts(found: list[Claim], kind: str) -> list[str]:
    return [claim.verdict for claim in found if claim.kind == kind]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (found(1.0, 0.9, 1.1), "holds"),
        (found(0.5, 0.2, NO_WORSE), "holds"),
        (found(0.5, 0.2, 1.26), "noise"),  # it looks twice as good, and a quarter may be lost for all one can see
        (found(1.0, 0.1, 10.0), "noise"),  # large noise proves nothing
        (found(1.1, 1.01, 1.2), "fails"),  # within the margin, but worse beyond noise
        (found(1.0, 0.1, 10.0, both_at_floor=True, over_floor=1.2), "holds"),  # as good as perfect before and after
        (found(1.0, 0.1, 10.0, both_at_floor=True, over_floor=81.0), "noise"),  # it only looks so
        (found(math.nan, 0.0, math.inf), "noise"),
    ],
)
def test_not_worse_is_what_is_seen_to_stay_within_the_margin(change: Difference, expected: str) -> None:
    assert no_worse(change) == expected


@pytest.mark.parametrize(
    ("against_teacher", "expected"),
    [
        (found(0.3, 0.2, 0.49), "holds"),
        (found(0.3, 0.2, 0.51), "noise"),
        (found(0.7, 0.51, 0.9), "fails"),
        (found(0.7, 0.49, 0.9), "noise"),
        (found(1.0, 0.1, 10.0, both_at_floor=True), "fails"),
        (difference(cell(1.0).spot, cell(math.nan).spot), "holds"),
        (difference(cell(math.nan).spot, cell(1.0).spot), "fails"),
        (difference(cell(0.01, floor=0.3).spot, cell(0.5, floor=0.3).spot), "fails"),  # no credit below the floor
    ],
)
def test_a_factor_must_hold_in_the_whole_interval(against_teacher: Difference, expected: str) -> None:
    assert beats(against_teacher, 2.0) == expected


def test_the_interval_of_a_claim_is_that_of_the_comparison_s_page() -> None:
    """Paired by seed, and by draw where the noise was common; Welch's where it was not."""
    few, many = ({0: (1.0, 1.3, 1.1), 1: (1.2, 1.6, 1.4)}, {0: (0.7, 0.9, 0.8), 1: (1.3, 1.9, 1.7)})

    def lines(seeds: tuple[int, ...]) -> list[dict[str, Any]]:
        return [
            line("flow_map", nfe, 1.0, seed=seed, values=values[seed])
            for nfe, values in ((4, few), (32, many))
            for seed in seeds
        ]

    for seeds in ((0,), (0, 1)):
        one, other = (Spot({s: values[s] for s in seeds}, dict.fromkeys(seeds, 0.0)) for values in (many, few))
        for common in (True, False):
            (claim,) = claims(lines(seeds), common_noise=common)
            assert claim.found == difference(one, other, common_noise=common)
    paired, apart = (claims(lines((0,)), common_noise=common)[0].found for common in (True, False))
    assert paired.high < apart.high


def test_one_seed_shows_the_spread_of_fresh_noise_and_several_their_own() -> None:
    calm = cells([line("flow_map", 4, v, spread=0.5, seed=s) for s, v in enumerate((1.0, 1.1, 1.2))])
    wild = cells([line("flow_map", 4, v, spread=0.5, seed=s) for s, v in enumerate((1.0, 3.0, 5.0))])
    (one,) = cells([line("flow_map", 4, 1.0, spread=0.5)]).values()
    (calm_cell,), (wild_cell,) = calm.values(), wild.values()
    assert (one.between, one.spread) == (None, 0.5)
    assert calm_cell.value == pytest.approx(1.1)
    assert calm_cell.spread == pytest.approx(0.1)
    assert (wild_cell.value, wild_cell.spread) == (3.0, 2.0)
    assert wild_cell.seeds == (0, 1, 2)


def test_seeds_that_disagree_turn_a_loss_of_quality_into_noise() -> None:
    few = [line("flow_map", 4, v, seed=s) for s, v in enumerate((1.0, 1.0, 1.0))]
    steady = [line("flow_map", 32, v, seed=s) for s, v in enumerate((2.0, 2.0, 2.0))]
    torn = [line("flow_map", 32, v, seed=s) for s, v in enumerate((1.0, 1.5, 3.5))]
    assert verdicts(claims(few + steady), "map") == ["fails"]
    assert verdicts(claims(few + torn), "map") == ["noise"]


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


@pytest.mark.parametrize(("spread", "expected"), [(0.01, "holds"), (0.3, "noise")])
def test_a_map_is_not_called_steady_because_nothing_can_be_seen(spread: float, expected: str) -> None:
    assert verdicts(claims(curve("flow_map", {4: 1.0, 32: 1.02}, spread=spread)), "map") == [expected]


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


CLEAR = (cell(2.0, 0.1), cell(1.0, 0.1))


@pytest.mark.parametrize(
    ("gain", "many", "expected"),
    [
        (CLEAR, (cell(0.5, 0.05), cell(0.5, 0.05)), "holds"),  # up to 1.26 times as high: 0.13 of the gain of 1
        (CLEAR, (cell(0.5, 0.05), cell(0.6, 0.05)), "holds"),  # up to 1.49: 0.24
        (CLEAR, (cell(0.5, 0.05), cell(0.615, 0.05)), "noise"),  # up to 1.52: 0.26, too near a quarter
        (CLEAR, (cell(0.5, 0.05), cell(0.7, 0.05)), "fails"),  # worse beyond noise
        (CLEAR, (cell(0.5, 0.2), cell(0.5, 0.2)), "noise"),  # nothing can be seen
        (CLEAR, (cell(0.5, 0.4), cell(0.4, 0.3)), "noise"),  # nor here, however good it looks
        ((cell(2.0, 0.6), cell(1.0, 0.6)), (cell(0.5, 0.01), cell(0.5, 0.01)), "noise"),  # a gain within noise is none
        ((cell(1.0, 0.1), cell(2.0, 0.1)), (cell(0.5, 0.01), cell(0.1, 0.01)), "noise"),  # nor is a loss
        (CLEAR, (cell(0.1, 0.05, floor=0.3), cell(0.2, 0.02, floor=0.3)), "holds"),  # both as good as perfect
        (CLEAR, (cell(0.1, 0.05, floor=0.3), cell(0.2, 0.1, floor=0.3)), "noise"),  # or so it looks
        ((cell(math.nan), cell(1.0)), (cell(0.5, 0.1), cell(0.5, 0.1)), "holds"),  # the control's one call is no number
        (CLEAR, (cell(0.5), cell(math.nan)), "fails"),
        (CLEAR, (cell(math.nan), cell(math.nan)), "noise"),
    ],
)
def test_nothing_is_lost_only_where_noise_can_hide_no_more_than_a_quarter_of_the_gain(
    gain: tuple[Cell, Cell], many: tuple[Cell, Cell], expected: str
) -> None:
    gained, lost = (difference(stage.spot, control.spot, common_noise=False) for control, stage in (gain, many))
    assert costs_nothing(gain, gained, many, lost) == expected


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
