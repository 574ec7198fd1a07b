"""Print the tables of docs/compare.md on how often statements are false, and what can be seen: `python docs/power.py`.

Pages are drawn, not trained: logarithms of scores are normal; what a seed does to all contestants alike cancels in the
differences and is left out. A rule says how wide the interval of every pair is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flowmap.statistics.intervals import KEPT, LENT
from flowmap.statistics.quantiles import shortfall, student, studentized_range

Array = NDArray[np.float64]
Rule = Callable[[Array, int], Array]

ERROR = 0.05
SEEDS = (3, 5)
CONTESTANTS = (2, 3, 4, 8, 12)
SPREADS = (0.1, 0.2, 0.4)
SCENARIOS: dict[str, Callable[[int], Array]] = {
    "equal": np.ones,
    "one with 10 times the spread": lambda count: np.array([10.0, *np.ones(count - 1)]),
    "half with 5 times the spread": lambda count: np.where(np.arange(count) < count // 2, 5.0, 1.0),
    "a third with 30 times the spread": lambda count: np.where(np.arange(count) < count // 3, 30.0, 1.0),
}
COMPARED = {"equal": (2, 4, 8, 12), "one with 10 times the spread": (4, 8, 12)}
"""Numbers of contestants; two that are as steady as the others are told apart."""


def uncorrected(pairs: Array, count: int) -> Array:
    """Student's t of each pair: what the page did before."""
    return student(1 - ERROR / 2, pairs.shape[-1] - 1) * _error(pairs)


def holm(pairs: Array, count: int) -> Array:
    """Holm's first step, which decides whether anything false is said (the same as Bonferroni's)."""
    return student(1 - ERROR / (2 * math.comb(count, 2)), pairs.shape[-1] - 1) * _error(pairs)


def pooled(pairs: Array, count: int) -> Array:
    """Tukey's range by the variance of all pairs, and never less than the pair's own uncorrected interval."""
    seeds = pairs.shape[-1]
    error = np.sqrt((_error(pairs) ** 2).mean(axis=1, keepdims=True))
    wide = studentized_range(1 - ERROR, count, (seeds - 1) * (count - 1)) / math.sqrt(2) * error
    wider: Array = np.maximum(wide, uncorrected(pairs, count))
    return wider


def ours(pairs: Array, count: int) -> Array:
    """What `flowmap.statistics.intervals.Round` does."""
    if count < 3:
        return uncorrected(pairs, count)
    freedom = pairs.shape[-1] - 1
    own = _error(pairs)
    usual = own.mean(axis=1, keepdims=True) / shortfall(freedom + 1)
    error = np.sqrt((own**2 + LENT * usual**2) / (1 + LENT))
    wide = studentized_range(1 - KEPT * ERROR, count, (1 + LENT) * freedom) / math.sqrt(2) * error
    wider: Array = np.maximum(wide, student(1 - KEPT * ERROR / 4, freedom) * own)
    return wider


def _error(pairs: Array) -> Array:
    """The standard error of each pair's mean, [pages, pairs]."""
    error: Array = pairs.std(axis=-1, ddof=1) / math.sqrt(pairs.shape[-1])
    return error


RULES: dict[str, Rule] = {
    "as it was: t, uncorrected": uncorrected,
    "(A) Holm on t": holm,
    "(B) pooled, own t at 95 %": pooled,
    "(C) this page": ours,
}


def differences(rng: np.random.Generator, pages: int, spreads: Array, seeds: int) -> Array:
    """Differences of every pair of contestants that are equal, [pages, pairs, seeds]."""
    logs = rng.normal(size=(pages, len(spreads), seeds)) * spreads[:, None]
    one, other = np.triu_indices(len(spreads), 1)
    return logs[:, one] - logs[:, other]


def false_positives(rule: Rule, spreads: Array, seeds: int, pages: int) -> float:
    """The share of pages that say of any pair of equal contestants that it differs."""
    rng, wrong, batch = np.random.default_rng(len(spreads)), 0, 2000
    for _ in range(pages // batch):
        pairs = differences(rng, batch, spreads, seeds)
        wrong += int((np.abs(pairs.mean(axis=-1)) > rule(pairs, len(spreads))).any(axis=1).sum())
    return wrong / pages


def smallest_seen(rule: Rule, spreads: Array, seeds: int, pages: int, share: float = 0.8) -> float:
    """The difference of logarithms that the last two contestants need for `share` of the pages to say so."""
    rng, missing = np.random.default_rng(0), []
    for _ in range(pages // 2000):
        pairs = differences(rng, 2000, spreads, seeds)
        missing.append(rule(pairs, len(spreads))[:, -1] - pairs.mean(axis=-1)[:, -1])
    return float(np.quantile(np.concatenate(missing), share))


def _table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print()


def main(pages: int = 20_000) -> None:
    """Print everything."""
    for seeds in SEEDS:
        print(f"False statements, % of {pages:,} pages, {seeds} seeds:\n")
        rows = [
            [name, said, *(f"{100 * false_positives(rule, scales(n), seeds, pages):.1f}" for n in CONTESTANTS)]
            for said, scales in SCENARIOS.items()
            for name, rule in RULES.items()
        ]
        _table(["rule", "spreads", *map(str, CONTESTANTS)], rows)
    print("The smallest ratio that is seen in 80 % of pages, by the spread of a contestant's logarithm over seeds:\n")
    rows = []
    for said, scales in ((said, SCENARIOS[said]) for said in COMPARED):
        for seeds in SEEDS:
            for name, rule in list(RULES.items())[1:]:
                for spread in SPREADS if rule is ours and said == "equal" else SPREADS[1:2]:
                    seen = [_ratio(spread * smallest_seen(rule, scales(n), seeds, pages)) for n in COMPARED[said]]
                    rows.append([said, str(seeds), name, f"{spread}", *[""] * (4 - len(seen)), *seen])
    _table(["spreads", "seeds", "rule", "spread", "2", "4", "8", "12"], rows)


def _ratio(logarithm: float) -> str:
    ratio = math.exp(min(logarithm, 50.0))
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}" if ratio < 1000 else "over 1000"


if __name__ == "__main__":
    main()
