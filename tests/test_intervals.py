"""Paired differences: against closed forms and against how often they are wrong."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from flowmap.intervals import Row, Spot, Verdict, difference, interval, leaders, phrase, ranks

FLOOR = 0.0


def spot(values: Sequence[Sequence[float]] | Sequence[float], floor: float = FLOOR) -> Spot:
    """Scores by seed: a number each, or several draws of noise each."""
    by_seed = {seed: tuple(np.atleast_1d(v).tolist()) for seed, v in enumerate(values)}
    return Spot(by_seed, dict.fromkeys(by_seed, floor))


def test_the_interval_is_that_of_a_paired_t_test_of_logarithms() -> None:
    a, b = [1.0, 1.4, 0.9, 1.3], [0.8, 1.0, 0.95, 1.0]
    found = difference(spot(a), spot(b), 0.9)
    expected = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.9)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert found.ratio == pytest.approx(stats.gmean(a) / stats.gmean(b))
    assert (found.count, found.over) == (4, "seeds")


def test_a_ratio_that_all_seeds_agree_on_is_seen_however_the_scores_spread() -> None:
    """Three times as far at every seed, though the scores themselves vary tenfold."""
    b = np.array([0.1, 0.3, 1.0])
    found = difference(spot(3.1 * b * [1.0, 1.1, 0.9]), spot(b))
    assert found.verdict == "worse"
    assert found.low > 2


def test_draws_of_one_training_are_not_counted_as_trainings() -> None:
    """Ten draws of noise from each of two trainings are two numbers, not twenty."""
    rng = np.random.default_rng(0)
    many = spot([rng.normal(1.0, 0.01, 10), rng.normal(3.0, 0.01, 10)])
    other = spot([rng.normal(0.9, 0.01, 10), rng.normal(0.5, 0.01, 10)])
    assert difference(many, other).count == 2
    assert difference(many, other).verdict == "same"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_false_positive_rate_is_what_the_interval_says(seeds: int) -> None:
    """Two contestants of the same quality, whose scores share data order and noise, 4000 times."""
    rng, wrong, trials = np.random.default_rng(seeds), 0, 4000
    for _ in range(trials):
        shared = rng.normal(0, 1.0, (seeds, 1)) + rng.normal(0, 0.3, (seeds, 3))
        a, b = (np.exp(shared + rng.normal(0, 0.5, (seeds, 1)) + rng.normal(0, 0.1, (seeds, 3))) for _ in range(2))
        wrong += difference(spot(a, -99), spot(b, -99)).verdict != "same"
    # Three standard deviations of a binomial.
    assert wrong / trials == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / trials))


def test_what_the_pairs_share_does_not_hide_a_difference() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 5.0, 4)
    a, b = np.exp(shared + rng.normal(0.5, 0.02, 4)), np.exp(shared + rng.normal(0, 0.02, 4))
    assert difference(spot(a, -99), spot(b, -99)).verdict == "worse"
    assert difference(spot(b, -99), spot(a, -99)).verdict == "better"


def test_one_training_seed_has_an_interval_over_noise_and_says_so() -> None:
    a, b = [[1.0, 1.2, 1.1]], [[0.8, 1.1, 0.9]]
    found = difference(spot(a), spot(b))
    expected = stats.ttest_rel(np.log(a[0]), np.log(b[0])).confidence_interval()
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((expected.low, expected.high))
    assert (found.count, found.over) == (3, "noise")


def test_only_the_seeds_that_both_have_are_paired() -> None:
    whole = spot([1.0, 2.0, 3.0])
    part = Spot({0: (0.5,), 2: (2.0,)}, {0: FLOOR, 2: FLOOR})
    found = difference(whole, part)
    assert found.count == 2
    assert found.mean == pytest.approx(0.75)
    with pytest.raises(ValueError, match="no training seed in common"):
        difference(whole, Spot({7: (1.0,)}, {7: FLOOR}))


def test_a_contestant_against_itself_is_no_difference() -> None:
    found = difference(spot([1.0, 2.0, 3.0]), spot([1.0, 2.0, 3.0]))
    assert (found.mean, found.low, found.high, found.verdict) == (0, 1, 1, "same")


def test_below_the_floor_nothing_differs() -> None:
    a, b = [0.10, 0.11, 0.12], [0.05, 0.06, 0.07]
    assert difference(spot(a), spot(b)).verdict == "worse"
    assert difference(spot(a, floor=0.2), spot(b, floor=0.2)).verdict == "same"
    assert difference(spot(a, floor=0.08), spot(b, floor=0.08)).verdict == "worse"


def test_a_score_that_is_no_number_is_the_worst() -> None:
    good, broken = spot([1.0, 1.1]), spot([math.nan, 1.0])
    assert difference(broken, good).verdict == "worse"
    assert difference(good, broken).verdict == "better"
    assert difference(broken, broken).verdict == "same"
    best, ties = leaders({Row("broken", "s"): broken, Row("good", "s"): good}, 0.95)
    assert (best.contestant, ties) == ("good", [])


def test_a_score_of_nothing_has_a_logarithm() -> None:
    zero, small = spot([0.0, -1e-9, 0.0], floor=0.5), spot([1.0, 1.1, 0.9], floor=0.5)
    assert difference(zero, small).verdict == "better"
    assert difference(zero, zero).verdict == "same"


def test_an_interval_needs_two_values() -> None:
    with pytest.raises(ValueError, match="two values"):
        interval([1.0], 0.95)


def test_the_spread_is_that_of_a_new_training_seen_once() -> None:
    """Seeds' means have a share of the noise in them; the spread of a single score has all of it."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2.0, (4000, 1)) + rng.normal(0, 1.0, (4000, 3))
    found = spot(scores)
    assert found.spread == pytest.approx(math.sqrt(5), rel=0.03)
    assert found.over_noise == pytest.approx(1, rel=0.03)
    assert found.over_seeds == pytest.approx(math.sqrt(4 + 1 / 3), rel=0.03)
    assert spot(scores[:1]).spread == pytest.approx(np.std(scores[0], ddof=1))


def test_a_rank_counts_only_who_is_better_beyond_chance() -> None:
    noise = [0.0, 0.1, -0.1]
    rows = {
        Row("a", "s"): spot([1.00 + n for n in noise]),
        Row("b", "s"): spot([1.02 - n for n in noise]),
        Row("c", "s"): spot([5.0 + n / 2 for n in noise]),
        Row("d", "s"): spot([9.0 - n for n in noise]),
    }
    assert [ranks(rows, 0.95)[row] for row in rows] == [1, 1, 3, 4]
    assert leaders(rows, 0.95) == (Row("a", "s"), [Row("b", "s")])


PHRASES = [
    ("s w w w", "does not differ at 1 call; worse from 2 on"),
    ("s s s s", "does not differ at any number of calls"),
    ("b b s w", "better at 1 and 2 calls; does not differ at 4 calls; worse at 8 calls"),
    ("w w w b", "worse from 1 to 4 calls; better at 8 calls"),
]


@pytest.mark.parametrize(("marks", "words"), PHRASES)
def test_verdicts_in_words(marks: str, words: str) -> None:
    names: dict[str, Verdict] = {"s": "same", "w": "worse", "b": "better"}
    verdicts = dict(zip((1, 2, 4, 8), (names[m] for m in marks.split()), strict=True))
    assert phrase(verdicts) == words
    assert phrase(dict(itertools.chain(reversed(verdicts.items())))) == words
