"""Evaluation: what its lines say, that nothing is measured twice, and that no two scores share their noise."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import tomli_w
import torch

from flowmap.errors import FlowmapError
from flowmap.files.manifest import checkpoints
from flowmap.files.shelf import SHELF
from flowmap.interfaces import Evidence, Sampler, endless
from flowmap.maths.draw import Draw
from flowmap.plugin import NetworkKind, SamplerConfig
from flowmap.plugin.catalogue import catalogue
from flowmap.reading.read import read_run
from flowmap.recipe.layout import Plan
from flowmap.report.page import write_report
from flowmap.statistics.verdict import best, cells
from flowmap.training.checkpoint import read_weights, save
from flowmap.training.processes import Processes
from flowmap.training.stage import open_stage
from flowmap.use import evaluate, joint
from flowmap.use import student as contestant
from flowmap.workshop.backbone import ModuleBackbone
from tests.small_runs import EVALUATION, FORWARD, HEAD, TEACHER, planned, train_all

RECIPE = HEAD + TEACHER + FORWARD + EVALUATION
CPU = torch.device("cpu")
FIELDS = ["stage", "weights", "sampler", "nfe", "metric", "value", "spread", "floor", "seed"]


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_drawn() -> Iterator[None]:
    """Drawing takes longer than measuring, and has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endless, "scatter", lambda points: np.zeros((8, 8, 3), np.uint8))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, trained and measured."""
    folder = tmp_path_factory.mktemp("evaluated")
    plan = planned(RECIPE, folder, "seeds=[0, 1]")
    train_all(plan)
    evaluate.evaluate(plan, CPU, lambda text: None)
    return folder


@pytest.fixture
def plan(trained: Path, tmp_path: Path) -> Plan:
    """A copy of it."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return planned(RECIPE, tmp_path, "seeds=[0, 1]")


class Measured:
    """What an evaluation said it was doing, and every draw that made samples."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.draws: list[Draw] = []
        real = joint.generate

        def generate(
            who: Any, sampler: Any, calls: int, shift: float, draw: Draw, *more: Any, **named: Any
        ) -> torch.Tensor:
            self.draws.append(draw)
            return real(who, sampler, calls, shift, draw, *more, **named)

        patch.setattr(joint, "generate", generate)

    def run(self, plan: Plan) -> list[str]:
        """Evaluate; what was measured."""
        self.said.clear()
        self.draws.clear()
        evaluate.evaluate(plan, CPU, self.said.append)
        return self.said


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    return Measured(monkeypatch)


def lines(plan: Plan) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (plan.folder / "metrics.jsonl").read_text().splitlines()]


def change_weights(plan: Plan, stage: str, seed: int) -> None:
    """As if the stage had been trained anew with another outcome."""
    stage_plan = plan.find(stage, seed)
    newest = checkpoints(stage_plan.folder)[-1]
    opened = open_stage(stage_plan, Processes(plan.recipe.compute))
    weights = read_weights(newest, "student", "raw")
    with torch.no_grad():
        for name, parameter in opened.roles["student"].own.items():
            parameter.copy_(weights[name] + 0.01)
    shutil.rmtree(newest.path)
    save(stage_plan.folder, newest.step, opened.optimizers, opened.roles, keep=1)


def poison(plan: Plan, stage: str, seed: int, value: float) -> None:
    """As if training had ended in weights that are no numbers."""
    stage_plan = plan.find(stage, seed)
    newest = checkpoints(stage_plan.folder)[-1]
    opened = open_stage(stage_plan, Processes(plan.recipe.compute))
    for role in opened.roles.values():
        for tensor in (*role.own.values(), *(role.average or {}).values()):
            tensor.detach().fill_(value)
    shutil.rmtree(newest.path)
    save(stage_plan.folder, newest.step, opened.optimizers, opened.roles, keep=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_score_that_is_no_number_ends_nothing_and_is_told_as_what_it_is(
    plan: Plan, measured: Measured, value: float
) -> None:
    before = lines(plan)
    poison(plan, "forward", 1, value)
    assert measured.run(plan)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (plan.folder / "metrics.jsonl").read_text()
    after = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        if (new["stage"], new["seed"]) != ("forward", 1):
            assert new == old
            continue
        assert new["value"] in ("NaN", "Infinity")
        assert new["spread"] == "NaN"
        assert new["values"] == [new["value"]] * 3
    # It is read back as what it is: nothing is measured again.
    assert measured.run(plan) == []
    (plan.folder / "recipe.lock.toml").write_text(tomli_w.dumps(plan.recipe.as_tables()))
    page = write_report(plan.folder).read_text(encoding="utf-8")
    assert "not finite" in page
    assert not re.search(r">\s*(nan|inf)\b", page)
    table = cells(read_run(plan.folder).lines)
    for metric in ("frechet_pixels", "frechet_teacher"):
        # The worst there is: of two at one number of calls the other is the best.
        assert {place.series.stage for place in best(table, metric)} == {"teacher"}


def test_a_metric_is_not_asked_for_samples_that_are_no_numbers(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowmap_metrics.frechet import FrechetDistance

    real = FrechetDistance.score

    def score(self: FrechetDistance, evidence: Evidence) -> float:
        assert evidence.samples.isfinite().all()
        return real(self, evidence)

    monkeypatch.setattr(FrechetDistance, "score", score)
    poison(plan, "forward", 0, math.nan)
    evaluate.evaluate(plan, CPU, lambda text: None)


def test_a_metric_is_told_what_samples_were_asked_to_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowmap_metrics.frechet import FrechetDistance

    text = HEAD.replace('"checkerboard"', '{ type = "digits", conditional = true }') + TEACHER + ASKED
    plan = planned(text, tmp_path)
    train_all(plan)
    asked: list[torch.Tensor] = []
    told: list[tuple[torch.Tensor, torch.Tensor]] = []
    condition, score = ModuleBackbone.condition, FrechetDistance.score

    def asking(self: ModuleBackbone, prompts: torch.Tensor, count: int, device: torch.device) -> Any:
        asked.append(prompts)
        return condition(self, prompts, count, device)

    def scoring(self: FrechetDistance, evidence: Evidence) -> float:
        told.append((evidence.prompts, torch.cat(asked)[-len(evidence.samples) :]))
        return score(self, evidence)

    monkeypatch.setattr(ModuleBackbone, "condition", asking)
    monkeypatch.setattr(FrechetDistance, "score", scoring)
    monkeypatch.setattr("flowmap.networks.batches._MOST_TOGETHER", 8)
    evaluate.evaluate(plan, CPU, lambda text: None)
    assert len(told) == 4
    assert all(torch.equal(prompts, labels) for prompts, labels in told)
    assert len({tuple(prompts.tolist()) for prompts, _ in told}) == 4


ASKED = """
[evaluation]
teacher = "teacher"
teacher_calls = 2
calls = [1, 2]
samples = 20
repeats = 2
metrics = ["frechet_pixels"]
contests = [{ stage = "teacher", samplers = ["euler"] }]
"""


def test_nothing_is_measured_against_a_teacher_whose_samples_are_no_numbers(plan: Plan) -> None:
    poison(plan, "teacher", 1, math.nan)
    with pytest.raises(
        FlowmapError, match=r"the reference samples of the teacher 'teacher' \(seed 1; 4 calls of heun\)"
    ):
        evaluate.evaluate(plan, CPU, lambda text: None)


def test_the_lines_have_the_documented_fields_and_every_combination_once(plan: Plan) -> None:
    found = lines(plan)
    assert all(list(line)[:9] == FIELDS for line in found)
    assert all(line["samples"] == 24 and line["repeats"] == 3 for line in found)
    keys = [(line["seed"], line["stage"], line["sampler"], line["nfe"], line["metric"]) for line in found]
    assert len(set(keys)) == len(keys)
    distances = ("frechet_pixels", "frechet_teacher")
    rows = {
        # Heun takes two calls a step: one call is no sample.
        *(("teacher", sampler, n, m) for m in distances for sampler, n in (("euler", 1), ("euler", 2), ("heun", 2))),
        *(("forward", sampler, n, m) for m in distances for sampler in ("flow_map", "consistency") for n in (1, 2)),
        ("forward", "flow_map", 3, "semigroup"),
    }
    assert set(keys) == {(seed, *row) for seed in (0, 1) for row in rows}
    assert all(line["weights"] == "ema" for line in found)


def test_the_value_is_the_mean_and_the_spread_the_sample_standard_deviation(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flowmap_metrics.frechet import FrechetDistance

    scores: list[float] = []
    floors: list[float] = []
    real_score, real_floor = FrechetDistance.score, FrechetDistance.floor

    def score(self: FrechetDistance, evidence: Evidence) -> float:
        scores.append(real_score(self, evidence))
        return scores[-1]

    def floor(self: FrechetDistance, size: int) -> float:
        assert size == 24
        floors.append(real_floor(self, size))
        return floors[-1]

    monkeypatch.setattr(FrechetDistance, "score", score)
    monkeypatch.setattr(FrechetDistance, "floor", floor)
    (plan.folder / "metrics.jsonl").unlink()
    text = (plan.folder.parents[1] / "recipe.toml").read_text()
    text = text.replace(
        '"frechet_pixels", { type = "frechet_teacher", space = "pixels" }, "semigroup"', '"frechet_pixels"'
    )
    evaluate.evaluate(planned(text, plan.folder.parents[1], "seeds=[0, 1]"), CPU, lambda t: None)
    found = lines(plan)
    assert len(scores) == 3 * len(found)
    assert len(floors) == 2
    for index, line in enumerate(found):
        three = scores[3 * index : 3 * index + 3]
        assert len(set(three)) == 3
        assert line["value"] == pytest.approx(statistics.fmean(three), rel=1e-12)
        assert line["spread"] == pytest.approx((sum((x - statistics.fmean(three)) ** 2 for x in three) / 2) ** 0.5)
        assert line["floor"] == floors[line["seed"]]


def test_the_floor_is_the_score_of_perfect_samples_of_the_same_number(plan: Plan) -> None:
    from flowmap_metrics.frechet import fitted, frechet

    teacher = contestant.open_contestant(plan.find("teacher", 0), "ema", CPU)
    sampler = plan.recipe.evaluation.teacher_sampler  # type: ignore[union-attr]
    reference = joint.generate(teacher, sampler, 4, 1.0, teacher.draw("reference", 0, 48))
    again = joint.generate(teacher, sampler, 4, 1.0, teacher.draw("floor", 0, 24))
    assert not torch.equal(reference[:24], again)
    expected = frechet(*(fitted(x.flatten(1).double().numpy()) for x in (again, reference)))
    found = {line["floor"] for line in lines(plan) if line["metric"] == "frechet_teacher" and line["seed"] == 0}
    assert list(found) == [pytest.approx(expected, rel=1e-9)]
    assert {line["floor"] for line in lines(plan) if line["metric"] == "semigroup"} == {0.0}


# --- nothing twice, nothing stale


def test_what_is_there_is_not_measured_again(plan: Plan, measured: Measured) -> None:
    before = (plan.folder / "metrics.jsonl").read_bytes()
    assert measured.run(plan) == []
    assert (plan.folder / "metrics.jsonl").read_bytes() == before


def test_an_interrupted_evaluation_goes_on_where_it_stopped(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lines(plan)
    (plan.folder / "metrics.jsonl").unlink()
    real = evaluate.rewrite_lines
    said: list[str] = []
    attempts = 0

    def die(path: Path, rows: list[dict[str, object]]) -> None:
        real(path, rows)
        if len(rows) > done:
            raise KeyboardInterrupt

    while True:
        done = len(lines(plan)) if (plan.folder / "metrics.jsonl").exists() else 0
        with monkeypatch.context() as patch:
            patch.setattr(evaluate, "rewrite_lines", die)
            try:
                evaluate.evaluate(plan, CPU, said.append)
            except KeyboardInterrupt:
                attempts += 1
                assert len(lines(plan)) > done
                continue
        break
    rows = [text for text in said if "reference samples" not in text]
    assert attempts == len(rows) == len(set(rows)) == 2 * 5
    assert lines(plan) == before


def test_a_lost_line_costs_its_row_and_nothing_else(plan: Plan, measured: Measured) -> None:
    before = lines(plan)
    kept = [line for line in before if not (line["sampler"] == "euler" and line["nfe"] == 2 and line["seed"] == 1)]
    evaluate.rewrite_lines(plan.folder / "metrics.jsonl", kept)
    assert measured.run(plan) == ["seed 1: the teacher's reference samples", "seed 1: teacher (ema), by euler"]
    assert lines(plan) == before


def test_interrupting_one_seed_loses_no_line_of_another(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lines(plan)
    change_weights(plan, "forward", 0)

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "_score", die)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(plan, CPU, lambda text: None)
    assert [line for line in before if line["seed"] == 1 or line["stage"] == "teacher"] == lines(plan)


def test_a_retrained_stage_is_measured_again(plan: Plan, measured: Measured) -> None:
    before = lines(plan)
    change_weights(plan, "forward", 0)
    assert measured.run(plan) == [
        "seed 0: the teacher's reference samples",
        "seed 0: forward (ema), by flow_map",
        "seed 0: forward (ema), by consistency",
        "seed 0: forward (ema), the network itself",
    ]
    after = lines(plan)
    same = [old == new for old, new in zip(before, after, strict=True)]
    assert [line["stage"] == "forward" and line["seed"] == 0 for line in before] == [not s for s in same]
    for old, new in zip(before, after, strict=True):
        assert {k: old[k] for k in ("stage", "sampler", "nfe", "metric", "seed")} == {
            k: new[k] for k in ("stage", "sampler", "nfe", "metric", "seed")
        }


def test_another_teacher_makes_every_line_of_its_seed_stale(plan: Plan, measured: Measured) -> None:
    change_weights(plan, "teacher", 1)
    said = measured.run(plan)
    assert len(said) == 6
    assert all(text.startswith("seed 1") for text in said)


# --- what is kept


def of_teacher(measured: Measured) -> list[tuple[int, str, int]]:
    return [(draw.seed, draw.turn, draw.count) for draw in measured.draws if draw.turn in ("reference", "floor")]


def test_the_teacher_s_samples_are_kept_and_change_no_number(plan: Plan, measured: Measured) -> None:
    before = (plan.folder / "metrics.jsonl").read_bytes()
    (plan.folder / "metrics.jsonl").unlink()
    measured.run(plan)
    assert of_teacher(measured) == []
    assert (plan.folder / "metrics.jsonl").read_bytes() == before
    (plan.folder / "metrics.jsonl").unlink()
    shutil.rmtree(plan.folder / SHELF)
    measured.run(plan)
    assert of_teacher(measured) == [
        (seed, turn, n) for seed in (0, 1) for turn, n in (("reference", 48), ("floor", 24))
    ]
    assert (plan.folder / "metrics.jsonl").read_bytes() == before


def test_damaged_samples_of_the_teacher_are_made_again(plan: Plan, measured: Measured) -> None:
    before = (plan.folder / "metrics.jsonl").read_bytes()
    (plan.folder / "metrics.jsonl").unlink()
    for file in (plan.folder / SHELF).glob("teacher-*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 128
        file.write_bytes(content)
    measured.run(plan)
    assert len(of_teacher(measured)) == 2 * 2
    assert (plan.folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "setting",
    [
        "evaluation.teacher_sampler=euler",
        "evaluation.teacher_calls=6",
        "evaluation.samples=20",
        "evaluation.shift=2",
        "evaluation.teacher=forward",
        'evaluation.data={type = "gaussian"}',
    ],
)
def test_other_settings_are_never_served_the_samples_that_were_kept(
    plan: Plan, measured: Measured, setting: str
) -> None:
    measured.run(planned(RECIPE, plan.folder.parents[1], "seeds=[0, 1]", setting))
    assert len(of_teacher(measured)) == 2 * 2


def test_what_the_teacher_s_samples_do_not_depend_on_leaves_them(plan: Plan, measured: Measured) -> None:
    settings = ("evaluation.repeats=2", "evaluation.calls=[2]", "evaluation.noise=common")
    measured.run(planned(RECIPE, plan.folder.parents[1], "seeds=[0, 1]", *settings))
    assert measured.draws
    assert of_teacher(measured) == []


def test_another_teacher_is_never_served_the_samples_of_the_one_before(plan: Plan, measured: Measured) -> None:
    change_weights(plan, "teacher", 1)
    measured.run(plan)
    assert of_teacher(measured) == [(1, "reference", 48), (1, "floor", 24)]


def test_other_settings_are_other_lines(plan: Plan, measured: Measured) -> None:
    root = plan.folder.parents[1]
    assert len(measured.run(planned(RECIPE, root, "seeds=[0, 1]", "evaluation.repeats=2"))) == 12
    assert all(line["repeats"] == 2 for line in lines(plan))


def test_an_unfinished_stage_cannot_be_measured(plan: Plan) -> None:
    shutil.rmtree(plan.find("forward", 1).folder / "checkpoints")
    with pytest.raises(FlowmapError, match="stage 'forward' is not finished in"):
        evaluate.evaluate(plan, CPU, lambda text: None)


# --- noise


def test_no_two_scores_share_their_noise(plan: Plan, measured: Measured) -> None:
    (plan.folder / "metrics.jsonl").unlink()
    shutil.rmtree(plan.folder / SHELF)
    root = plan.folder.parents[1]
    text = RECIPE.replace(
        "contests = [", 'contests = [\n    { stage = "forward", samplers = ["flow_map"], weights = "raw" },'
    )
    measured.run(planned(text, root, "seeds=[0, 1]"))
    # Per seed: two references, and 3 repeats of 3 teacher, 4 forward and 2 raw forward rows.
    assert len(measured.draws) == 2 * (2 + 3 * (3 + 4 + 2))
    noise = [tuple(draw.normal("start noise", (1, 2))[0].flatten().tolist()) for draw in measured.draws]
    assert len(set(noise)) == len(noise)
    for name in ("start noise", "data/rows", "semigroup times"):
        assert len({tuple(draw.uniform(name)[:3].tolist()) for draw in measured.draws}) == len(measured.draws)
    sizes = sorted({draw.count for draw in measured.draws})
    assert sizes == [24, 48]


def test_with_common_noise_all_rows_begin_alike_and_repeats_do_not(plan: Plan, measured: Measured) -> None:
    root = plan.folder.parents[1]
    measured.run(planned(RECIPE, root, "seeds=[0, 1]", "evaluation.noise=common"))
    rows = [draw for draw in measured.draws if draw.turn == "common"]
    # Per seed 3 repeats of 3 teacher and 4 forward rows; the teacher's references had noise of their own, and are kept.
    assert len(measured.draws) == len(rows) == 2 * 3 * (3 + 4)
    noise = {(d.seed, d.step): tuple(d.normal("start noise", (1, 2)).flatten().tolist()) for d in rows}
    for draw in rows:
        assert tuple(draw.normal("start noise", (1, 2)).flatten().tolist()) == noise[draw.seed, draw.step]
    assert len(set(noise.values())) == len(noise) == 2 * 3


def test_every_single_score_is_kept(plan: Plan) -> None:
    for line in lines(plan):
        assert len(line["values"]) == line["repeats"]
        assert statistics.fmean(line["values"]) == pytest.approx(line["value"])
        assert statistics.stdev(line["values"]) == pytest.approx(line["spread"])


def test_the_evaluation_s_own_data_are_what_samples_are_held_against(tmp_path: Path) -> None:
    """A teacher of one Gaussian, held against its own data and against ones that lie elsewhere."""
    gaussian = "data = { type = 'gaussian', mixture = { means = [%s], stds = [0.5], weights = [1.0] } }"
    head = HEAD.replace('data = "checkerboard"', gaussian % "0.5").replace(
        'backbone = { type = "mlp", width = 8, depth = 1 }', 'backbone = "gaussian"'
    )
    scores = []
    for number, mean in enumerate(("0.5", "3.5")):
        text = head + TEACHER + EVALUATION.replace("teacher_calls = 4", "teacher_calls = 4\n" + gaussian % mean)
        text = text.replace('    { stage = "forward", samplers = ["flow_map", "consistency"] },\n', "")
        (tmp_path / str(number)).mkdir()
        plan = planned(text.replace("samples = 24", "samples = 400"), tmp_path / str(number), "evaluation.calls=[8]")
        train_all(plan)
        evaluate.evaluate(plan, CPU, lambda text: None)
        found = {(line["metric"], line["sampler"]): line["value"] for line in lines(plan)}
        scores.append([found["frechet_pixels", "heun"], found["frechet_teacher", "heun"]])
    (own, own_teacher), (other, other_teacher) = scores
    # Two coordinates, three apart: a squared distance of 18.
    assert other - own == pytest.approx(18, rel=0.1)
    assert own_teacher == pytest.approx(other_teacher, abs=1e-6)


def test_the_addresses_of_noise_differ_in_every_part(plan: Plan) -> None:
    def who(stage: str, seed: int, weights: Any) -> contestant.ReadyModel:
        return contestant.open_contestant(plan.find(stage, seed), weights, CPU)

    draws = [
        who("forward", 0, "ema").draw("flow_map/2", 0, 8),
        who("forward", 0, "ema").draw("flow_map/2", 1, 8),
        who("forward", 0, "ema").draw("flow_map/1", 0, 8),
        who("forward", 0, "raw").draw("flow_map/2", 0, 8),
        who("forward", 1, "ema").draw("flow_map/2", 0, 8),
        who("teacher", 0, "ema").draw("flow_map/2", 0, 8),
        who("teacher", 0, "ema").draw("reference", 0, 8),
        who("teacher", 0, "ema").draw("floor", 0, 8),
    ]
    values = torch.stack([draw.normal("start noise", (4,)) for draw in draws])
    for i in range(len(draws)):
        for j in range(i):
            assert not torch.isin(values[i], values[j]).any()


def test_samples_do_not_depend_on_the_size_of_the_pieces(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    who = contestant.open_contestant(plan.find("forward", 0), "ema", CPU)
    for config in plan.recipe.evaluation.contests[1].samplers:  # type: ignore[union-attr]
        whole = contestant.generate(who, config, 3, 1.0, who.draw("x", 0, 24))
        with monkeypatch.context() as patch:
            patch.setattr("flowmap.networks.batches._MOST_TOGETHER", 7)
            pieces = contestant.generate(who, config, 3, 1.0, who.draw("x", 0, 24))
        assert whole.shape == (24, 1, 2)
        assert torch.allclose(pieces, whole, rtol=1e-5, atol=1e-6)


def test_how_many_steps_take_so_many_calls(plan: Plan) -> None:
    euler, heun = plan.recipe.evaluation.contests[0].samplers  # type: ignore[union-attr]
    assert [euler.steps(n) for n in (1, 2, 3)] == [1, 2, 3]
    assert [heun.steps(n) for n in (1, 2, 3, 4)] == [None, 1, None, 2]


def test_an_endless_source_gives_a_bounded_reference(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    teacher = contestant.open_contestant(plan.find("teacher", 0), "ema", CPU)
    real = type(teacher.data).reference

    def reference(self: Any, split: Any, count: int) -> Any:
        asked.append(count)
        return real(self, split, count)

    monkeypatch.setattr(type(teacher.data), "reference", reference)
    (plan.folder / "metrics.jsonl").unlink()
    evaluate.evaluate(plan, CPU, lambda text: None)
    assert max(asked) <= 100_000


class TunableConfig(SamplerConfig):
    """A sampler with a setting of its own."""

    type: Literal["tunable"] = "tunable"
    strength: float = 0.1
    network: ClassVar[NetworkKind] = "flow_map"
    calls_per_step: ClassVar[int] = 1

    def build(self) -> Sampler:
        return catalogue().find("sampler", "flow_map")().build()


def test_a_sampler_with_another_setting_is_measured_again(plan: Plan, measured: Measured, install: Any) -> None:
    """Its lines have the same stage, sampler and calls; only its own field tells them apart."""
    install(TunableConfig)
    root = plan.folder.parents[1]

    def contest(strength: float) -> Plan:
        row = f'{{ stage = "forward", samplers = [{{ type = "tunable", strength = {strength} }}] }},'
        return planned(RECIPE.replace("contests = [", f"contests = [\n    {row}"), root, "seeds=[0, 1]")

    assert any("tunable" in text for text in measured.run(contest(0.1)))
    assert measured.run(contest(0.1)) == []
    again = measured.run(contest(0.2))
    assert any("tunable" in text for text in again)
    assert not any("flow_map" in text for text in again)
