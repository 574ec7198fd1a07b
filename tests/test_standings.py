"""What a comparison's page says, from folders of scores: it favours nobody, and says how sure it is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowmap.comparison.lines import LINES
from flowmap.comparison.page import write_page
from flowmap.comparison.record import load
from flowmap.comparison.sentences import sentences
from flowmap.comparison.standings import Standings
from flowmap.errors import FlowmapError
from flowmap.files.json_lines import read_lines
from flowmap.statistics.effort import Effort, in_line
from flowmap.statistics.intervals import Round, difference
from flowmap.statistics.spots import Row, Spot

CALLS = (1, 2, 4)
FLOOR = 0.01

Scores = Mapping[str, np.ndarray]
"""By contestant: scores at `CALLS`, for each seed and draw of noise."""


def scored(
    folder: Path,
    scores: Scores,
    against: str | None = None,
    metric: str = "m",
    efforts: Mapping[str, Mapping[int, Effort]] | None = None,
) -> Standings:
    """The folder of a comparison whose contestants have these scores, read back.

    `efforts` are what their samples took; where they are not said, the lines are of a time that did not count.
    """
    seeds = max(values.shape[1] for values in scores.values())
    contest = {"stage": "student", "samplers": ["flow_map"]}
    recipe = {"stages": [{"name": "student"}], "evaluation": {"contests": [contest]}}
    known = {
        "name": "made",
        "about": "",
        "seeds": list(range(seeds)),
        "metric": metric,
        "against": against,
        "confidence": 0.95,
        "budget": None,
        "command": "",
        "text": "",
        "contestants": [{"name": name, "recipe": recipe, "own": [], "recomputes": False} for name in scores],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(known))
    for name, values in scores.items():
        for seed in range(values.shape[1]):
            home = folder / name / f"seed-{seed}"
            home.mkdir(parents=True)
            lines = [
                {"stage": "student", "sampler": "flow_map", "nfe": n, "metric": metric, "floor": FLOOR}
                | {"values": draws}
                | (in_line(efforts[name][n]) if efforts and name in efforts else {})
                for n, draws in zip(CALLS, values[:, seed].tolist(), strict=True)
            ]
            (home / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return load(folder)


def drawn(
    levels: Mapping[str, Sequence[float]], seeds: int = 3, spread: float = 0.1, start: int = 0
) -> dict[str, np.ndarray]:
    """Scores around a contestant's level at each number of calls: of a seed for all, of its own, and of noise."""
    shared = np.random.default_rng(99).normal(0, 0.3, (1, seeds, 1))
    found = {}
    for number, (name, values) in enumerate(levels.items()):
        rng = np.random.default_rng(start + number)
        own = rng.normal(0, spread, (len(CALLS), seeds, 1)) + rng.normal(0, spread / 2, (len(CALLS), seeds, 2))
        found[name] = np.array(values)[:, None, None] * np.exp(shared + own)
    return found


LEVELS = {"anna": (1.0, 1.0, 0.5), "bert": (5.0, 1.1, 0.5), "carl": (1.1, 6.0, 0.55), "dora": (9.0, 1.3, 5.0)}


def told(found: Standings) -> list[str]:
    """The sentences, but for the one that counts rows."""
    return [text for text in sentences(found) if "corrected for" not in text]


def verdicts(found: Standings) -> dict[tuple[int, str, str], str]:
    """What is said of every pair, either way round."""
    said = {}
    for (_, calls), one in found.rounds.items():
        for a, b in combinations(one.spots, 2):
            said[calls, a.contestant, b.contestant] = one.difference(a, b).verdict
            said[calls, b.contestant, a.contestant] = one.difference(b, a).verdict
    return said


def test_the_order_of_contestants_changes_no_sentence(tmp_path: Path) -> None:
    scores = drawn(LEVELS)
    first = scored(tmp_path / "first", scores, "anna")
    other = scored(tmp_path / "other", dict(reversed(scores.items())), "anna")
    assert sorted(sentences(first)) == sorted(sentences(other))
    assert verdicts(first) == verdicts(other)
    assert any(verdict != "same" for verdict in verdicts(first).values())
    for key, one in first.rounds.items():
        assert one.ranks() == other.rounds[key].ranks()
        assert one.leaders() == other.rounds[key].leaders()
        for a, b in combinations(one.spots, 2):
            here, there = one.difference(a, b), other.rounds[key].difference(b, a)
            assert (here.low, here.high) == pytest.approx((1 / there.high, 1 / there.low))
            assert here.more == there.more


def test_what_two_seeds_decide_is_said_to_rest_on_two(tmp_path: Path) -> None:
    """Two differences that happen to be nearly equal leave an interval next to nothing."""
    scores = {name: np.full((len(CALLS), 2, 2), 1.0) for name in ("anna", "bert")}
    scores["bert"] *= np.array([0.99, 0.9901])[None, :, None]
    found = scored(tmp_path / "two", scores, "anna")
    row = Row("bert", "flow_map")
    seen = found.rounds["m", 1].difference(row, Row("anna", "flow_map"))
    assert (seen.verdict, seen.by_two_seeds) == ("better", True)
    assert "bert against anna: better at any number of calls (by two training seeds alone: a third may turn that)." in (
        sentences(found)
    )
    assert "over training seeds (two, which hardly tell" in sentences(found)[-1]
    page = " ".join(write_page(tmp_path / "two").read_text().split())
    assert page.count(", by two seeds</span>") == len(CALLS)
    # Nothing of the kind where there are three, nor where two decide nothing.
    three = scored(tmp_path / "three", drawn(LEVELS), "anna")
    assert "two" not in " ".join(sentences(three))
    none = scored(tmp_path / "none", drawn({"anna": (1.0,) * 3, "bert": (1.0,) * 3}, seeds=2), "anna")
    assert "by two training seeds" not in " ".join(sentences(none))


def test_names_change_no_sentence(tmp_path: Path) -> None:
    """A name that sorts last says the same as one that sorts first."""
    scores = drawn(LEVELS)
    renamed = {name.replace("anna", "zoe"): values for name, values in scores.items()}
    first = told(scored(tmp_path / "first", scores, "anna"))
    assert [text.replace("anna", "zoe") for text in first] == told(scored(tmp_path / "other", renamed, "zoe"))


def test_twins_never_differ_share_every_rank_and_change_nothing_for_the_others(tmp_path: Path) -> None:
    """The same scores under two names: one row for the correction, and the same sentences for both."""
    scores = drawn(LEVELS)
    alone = scored(tmp_path / "alone", scores, "anna")
    found = scored(tmp_path / "twins", scores | {"twin": scores["bert"]}, "anna")
    for key, one in found.rounds.items():
        ranks = {row.contestant: rank for row, rank in one.ranks().items()}
        assert ranks["bert"] == ranks["twin"]
        pair = one.difference(Row("bert", "flow_map"), Row("twin", "flow_map"))
        assert (pair.low, pair.ratio, pair.high, pair.verdict) == (1, 1, 1, "same")
        assert one.count == alone.rounds[key].count
        for a, b in combinations(alone.rounds[key].spots, 2):
            assert one.difference(a, b) == alone.rounds[key].difference(a, b)
    of = {name: [t.replace(name, "X") for t in told(found) if t.startswith(name)] for name in ("bert", "twin")}
    assert of["bert"] == of["twin"] != []


@pytest.mark.parametrize("idle", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("level", [0.02, 1.0, 50.0])
def test_an_idle_contestant_turns_nothing_round_and_creates_no_difference(
    tmp_path: Path, idle: float, level: float
) -> None:
    """One that is no steadier than the others: wherever it stands, it can only widen the intervals of the others."""
    scores = drawn(LEVELS)
    more = drawn({"idle": [level] * 3}, spread=3 * idle, start=50)
    before, after = scored(tmp_path / "before", scores), scored(tmp_path / "after", scores | more)
    for key, one in before.rounds.items():
        for a, b in combinations(one.spots, 2):
            was, now = one.difference(a, b), after.rounds[key].difference(a, b)
            assert now.ratio == was.ratio
            assert now.low <= was.low
            assert now.high >= was.high
            assert now.verdict in (was.verdict, "same")


def test_a_steady_idle_contestant_creates_only_what_a_pair_shows_alone(tmp_path: Path) -> None:
    """It lends its steadiness to all, but no interval is narrower than Student's at half of the error."""
    scores = drawn(LEVELS, spread=0.3)
    steady = drawn({f"idle{i}": [7.0 + i] * 3 for i in range(4)}, spread=1e-6, start=50)
    before, after = scored(tmp_path / "before", scores), scored(tmp_path / "after", scores | steady)
    narrower = 0
    for key, one in before.rounds.items():
        for a, b in combinations(one.spots, 2):
            was, now = one.difference(a, b), after.rounds[key].difference(a, b)
            alone = scored_pair(after, key[1], a, b)
            assert now.low <= alone[0]
            assert now.high >= alone[1]
            assert {was.verdict, now.verdict} != {"better", "worse"}
            narrower += now.high < was.high
    assert narrower


def scored_pair(found: Standings, calls: int, a: Row, b: Row) -> tuple[float, float]:
    """The pair's own interval of Student's t at 97.5 %."""
    from scipy import stats

    means = [
        np.log([spot.means[seed] for seed in found.seeds])
        for spot in (found.at("m", calls)[a], found.at("m", calls)[b])
    ]
    interval = stats.ttest_rel(*means).confidence_interval(0.975)
    return float(np.exp(interval.low) * (1 + 1e-9)), float(np.exp(interval.high) * (1 - 1e-9))


def test_the_page_says_how_sure_it_is_and_what_would_decide(tmp_path: Path) -> None:
    found = scored(tmp_path / "made", drawn(LEVELS), "anna")
    page = re.sub(r"\s+", " ", write_page(found.folder).read_text())
    sure = (
        "95 % that no difference named there is chance, corrected for all rows (rows: 4; pairs: 6), over training seeds"
    )
    assert sure in page
    assert sure in sentences(found)[-1]
    said = [text for text in sentences(found) if text.startswith("Undecided against anna")]
    assert len(said) == 1
    assert said[0] in page
    open_pairs = [line for line in read_lines(found.folder / "comparison.jsonl") if line.get("more_seeds")]
    assert all(line["verdict"] == "same" for line in open_pairs)
    against = [line for line in open_pairs if "anna" in (line["a"]["contestant"], line["b"]["contestant"])]
    near = [line for line in against if line["more_seeds"] <= 30]
    assert near
    best = min(near, key=lambda line: line["more_seeds"])
    name = next(row["contestant"] for row in (best["a"], best["b"]) if row["contestant"] != "anna")
    assert f"{name} at {best['calls']} call" in said[0]
    assert f"({best['more_seeds']} more)" in said[0]
    assert f"+{best['more_seeds']} seeds" in page
    assert f"undecided; {best['more_seeds']} more training seed" in page
    if len(near) < len(against):
        assert f"{len(against) - len(near)} would take over 30 more" in said[0]
        assert "+&gt;30 seeds" in page


def test_totals_that_differ_are_said_above_every_ranking(tmp_path: Path) -> None:
    """One makes a sample in chunks, one is guided, one takes what it is asked for, and of one nobody counted."""
    efforts = {
        "anna": {n: Effort(7, 7 * n + 6, 7 * n + 6) for n in CALLS},
        "bert": {n: Effort(1, 2 * n, 2 * n) for n in CALLS},
        "carl": {n: Effort(6, 6 * n + 6, 6 * n + 12) for n in CALLS},
    }
    found = scored(tmp_path / "unlike", drawn(LEVELS), "bert", efforts=efforts)
    said = sentences(found)
    total = (
        "At 4 calls of each chunk totals differ, by 4.5 times at most. Network passes of one sample: 8 (bert), 34 "
        "(anna) and 36 (carl); those of dora were not counted. What is ranked there was asked for alike, and not "
        "spent alike."
    )
    place = said.index(total)
    assert said[place + 1].startswith("At 4 calls of each chunk bert is best by m ")
    assert sum(" totals differ, by " in sentence for sentence in said) == len(CALLS)
    page = " ".join(re.sub(r"<[^>]+>", " ", write_page(tmp_path / "unlike").read_text()).split())
    above, below = page.split("What one sample takes Counted", maxsplit=1)
    assert above.index(total) < above.index("do not differ from it")
    assert "1 call of each chunk 2 calls of each chunk 4 calls of each chunk" in below
    assert "network calls of each chunk best" in above
    assert "(34 passes)" in above
    assert "(8 passes)" in above
    rows = [f"{name} {n} {e.chunks} {e.calls} {e.passes} " for name, own in efforts.items() for n, e in own.items()]
    assert all(below.count(row) == 1 for row in rows)
    assert "carl measured as it is 18 at 1 , 24 at 2 , 36 at 4" in below
    assert "network calls per chunk" in below
    lines = [line for line in read_lines(tmp_path / "unlike" / LINES) if line["kind"] == "score"]
    keys = ("chunks", "calls_in_all", "passes_in_all")
    assert {(line["contestant"], line["calls"]): tuple(line[key] for key in keys) for line in lines} == {
        (name, n): tuple(efforts[name][n]) if name in efforts else (0, 0, 0) for name in LEVELS for n in CALLS
    }


def test_lists_of_unlike_lengths_have_no_curve_and_a_page(tmp_path: Path) -> None:
    """Each at its own number of calls alone, as weights with a list of times are."""
    scored(tmp_path / "lists", drawn(LEVELS))
    for name, calls in zip(LEVELS, CALLS, strict=False):
        for file in (tmp_path / "lists" / name).glob("seed-*/metrics.jsonl"):
            kept = [line for line in file.read_text().splitlines(True) if json.loads(line)["nfe"] == calls]
            file.write_text("".join(kept))
    for file in (tmp_path / "lists/dora").glob("seed-*/metrics.jsonl"):
        file.write_text("")
    page = " ".join(write_page(tmp_path / "lists").read_text().split())
    assert "No contestant was measured at two numbers of calls, so there is no curve" in page
    assert "network calls per sample" not in page


def test_totals_that_are_those_asked_for_are_no_subject(tmp_path: Path) -> None:
    scores = drawn(LEVELS)
    known = {name: {n: Effort(1, n, n) for n in CALLS} for name in scores}
    counted, before = scored(tmp_path / "counted", scores, efforts=known), scored(tmp_path / "before", scores)
    assert sentences(counted) == sentences(before)
    for name in ("counted", "before"):
        page = write_page(tmp_path / name).read_text()
        assert "What one sample takes" not in page
        assert "chunk" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)


def test_one_training_seed_says_what_that_is_worth(tmp_path: Path) -> None:
    found = scored(tmp_path / "made", drawn(LEVELS, seeds=1), "anna")
    assert "over draws of noise of one training seed, which say nothing of another training" in sentences(found)[-1]
    assert not any("more training seeds" in text for text in sentences(found))
    write_page(found.folder)


def test_a_page_of_failures_is_written_whatever_seeds_are_left(tmp_path: Path) -> None:
    """No seed in common with anyone, and one seed in common: nothing is said of either, and of the others as before."""
    scores = drawn(LEVELS)
    found = scored(tmp_path / "made", scores, "anna")
    for name, seeds in {"carl": (0, 1, 2), "dora": (0, 1)}.items():
        for seed in seeds:
            (found.folder / name / f"seed-{seed}" / "metrics.jsonl").unlink()
    left = load(found.folder)
    write_page(found.folder)
    assert {row.contestant for row in left.rows} == {"anna", "bert", "dora"}
    assert any(t.startswith("bert against anna: worse at 1 call") for t in told(left))
    assert any("dora has too few numbers in common with it to be compared" in t for t in told(left))
    assert not any(t.startswith("dora against") for t in told(left))


def test_the_best_is_the_one_that_no_other_is_better_than() -> None:
    """By arithmetic means anna is best: one training of bert failed wildly, or one of anna is missing."""
    wild = {"anna": (1.0, 1.0, 1.0, 1.0, 1000.0), "bert": (0.37, 0.37, 0.37, 0.37, 1105.0)}
    fewer = {"anna": (1.0, 1.1, 1.05), "bert": (0.5, 0.55, 0.52, 50.0)}
    floors = dict.fromkeys(range(5), 0.0)
    for values in (wild, fewer):
        spots = {Row(name, ""): Spot({s: (v,) for s, v in enumerate(vs)}, floors) for name, vs in values.items()}
        one = Round(spots)
        best, ties = one.leaders()
        assert best.contestant == "bert"
        assert one.ranks()[best] == 1
        assert not ties


def test_scores_that_are_no_numbers_are_told_apart_from_differences(tmp_path: Path) -> None:
    scores = drawn(LEVELS)
    found = scored(tmp_path / "made", scores, "anna")
    path = found.folder / "bert" / "seed-1" / "metrics.jsonl"
    path.write_text(re.sub(r'"values": \[[^]]*\]', '"values": [NaN]', path.read_text()))
    said = told(load(found.folder))
    assert any(t.startswith("bert has scores that are no numbers (training seed 1;") for t in said)
    assert not any(t.startswith("bert against anna") for t in said)


def test_a_score_that_is_no_number_is_ranked_worst_and_written_as_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = scored(tmp_path / "made", drawn(LEVELS), "anna")
    for seed in range(3):
        path = found.folder / "bert" / f"seed-{seed}" / "metrics.jsonl"
        path.write_text(re.sub(r'"values": \[[^]]*\]', '"values": ["Infinity", "NaN"]', path.read_text()))
    found = load(found.folder)
    for calls in found.calls("m"):
        placed = found.rounds["m", calls].ranks()
        worst = max(placed, key=lambda row: placed[row])
        assert (worst.contestant, placed[worst]) == ("bert", len(placed))
    page = write_page(found.folder).read_text(encoding="utf-8")
    assert "not finite" in page
    lines = [json.loads(line, parse_constant=refuse) for line in (found.folder / LINES).read_text().splitlines()]
    bad = [line for line in lines if line["kind"] == "score" and line["contestant"] == "bert"]
    assert [line["mean"] for line in bad] == ["NaN"] * len(CALLS)
    assert all(values == ["Infinity", "NaN"] for line in bad for values in line["values"].values())


SHAPES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a list": (lambda known: [known], "input should be"),
    "no name": (lambda known: known.pop("name"), "'name': field required"),
    "seeds as text": (lambda known: known.update(seeds="0"), "'seeds'"),
    "no seeds": (lambda known: known.update(seeds=[]), "'seeds'"),
    "one more field": (lambda known: known.update(more=1), "'more'"),
    "no contestants": (lambda known: known.update(contestants=[]), "'contestants'"),
    "a contestant as text": (lambda known: known.update(contestants=["anna"]), "'contestants.0'"),
    "a name that leads away": (lambda known: known["contestants"][0].update(name="../x"), "'contestants.0.name'"),
    "no recipe": (lambda known: known["contestants"][0].update(recipe=None), "'contestants.0.recipe'"),
    "no contests": (
        lambda known: known["contestants"][0]["recipe"]["evaluation"].update(contests=[]),
        "'contestants.0.recipe.evaluation.contests'",
    ),
    "a stage without a name": (
        lambda known: known["contestants"][0]["recipe"].update(stages=[{}]),
        "'contestants.0.recipe.stages.0.name'",
    ),
    "a budget of nothing": (lambda known: known.update(budget={"by": "calls", "amount": 0}), "'budget.amount'"),
    "confidence": (lambda known: known.update(confidence=2), "'confidence'"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_record_of_another_shape_is_named(tmp_path: Path, shape: str) -> None:
    found = scored(tmp_path / "made", drawn(LEVELS), "anna")
    path = found.folder / "comparison.json"
    known = json.loads(path.read_text())
    change, words = SHAPES[shape]
    changed = change(known)
    path.write_text(json.dumps(changed if shape == "a list" else known))
    with pytest.raises(FlowmapError, match=r"comparison\.json is damaged: ") as caught:
        load(found.folder)
    assert words in str(caught.value)
    assert caught.value.code == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"1" * 9999 + b"}"])
def test_a_record_that_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    found = scored(tmp_path / "made", drawn(LEVELS), "anna")
    (found.folder / "comparison.json").write_bytes(content)
    with pytest.raises(FlowmapError, match=r"comparison\.json is damaged: it "):
        load(found.folder)


@pytest.mark.parametrize("line", ["[]", "{}", '{"contestant": "a", "seed": "0", "message": ""}', '{"x": 1}'])
def test_a_failure_of_another_shape_is_named(tmp_path: Path, line: str) -> None:
    found = scored(tmp_path / "made", drawn(LEVELS), "anna")
    (found.folder / "failures.jsonl").write_text(line + "\n")
    with pytest.raises(FlowmapError, match=r"failures\.jsonl, line 1: damaged, "):
        load(found.folder)


def test_one_number_is_no_interval() -> None:
    floors = {0: 0.0, 1: 0.0}
    for value in (1.0, 2.0):
        found = difference(Spot({0: (1.0,)}, floors), Spot({0: (value,)}, floors))
        assert (found.count, found.low, found.high, found.verdict, found.more) == (1, 0.0, math.inf, "same", None)


def test_two_numbers_that_differ_by_the_same_prove_nothing() -> None:
    floors = {0: 0.0, 1: 0.0, 2: 0.0}
    one, other = Spot({0: (1.0,), 1: (1.0,)}, floors), Spot({0: (2.0,), 1: (2.0,)}, floors)
    assert difference(one, other).verdict == "same"
