"""Differences and their intervals: against closed forms and against how often what they allow to be said is false."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from flowmap.statistics.intervals import MOST_SEEDS, Round, Verdict, difference
from flowmap.statistics.phrases import phrase
from flowmap.statistics.quantiles import shortfall, studentized_range
from flowmap.statistics.spots import Row, Spot

from .doc_scripts import doc_script

FLOOR = 0.0


def spot(values: Sequence[Sequence[float]] | Sequence[float], floor: float = FLOOR) -> Spot:
    """Scores by seed: a number each, or several draws of noise each."""
    by_seed = {seed: tuple(np.atleast_1d(v).tolist()) for seed, v in enumerate(values)}
    return Spot(by_seed, dict.fromkeys(by_seed, floor))


def rows(scores: Sequence[Sequence[float]], floor: float = -99) -> dict[Row, Spot]:
    """Rows "0", "1", ... of scores by seed."""
    return {Row(str(i), "s"): spot(values, floor) for i, values in enumerate(scores)}


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
    """Two contestants of the same quality, whose scores share data order and noise, 2000 times."""
    rng, wrong, trials = np.random.default_rng(seeds), 0, 2000
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
    assert found.ratio == pytest.approx(math.sqrt(2 * 1.5))


def test_without_two_seeds_in_common_nothing_is_said() -> None:
    """A contestant that failed everywhere but at one seed, or at the others' seeds, stands among rows over seeds."""
    others = rows([[1.0, 1.1, 0.9], [5.0, 5.1, 4.9]])
    once = Row("once", "s")
    for seed in (1, 7):
        found = Round(others | {once: Spot({seed: (100.0, 101.0)}, {seed: FLOOR})})
        for row in others:
            assert (found.difference(once, row).low, found.difference(once, row).high) == (0, math.inf)
            assert found.difference(once, row).more is None
        assert found.ranks()[once] == 1
    assert found.difference(*others).verdict == "better"


def test_a_contestant_against_itself_is_no_difference() -> None:
    found = difference(spot([1.0, 2.0, 3.0]), spot([1.0, 2.0, 3.0]))
    assert (found.mean, found.low, found.high, found.verdict) == (0, 1, 1, "same")


def test_below_the_floor_nothing_differs() -> None:
    a, b = [0.10, 0.11, 0.12], [0.05, 0.06, 0.07]
    assert difference(spot(a), spot(b)).verdict == "worse"
    assert difference(spot(a, floor=0.2), spot(b, floor=0.2)).verdict == "same"
    above = difference(spot(a, floor=0.08), spot(b, floor=0.08))
    assert above.verdict == "worse"
    assert above.ratio == pytest.approx(stats.gmean(a) / 0.08)  # no credit for what is below it
    # As far apart as they were, but the one is hardly above the floor.
    assert difference(spot(a, floor=0.105), spot(b, floor=0.105)).verdict == "same"


def test_a_score_that_is_no_number_is_the_worst() -> None:
    good, broken = spot([1.0, 1.1]), spot([math.nan, 1.0])
    assert difference(broken, good).verdict == "worse"
    assert difference(good, broken).verdict == "better"
    assert difference(broken, broken).verdict == "same"
    best, ties = Round({Row("broken", "s"): broken, Row("good", "s"): good}).leaders()
    assert (best.contestant, ties) == ("good", [])
    # It is worse by definition, not by chance: nothing is corrected for it.
    alone, among = rows([[1.0, 1.2, 0.9], [1.1, 1.5, 1.2], [1.4, 1.4, 1.4]]), {Row("broken", "s"): broken}
    pair = list(alone)[:2]
    assert Round(alone | among).difference(*pair) == Round(alone).difference(*pair)


def test_a_score_of_nothing_has_a_logarithm() -> None:
    zero, small = spot([0.0, -1e-9, 0.0], floor=0.5), spot([1.0, 1.1, 0.9], floor=0.5)
    assert difference(zero, small).verdict == "better"
    assert difference(zero, zero).verdict == "same"


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
    four = {
        Row("a", "s"): spot([1.00 + n for n in noise]),
        Row("b", "s"): spot([1.02 - n for n in noise]),
        Row("c", "s"): spot([5.0 + n / 2 for n in noise]),
        Row("d", "s"): spot([9.0 - n for n in noise]),
    }
    assert [Round(four).ranks()[row] for row in four] == [1, 1, 3, 4]
    assert Round(four).leaders() == (Row("a", "s"), [Row("b", "s")])


def test_one_bad_seed_puts_no_row_behind_another_that_it_is_better_than() -> None:
    """A mean is moved by one score of a hundred, their logarithms hardly."""
    rng = np.random.default_rng(0)
    once_bad = np.append(0.8 * np.exp(rng.normal(0, 0.01, 99)), 25.0)
    two = {Row("steady", "s"): spot(np.exp(rng.normal(0, 0.01, 100))), Row("once bad", "s"): spot(once_bad)}
    assert Round(two).difference(Row("once bad", "s"), Row("steady", "s")).verdict == "better"
    assert Round(two).leaders() == (Row("once bad", "s"), [])


# -- several rows


POWER = doc_script("power")
"""Prints the figures of docs/compare.md."""


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_figures_of_the_docs_are_of_the_rule_of_the_page(seeds: int, count: int) -> None:
    logs = np.random.default_rng(0).normal(size=(count, seeds))
    found = Round(rows(np.exp(logs).tolist()))
    one, other = np.triu_indices(count, 1)
    halves = POWER.ours((logs[one] - logs[other])[None], count)[0]
    for i, j, half in zip(one, other, halves, strict=True):
        pair = found.difference(Row(str(i), "s"), Row(str(j), "s"))
        assert math.log(pair.high / pair.low) / 2 == pytest.approx(half)


@pytest.mark.parametrize(
    ("probability", "count", "freedom"), [(0.95, 3, 3), (0.9, 12, 6), (0.99, 8, 1.5), (0.95, 2, 40)]
)
def test_quantiles_are_scipy_s(probability: float, count: int, freedom: float) -> None:
    expected = stats.studentized_range.ppf(probability, count, freedom)
    assert studentized_range(probability, count, freedom) == pytest.approx(expected, rel=1e-5)
    drawn = np.random.default_rng(0).normal(size=(200_000, count)).std(axis=1, ddof=1)
    assert shortfall(count) == pytest.approx(drawn.mean(), rel=0.005)


STEADY: Callable[[int], Any] = np.ones
WILD: Callable[[int], Any] = lambda count: np.array([10.0, *np.ones(count - 1)])  # noqa: E731
HALF: Callable[[int], Any] = lambda count: np.where(np.arange(count) < count // 2, 5.0, 1.0)  # noqa: E731


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("count", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("spreads", [STEADY, WILD, HALF], ids=["steady", "wild", "half"])
def test_of_equal_contestants_hardly_a_page_says_anything(
    spreads: Callable[[int], Any], count: int, seeds: int
) -> None:
    """At most 5 % of pages, and three standard deviations of 4000 draws; uncorrected it is 20 to 90 % from 4 on."""
    rate = POWER.false_positives(POWER.ours, spreads(count), seeds, 4000)
    assert rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)


@pytest.mark.parametrize("over", ["seeds", "noise"])
def test_pages_of_equal_contestants_through_all_that_is_said(over: str) -> None:
    """120 pages of eight: their ranks, leaders and pairs. Uncorrected, two pages of three say something."""
    rng, said = np.random.default_rng(0), 0
    for _ in range(120):
        logs = rng.normal(size=(1, 3)) + rng.normal(0, 0.3, (8, 3))
        scores = np.exp(logs if over == "seeds" else logs[:, None])
        found = Round(rows(scores.tolist()))
        assert found.over == over
        told = {found.difference(a, b).verdict for a, b in itertools.combinations(found.spots, 2)} != {"same"}
        assert told == (set(found.ranks().values()) != {1})
        assert told or len(found.leaders()[1]) == 7
        said += told
    assert said / 120 <= 0.05


def test_a_ratio_is_seen_as_often_as_the_docs_say() -> None:
    """Four contestants, five seeds, a log-spread of 0.2: a ratio of 1.85 in 80 % of pages."""
    seen = math.exp(0.2 * POWER.smallest_seen(POWER.ours, np.ones(4), 5, 20_000))
    assert seen == pytest.approx(1.85, rel=0.02)


def test_a_contestant_that_lacks_a_seed_is_compared_over_the_others() -> None:
    """Nothing is false more often for it: 200 pages of six equal contestants, half of which lack one seed of five."""
    rng, said = np.random.default_rng(1), 0
    for _ in range(200):
        spots = rows(np.exp(rng.normal(0, 0.3, (6, 5))).tolist())
        for number, (row, whole) in enumerate(list(spots.items())[:3]):
            spots[row] = Spot({k: v for k, v in whole.values.items() if k != number}, whole.floors)
        found = Round(spots)
        assert [found.difference(Row("0", "s"), Row(str(i), "s")).count for i in (1, 5)] == [3, 4]
        said += set(found.ranks().values()) != {1}
    assert said / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_more_seeds_are_those_that_would_decide() -> None:
    """Repeating the seeds that there are leaves ratio and spread (but for their degrees of freedom) as they look."""
    three = [[1.0, 1.2, 0.9], [1.6, 1.5, 1.9], [1.2, 1.2, 1.0]]
    pair = Row("0", "s"), Row("1", "s")
    found = Round(rows(three)).difference(*pair)
    assert found.verdict == "same"
    assert found.more is not None
    assert 1 < found.more <= 9

    def open_with(more: int) -> bool:
        """Scores of three seeds, stretched so that more of them have the same means and variances."""
        count = 3 + more
        logs = np.log(three)
        wave = np.cos(2 * np.pi * np.arange(count) / count)
        other = np.sin(2 * np.pi * np.arange(count) / count)
        centred = logs - logs.mean(axis=1, keepdims=True)
        # Two orthogonal waves carry all covariances of three centred numbers.
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
        waves = np.stack([wave, other]) / np.sqrt(count / 2)
        made = logs.mean(axis=1, keepdims=True) + (left[:, :2] * sizes[:2]) @ waves * np.sqrt((count - 1) / 2)
        return Round(rows(np.exp(made).tolist())).difference(*pair).verdict == "same"

    # The shortfall of a standard deviation is another for another count, so it may be off by one.
    assert open_with(found.more - 2)
    assert not open_with(found.more + 1)
    close = Round(rows([[1.0, 1.2, 0.9], [1.0, 1.3, 0.8], [1.2, 1.2, 1.0]])).difference(*pair)
    assert close.more == MOST_SEEDS + 1
    assert Round(rows([[1.0, 1.0, 1.1], [9.0, 9.1, 9.2], [1.2, 1.2, 1.0]])).difference(*pair).more is None
    noise = Round(rows([[[1.0, 1.2]], [[1.1, 1.2]], [[1.0, 0.9]]]))  # type: ignore[list-item]
    assert noise.difference(*pair).more is None  # more draws of one training do not make another


def test_draws_that_are_not_shared_are_not_paired() -> None:
    a, b = [[1.0, 1.2, 1.1]], [[1.8, 2.1, 1.3]]
    found = difference(spot(a), spot(b), common_noise=False)
    expected = stats.ttest_ind(np.log(a[0]), np.log(b[0]), equal_var=False).confidence_interval()
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((expected.low, expected.high))
    assert difference(spot(a[0]), spot(b[0]), common_noise=False) == difference(spot(a[0]), spot(b[0]))


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
