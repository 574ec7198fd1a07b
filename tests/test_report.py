"""The report: every section, every number, nothing from outside, whatever state the run is in."""

from __future__ import annotations

import base64
import json
import math
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from flowmap.errors import FlowmapError
from flowmap.files.manifest import FORMAT, MANIFEST, StepsSeal
from flowmap.report import figures
from flowmap.report.figures import Curve, Style
from flowmap.report.page import write_report

CALLS = (1, 2, 4, 8)
SERIES = {
    ("teacher", "euler"): (9.0, 4.0, 2.0, 1.0),
    ("v1.5", "flow_map"): (1.5, 0.8, 0.45, 0.3),
    ("v1.5", "consistency"): (1.4, 0.7, 0.6, 1.25),
}
SECTIONS = ["claims", "scaling", "samplers", "samples", "table", "losses", "cost", "recipe"]
SHEETS = ["real", "teacher", "v1.5.ema.flow_map.1", "v1.5.ema.flow_map.8", "teacher.ema.euler.8"]
PNG = b"\x89PNG\r\n\x1a\n not decoded by the report "


class Page(HTMLParser):
    """Tags with their attributes, in order, and the text cells of every table row by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[tuple[str, list[tuple[str, str]]]] = []
        self.words: dict[str, str] = {}
        self._section, self._in_cell = "head", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "section":
            self._section = found["id"] or ""
        elif tag == "tr":
            self.rows.append((self._section, []))
        elif tag in ("td", "th"):
            self.rows[-1][1].append(("", found.get("class") or ""))
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words[self._section] = self.words.get(self._section, "") + data
        if self._in_cell:
            text, kind = self.rows[-1][1][-1]
            self.rows[-1][1][-1] = (text + data, kind)

    @property
    def sections(self) -> list[str]:
        return [found["id"] or "" for tag, found in self.tags if tag == "section"]

    def table(self, section: str) -> list[list[str]]:
        return [[" ".join(text.split()) for text, _ in row] for where, row in self.rows if where == section]

    def classes(self, section: str) -> list[list[str]]:
        return [[kind for _, kind in row] for where, row in self.rows if where == section]


def score(stage: str, sampler: str, nfe: int, value: float, **more: Any) -> dict[str, Any]:
    base = {"metric": "frechet_teacher", "weights": "ema", "spread": value / 50, "floor": 0.35, "seed": 0}
    line = base | {"stage": stage, "sampler": sampler, "nfe": nfe, "value": value, "samples": 64, "repeats": 3} | more
    # Three draws with this very mean and standard deviation.
    return {"values": [value - line["spread"], value, value + line["spread"]]} | line


def scores(**more: Any) -> list[dict[str, Any]]:
    return [score(*key, n, v, **more) for key, values in SERIES.items() for n, v in zip(CALLS, values, strict=True)]


def test_what_a_sample_takes_is_in_the_page_where_it_is_not_what_was_asked(tmp_path: Path) -> None:
    chunked = {"chunks": 3, "calls_in_all": 14, "passes_in_all": 16}
    one = {"chunks": 1, "calls_in_all": 4, "passes_in_all": 4}
    lines = [score("v1.5", "flow_map", 4, 1.0, **chunked), score("teacher", "euler", 4, 1.0, **one)]
    page = read(make_run(tmp_path / "chunked", lines))
    assert "What one sample takes" in page.words["table"]
    assert ["v1.5 · flow_map", "4", "3", "14", "16"] in page.table("table")
    assert ["teacher · euler", "4", "1", "4", "4"] in page.table("table")
    assert "per chunk" in page.words["table"]
    assert "takes" not in read(make_run(tmp_path / "whole", lines[1:])).words["table"]


def record(step: int, **more: Any) -> dict[str, Any]:
    calls = {
        "student": {"grad": 1, "no_grad": step % 3, "grad_samples": 8, "no_grad_samples": 8 * (step % 3)},
        "teacher": {"grad": 0, "no_grad": 2, "grad_samples": 0, "no_grad_samples": 16},
    }
    base = {"step": step, "losses": {"main": 1 / step}, "raw": {"main/r=t": 2 / step}, "norms": {}, "lr": {}}
    return base | {"calls": calls, "backwards": 2, "seconds": 0.25, "peak_bytes": 2**20 * (100 + step % 6)} | more


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_run(
    folder: Path,
    lines: list[dict[str, Any]] | None = None,
    steps: int = 20,
    stages: tuple[str, ...] = ("teacher", "v1.5"),
    seeds: tuple[int, ...] = (0,),
) -> Path:
    folder.mkdir(parents=True)
    evaluation = {"teacher": "teacher", "teacher_calls": 64, "samples": 64, "repeats": 3}
    recipe = {"name": folder.name, "seeds": seeds, "stages": [{"name": s, "steps": 20} for s in stages]}
    recipe["backbone"] = {"type": "mlp"}
    (folder / "recipe.lock.toml").write_text(tomli_w.dumps(recipe | {"evaluation": evaluation}))
    (folder / "about.json").write_text(json.dumps({"flowmap": "0.1.0", "torch": "2.9.0+cpu", "device": "cpu"}))
    write_lines(folder / "metrics.jsonl", scores() if lines is None else lines)
    for seed in seeds:
        for stage in stages:
            home = folder if len(seeds) == 1 else folder / f"seed-{seed}"
            write_lines(home / stage / "steps.jsonl", [record(i + 1) for i in range(steps)])
    return folder


def write_manifest(stage: Path, step: int, seal: StepsSeal) -> None:
    """A checkpoint without weights, which says what the lines up to its step were."""
    folder = stage / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    manifest = {"format": FORMAT, "step": step, "files": {}, "steps": seal.model_dump()}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def add_pictures(folder: Path) -> None:
    (folder / "pictures").mkdir()
    for name in SHEETS:
        (folder / "pictures" / f"{name}.png").write_bytes(PNG + name.encode())


def read(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a run that has everything."""
    folder = make_run(tmp_path_factory.mktemp("any") / "runs" / "demo")
    add_pictures(folder)
    return read(folder)


def agree(text: str, exact: float) -> bool:
    """Whether a printed number is `exact`, rounded to the digits printed."""
    digits = len(text.partition(".")[2])
    return digits > 0 and abs(float(text) - exact) <= 0.5000001 * 10**-digits


def test_a_finished_run_has_every_section_in_order(finished: Page) -> None:
    page = finished
    assert page.sections == SECTIONS
    head = " ".join(page.words["head"].split())
    assert "2 stages (teacher, v1.5), seed 0, trained on cpu in 10.0 s." in head
    assert "not finished" not in head
    assert "flowmap run runs/demo/recipe.lock.toml" in page.text
    assert ["torch", "2.9.0+cpu"] in page.table("recipe")
    assert "teacher_calls = 64" in page.words["recipe"]


def test_the_page_needs_nothing_from_outside(finished: Page) -> None:
    page = finished
    for tag, found in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for key in ("src", "href", "xlink:href", "srcset", "data"):
            assert (found.get(key) or "#").startswith(("#", "data:image/png;base64,"))
    assert "http" not in page.text
    assert "@import" not in page.text
    assert not re.search(r"url\((?!#)", page.text)
    ids = set(re.findall(r'\bid="([^"]+)"', page.text))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page.text)) <= ids
    assert len(page.text) < 300_000


def test_every_number_of_the_table_is_right_to_its_last_digit(tmp_path: Path) -> None:
    semigroup = score("v1.5", "flow_map", 3, 0.0421, metric="semigroup", spread=0.0017, floor=0.0)
    page = read(make_run(tmp_path / "demo", [*scores(), semigroup]))
    rows = page.table("table")
    assert rows[0] == ["stage · sampler", "1 call", "2 calls", "4 calls", "8 calls", "floor"]
    for row, (key, values) in zip(rows[1:4], SERIES.items(), strict=True):
        assert row[0] == " · ".join(key)
        for text, value in zip(row[1:-1], values, strict=True):
            shown, spread = text.replace(" ", "").split("±")
            assert agree(shown, value)
            assert agree(spread, value / 50)
        assert agree(row[-1], 0.35)
    assert rows[4] == ["stage · sampler", "3 calls", "floor"]
    assert rows[5][1].replace(" ", "") == "0.0421±0.0017"
    assert [[kind.split() for kind in row[1:5]] for row in page.classes("table")[1:4]] == [
        [[], [], [], []],
        [[], [], ["best"], ["best", "floor"]],
        [["best"], ["best"], [], []],
    ]


def test_a_small_spread_is_not_shown_as_none_and_a_bad_score_is_named(tmp_path: Path) -> None:
    odd = [score("v1.5", "flow_map", 4, 0.5, spread=1e-7), score("v1.5", "flow_map", 8, math.nan, spread=math.nan)]
    page = read(make_run(tmp_path / "demo", scores() + odd))
    row = page.table("table")[2]
    assert re.search(r"± <0\.0*1$", row[3])
    assert row[4].startswith("not finite")
    assert "✗ does not hold" in page.text


def test_several_seeds_show_their_mean_and_deviation(tmp_path: Path) -> None:
    factors = (0.9, 1.0, 1.3)
    lines = [
        score(*key, n, v * f, seed=s)
        for s, f in enumerate(factors)
        for key, values in SERIES.items()
        for n, v in zip(CALLS, values, strict=True)
    ]
    page = read(make_run(tmp_path / "demo", lines, seeds=(0, 1, 2)))
    shown, spread = page.table("table")[1][1].replace(" ", "").split("±")
    assert agree(shown, 9.0 * statistics.fmean(factors))
    assert agree(spread, 9.0 * statistics.stdev(factors))
    assert "3 training seeds" in page.words["table"]
    assert "not finished" not in page.words["head"]
    missing = read(make_run(tmp_path / "partly", lines[: len(lines) // 3], seeds=(0, 1, 2)))
    assert "not every seed has been evaluated" in " ".join(missing.words["head"].split())


def test_the_legend_names_the_series_that_have_a_curve_and_no_others(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "demo", [*scores(), score("foil", "flow_map", 3, 0.1, metric="semigroup")]))
    keys = [found["class"] for tag, found in page.tags if tag == "li" and "key-" in (found.get("class") or "")]
    assert keys == ["key-0", "key-1", "key-2"]
    panels = [found["aria-label"] for tag, found in page.tags if tag == "svg" and found.get("aria-label")]
    assert panels[:2] == ["frechet_teacher", "v1.5: frechet_teacher"]
    classes = [found.get("class") or "" for tag, found in page.tags if tag == "g"]
    assert [classes.count(f"series-{i}") for i in range(3)] == [2, 4, 4]  # a band and a line; two panels for a pair


def test_pairs_of_samplers_stand_together_by_stage(tmp_path: Path) -> None:
    lines = [
        score(stage, sampler, n, 1.0, metric=metric)
        for metric in ("frechet_features", "frechet_teacher", "frechet_pixels")
        for stage in ("v1.5", "teacher")
        for sampler in ("flow_map", "consistency")
        for n in CALLS
    ]
    page = read(make_run(tmp_path / "demo", lines))
    panels = [found.get("aria-label") or "" for tag, found in page.tags if tag == "svg"]
    expected = [
        f"{stage}: {metric}" for stage in ("teacher", "v1.5") for metric in ("frechet_teacher", "frechet_features")
    ]
    assert [panel for panel in panels if ": " in panel] == expected


def test_claims_stand_with_their_numbers_and_marks(finished: Page) -> None:
    rows = finished.table("claims")
    assert rows[0] == ["", "frechet_teacher"]
    assert rows[1][0] == "v1.5: the map sampler does not get worse from 4 to 8 calls"
    assert re.fullmatch(r"✓ holds 0\.45\d* ± 0\.009\d* → 0\.30\d* ± 0\.006\d*", rows[1][1])
    assert rows[2][0] == "v1.5: on the same weights the consistency sampler gets worse from 4 to 8 calls"
    assert rows[3][1].startswith("✓ holds · 4.4×")  # 2.0 / 0.45
    # Four times as far by Euler as 0.45, and the interval that says so.
    assert any((found.get("title") or "").startswith("0.23 times as high (0.2") for _, found in finished.tags)


def make_controlled(folder: Path, backbone: dict[str, Any]) -> Path:
    """A run whose stage `mine` was trained from `forward`, and its control `more` from `other`."""
    values = {"forward": (3.0, 2.0), "mine": (1.0, 0.5), "other": (3.0, 2.0), "more": (2.0, 0.5)}
    lines = [
        score(stage, "flow_map", n, v, spread=0.02, floor=0.1)
        for stage, few_many in values.items()
        for n, v in zip((1, 8), few_many, strict=True)
    ]
    make_run(folder, lines, stages=("teacher", *values))
    sources = {"forward": ["teacher"], "mine": ["forward", "teacher"], "other": ["teacher"], "more": ["other", "base"]}
    stages = [
        {"name": stage, "steps": 20, "roles": {f"role {i}": {"from": s} for i, s in enumerate(sources.get(stage, []))}}
        for stage in ("teacher", *values)
    ]
    contests: list[dict[str, Any]] = [{"stage": stage, "weights": "ema"} for stage in values]
    contests[1]["against"] = "more"
    recipe = {"name": folder.name, "seeds": [0], "stages": stages, "backbone": backbone}
    (folder / "recipe.lock.toml").write_text(
        tomli_w.dumps(recipe | {"evaluation": {"teacher": "teacher", "contests": contests}})
    )
    twice = [record(i % 20 + 1) | {"step": i + 1} for i in range(40)]
    write_lines(folder / "other" / "steps.jsonl", twice)
    return folder


def test_a_control_is_held_against_with_what_each_cost_that_the_other_did_not(tmp_path: Path) -> None:
    page = read(make_controlled(tmp_path / "demo", {"type": "mlp"}))
    # A stage's 20 steps: 3 * 160 with gradient and 8 * 21 + 320 without; `other` took twice as many. The teacher, on
    # which both build, is in neither.
    cost = "for 0.67 times the compute (1,936 against 2,904 call equivalents)"
    rows = {row[0]: row[1] for row in page.table("claims")[1:]}
    assert rows[f"mine: better than 'more' at 1 call {cost}"].startswith("✓ holds · 2.0× 1.0")
    assert "vs 2.0" in rows[f"mine: better than 'more' at 1 call {cost}"]
    assert rows[f"mine: loses nothing to 'more' at 8 calls {cost}"].startswith("✓ holds 0.5")
    assert len(rows) == 2
    table = {row[0]: row[5] for row in page.table("cost") if len(row) == 9}
    assert [table[stage] for stage in ("forward", "mine", "other", "more")] == ["968", "968", "1,936", "968"]


@pytest.mark.parametrize("backbone", [{"type": "of_a_lost_plugin"}, {"type": "mlp", "width": "of another version"}])
def test_costs_are_left_out_where_a_backbone_cannot_say_what_it_makes_anew(
    tmp_path: Path, backbone: dict[str, Any]
) -> None:
    page = read(make_controlled(tmp_path / "demo", backbone))
    assert page.table("claims")[1][0] == "mine: better than 'more' at 1 call"
    assert page.table("cost")[1][5] == "–"


def test_what_backward_makes_anew_is_counted(tmp_path: Path) -> None:
    page = read(
        make_controlled(tmp_path / "demo", {"type": "wan21", "weights": "random", "gradient_checkpointing": True})
    )
    assert page.table("cost")[1][5] == "1,128"  # 4 * 160 + 8 * 21 + 320
    assert "and 1 more for what backward makes anew" in " ".join(page.words["cost"].split())


def test_the_ledger_sums_exactly(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "demo", seeds=(0, 5), lines=[]))
    # 2 seeds of 20 steps: sum of step % 3 over 1..20 is 21 (1 + 2 six times, then 1 + 2).
    # A stage's equivalents: 3 * 320 with gradient, 336 + 640 without.
    expected = {"student": ["40", "42", "656"], "teacher": ["0", "80", "640"]}
    rows = page.table("cost")
    for start in (1, 4):
        assert rows[start][1:] == ["40", "40", "122", "1,296", "1,936", "80", "10.0 s", "105 MiB"]
        for row in rows[start + 1 : start + 3]:
            assert row[2:5] == expected[row[0]]
    assert rows[7] == ["all stages", "80", "80", "244", "2,592", "3,872", "160", "20.0 s", "105 MiB"]


def test_pictures_stand_at_their_series_and_calls(finished: Page) -> None:
    sheets = {name: PNG + name.encode() for name in SHEETS}
    images = [found for tag, found in finished.tags if tag == "img"]
    data = {i["alt"]: base64.b64decode((i["src"] or "").partition("base64,")[2]) for i in images}
    assert data == {
        "real data": sheets["real"],
        "teacher, 64 calls": sheets["teacher"],
        "samples of teacher · euler with 8 calls": sheets["teacher.ema.euler.8"],
        "samples of v1.5 · flow_map with 1 call": sheets["v1.5.ema.flow_map.1"],
        "samples of v1.5 · flow_map with 8 calls": sheets["v1.5.ema.flow_map.8"],
    }
    expected = [["calls", "1", "8"], ["teacher · euler", "–", ""], ["v1.5 · flow_map", "", ""]]
    assert finished.table("samples") == expected


def test_a_run_in_training_shows_what_there_is(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "demo", lines=[], steps=7, seeds=(0, 1)))
    assert page.sections == ["losses", "cost", "recipe"]
    head = " ".join(page.words["head"].split())
    assert "28 of 80 steps are done, and nothing has been evaluated yet" in head
    assert page.table("cost")[1][1] == "14 of 40"


def test_scores_alone_are_shown_too(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo", steps=0)
    (folder / "about.json").unlink()
    assert read(folder).sections == ["claims", "scaling", "samplers", "table", "recipe"]


def test_who_is_guided_and_calls_the_network_twice_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo")
    assert "Guided" not in read(folder).text
    lock = folder / "recipe.lock.toml"
    contests = [{"stage": "teacher", "cfg_scale": 3.0}, {"stage": "v1.5", "cfg_scale": 1.0}, {"stage": "base"}]
    recipe = tomllib.loads(lock.read_text())
    recipe["evaluation"] |= {"contests": contests, "teacher_cfg_scale": 2.5}
    lock.write_text(tomli_w.dumps(recipe))
    words = " ".join(read(folder).words["scaling"].split())
    told = "Guided: teacher (by 3), the teacher's reference samples (by 2.5); each of their calls evaluates the network"
    assert told in words


def test_metrics_without_a_curve_or_a_plugin_are_still_tabled(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "demo", [score("v1.5", "flow_map", 3, 0.5, metric="of_a_lost_plugin")]))
    assert page.sections == ["table", "losses", "cost", "recipe"]
    assert "of_a_lost_plugin" in page.words["table"]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    lines = [
        one | {"stage": bad, "sampler": s} for one in scores() for s in ("flow_map", "consistency", "$<b>\"'{{7*7}}")
    ]
    lines += [one | {"metric": "<script>x</script>"} for one in lines]
    folder = make_run(tmp_path / "demo", lines, stages=("teacher", bad))
    write_lines(folder / "teacher" / "steps.jsonl", [record(1, losses={"</svg><b>": 1.0}), record(2)])
    (folder / "about.json").write_text(json.dumps({"</table><script>": "</pre><script>alert(2)</script>"}))
    lock = folder / "recipe.lock.toml"
    lock.write_text(lock.read_text() + '\n[data]\ntype = "</pre><script>alert(3)</script>"\n')
    page = read(folder)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any("onerror" in found or "onload" in found for _, found in page.tags)
    assert page.table("table")[1][0].startswith(f"{bad} · ")
    assert "49" not in page.table("table")[3][0]
    assert "<b>\"'" in page.table("table")[3][0]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "recipe.lock.toml").unlink(), r"is no run folder.*; runs in .*: other"),
        (lambda f: (f / "recipe.lock.toml").write_text("seed = 0\nstages = []"), "folder of one stage"),
        (lambda f: (f / "recipe.lock.toml").write_text("name = "), "damaged"),
        (lambda f: (f / "metrics.jsonl").write_text("{oops}\n"), "metrics.jsonl|damaged"),
        (
            lambda f: (f / "metrics.jsonl").write_text('{"stage": "a"}\n'),
            "line 1: damaged, '(sampler|weights)': field required",
        ),
        (
            lambda f: write_lines(f / "teacher" / "steps.jsonl", [{"step": 1}]),
            r"steps\.jsonl: line 1: damaged, 'losses'.*\nFirst: mv",
        ),
        (lambda f: [p.unlink() for p in f.rglob("*.jsonl")], "no scores and no steps yet; train first: flowmap run"),
    ],
)
def test_what_is_no_run_is_refused_with_a_reason(tmp_path: Path, harm: Any, message: str) -> None:
    make_run(tmp_path / "other")
    folder = make_run(tmp_path / "demo")
    harm(folder)
    with pytest.raises(FlowmapError, match=message):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo")
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_losses_that_go_negative_get_a_panel_of_their_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo", lines=[])
    many = [record(i, losses={"dmd": math.cos(i), "flow": 2.0 + math.sin(i)}, raw={}) for i in range(1, 5001)]
    write_lines(folder / "v1.5" / "steps.jsonl", many)
    page = read(folder)
    panels = [found["aria-label"] for tag, found in page.tags if tag == "svg"]
    assert panels == ["losses of teacher", "losses of v1.5", "losses of v1.5"]
    paths = [found["d"] or "" for tag, found in page.tags if tag == "path"]
    assert 100 < max(path.count("L") for path in paths) <= figures.POINTS


def test_the_one_step_at_which_a_loss_leaps_is_drawn_among_100_000() -> None:
    assert figures.extremes(np.array([3.0, 1.0, 2.0])).tolist() == [0, 1, 2]
    values = np.sin(np.arange(100_000.0))
    for place in (1, 49_999, 77_777, 99_998):
        values[place] = 50.0 if place % 2 else -50.0
    values[5_000:6_000] = np.nan
    chosen = figures.extremes(values)
    assert {0, 1, 49_999, 77_777, 99_998, 99_999} <= set(chosen.tolist())
    assert len(chosen) <= figures.POINTS
    assert (np.diff(chosen) > 0).all()
    assert np.isfinite(values[chosen]).all()


@pytest.mark.parametrize("count", [400, 401, 100_000])
def test_smoothing_is_a_centred_mean_of_what_is_known(count: int) -> None:
    steps = 7 + np.arange(count, dtype=np.float64)
    where, mean = figures.smoothed(steps, 2 * steps)
    assert (where[0], where[-1]) == (7, 6 + count)
    assert len(where) <= figures.POINTS
    # Of a straight line the mean is the line itself, but for the ends.
    assert mean[10:-10] == pytest.approx(2 * where[10:-10])
    holes = np.where(np.arange(count) % 2 == 0, 3.0, np.nan)
    assert figures.smoothed(steps, holes)[1] == pytest.approx(np.full(len(where), 3.0))
    assert np.isnan(figures.smoothed(steps, np.full(count, np.nan))[1]).all()


def test_one_wild_value_does_not_blur_what_is_far_from_it() -> None:
    values = np.ones(100_000)
    values[50_000] = 1e30
    mean = figures.smoothed(np.arange(100_000.0), values)[1]
    assert mean[:150] == pytest.approx(np.ones(150))
    assert mean[250:] == pytest.approx(np.ones(150))
    assert mean.max() > 1e26


def test_a_page_of_many_steps_branches_stages_and_seeds_draws_no_more_points_than_fit_on_it(tmp_path: Path) -> None:
    names = [f"branch {i}" for i in range(8)]
    seeds, stages = (0, 1, 2), tuple(f"stage-{i}" for i in range(12))
    folder = make_run(tmp_path / "demo", lines=[], steps=1, stages=stages, seeds=seeds)
    many = [record(i, losses={n: 2 + math.sin(i * len(n)) for n in names}, raw={}) for i in range(1, 2001)]
    for seed in seeds:
        for stage in stages:
            write_lines(folder / f"seed-{seed}" / stage / "steps.jsonl", many)
    page = read(folder)
    points = [(found["d"] or "").count("L") for tag, found in page.tags if tag == "path"]
    lines = [count for count in points if count > 20]
    assert len(lines) >= len(names) * len(seeds) * len(stages)
    assert sum(lines) < 125_000
    assert len(page.text) < 3_000_000


def labels(svg: str) -> list[tuple[float, float, str]]:
    """Height from the top, distance from the left, and words of every text in a figure."""
    found = re.findall(r"<text[^>]*?(?:translate\(|x=\")([\d.]+)[ \"]+(?:y=\")?([\d.]+)[^>]*>([^<]*)</text>", svg)
    return [(float(y), float(x), words) for x, y, words in found]


def test_figures_name_calls_scores_and_floor_without_overlap() -> None:
    curves = [
        Curve(name, i, Style(i), (1, 4, 32), (1.0, 0.01, 0.0012), (0.0, 0.0, 0.0))
        for i, name in enumerate(("a", r"$\oops$"))
    ]
    svg = str(figures.curve_panel("t", curves, 0.001, figures.score_limits(curves, 0.001), labelled=True))
    found = labels(svg)
    words = [text for _, _, text in found]
    assert {"1", "4", "32", "0.001", "0.01", "network calls per sample", "a", r"$\oops$", "floor"} <= set(words)
    heights = sorted(y for y, _, text in found if text in ("a", r"$\oops$", "floor"))
    assert min(np.diff(heights)) >= 9
    assert 'class="series-0"' in svg
    assert "#01" not in svg  # no placeholder colour is left


def test_scores_at_or_below_zero_do_not_break_a_figure() -> None:
    curves = [
        Curve("a", 0, Style(0), (1, 2), (0.0, -0.1), (0.1, math.nan)),
        Curve("b", 1, Style(1), (1,), (math.nan,), (0,)),
    ]
    low, high = figures.score_limits(curves, 0.0)
    assert 0 < low < high
    assert "<svg" in figures.curve_panel("t", curves, 0.0, (low, high))


def test_reporting_needs_no_torch() -> None:
    code = (
        "import sys, flowmap.report.page; from flowmap.plugin.catalogue import catalogue; catalogue(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
