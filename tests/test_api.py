"""flowmap from Python: the same results as the commands, and errors in its own words."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import flowmap
from flowmap.api import consoles
from flowmap.errors import FlowmapError
from flowmap.maths.draw import Draw
from tests.small_runs import EVALUATION, FORWARD, HEAD, TEACHER
from tests.small_runs import flowmap as command
from tests.test_comparing import SPEC

# Trained so far that its velocity is no rounding error.
LEARNED = TEACHER.replace("steps = 6", "steps = 60").replace("warmup = 2", "lr = 2e-2, warmup = 2")
RECIPE = HEAD + LEARNED + FORWARD + EVALUATION
X = torch.linspace(-1, 1, 10).reshape(5, 1, 2)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command has run the recipe."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "recipe.toml").write_text(RECIPE)
    code, text = command(folder, "run", "recipe.toml")
    assert code == 0, text
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> flowmap.Run:
    """The same from Python."""
    folder = tmp_path_factory.mktemp("called")
    (folder / "recipe.toml").write_text(RECIPE)
    return flowmap.run(folder / "recipe.toml", runs=folder / "runs")


def test_a_run_is_that_of_the_command(run: flowmap.Run, typed: Path) -> None:
    written = [json.loads(line) for line in (typed / "runs/small/metrics.jsonl").read_text().splitlines()]
    assert written
    assert run.metrics() == written
    assert (run.folder / "report.html").is_file()
    assert flowmap.load_run(typed / "runs/small").metrics() == written


def test_fields_can_be_changed_and_stages_chosen(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    made = flowmap.run(
        tmp_path / "recipe.toml", overrides=["stages.teacher.steps=2"], stages=["teacher"], runs=tmp_path / "runs"
    )
    assert made.recipe.stage("teacher").steps == 2
    assert made.metrics() == []
    assert len((made.folder / "teacher/steps.jsonl").read_text().splitlines()) == 2


def test_samples_are_those_of_the_command(run: flowmap.Run, typed: Path) -> None:
    code, text = command(typed, "sample", "runs/small", "--n", "3", "--nfe", "2", "--seed", "5", "--out", "three")
    assert code == 0, text
    samples = run.sample(3, nfe=2, seed=5)
    assert torch.equal(samples, load_file(typed / "three.safetensors")["samples"])
    teacher = run.sample(3, nfe=2, seed=5, stage="teacher", sampler="heun")
    assert not torch.allclose(teacher, samples)
    # The student that was kept is not taken for another.
    assert torch.equal(run.sample(3, nfe=2, seed=5), samples)


def test_the_map_moves_along_the_velocity(run: flowmap.Run) -> None:
    t, h = torch.linspace(0.2, 0.9, 5), 3e-2
    assert torch.equal(run.map(X, t, t), X)
    velocity = run.velocity(X, t)
    assert velocity.abs().max() > 0.01
    slope = (X - run.map(X, t, t - h)) / h
    assert (slope - velocity).norm() < 0.05 * velocity.norm()
    raw = run.velocity(X, t, weights="raw", stage="forward")
    assert torch.equal(run.velocity(X, 0.2)[0], velocity[0])
    assert not torch.equal(raw, velocity)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.map(X, 1, 0, stage="teacher"), "stage 'teacher' trains a velocity, which goes nowhere"),
        (lambda run: run.map(X, 1, -0.1), "times are between 0"),
        (lambda run: run.velocity(X, torch.zeros(3)), "one for each of the 5 samples, not \\[3\\]"),
        (
            lambda run: run.velocity(X[:, 0], 1),
            "points are a tensor \\[B, 1, 2\\] of real numbers, not shape \\[5, 2\\]",
        ),
        (lambda run: run.velocity(X, 1, [0] * 5), "these data have no condition"),
        (lambda run: run.velocity(X, 1, stage="techer"), "^stage='techer': unknown .* Did you mean 'teacher'"),
        (lambda run: run.sample(stage="techer"), "^stage='techer': unknown .* Did you mean 'teacher'"),
        (lambda run: run.sample(train_seed=7), "^train_seed=7: this run has 0"),
        (lambda run: run.velocity(X.numpy(), 1), "of real numbers, not ndarray"),
        (lambda run: run.velocity(X, "soon"), "a time is a number or a tensor of numbers, not 'soon'"),
        (lambda run: run.velocity(X, 1, weights="rw"), "^weights='rw': allowed: ema, raw"),
        (lambda run: run.sample(weights="rw"), "^weights='rw': allowed: ema, raw"),
        (lambda run: run.map(X, 0.2, 0.8), "towards the data, to r <= t"),
        (lambda run: run.map(X, torch.linspace(0, 1, 5), 0.1), "towards the data, to r <= t"),
        (lambda run: flowmap.compare("x.toml", processes=0), "processes=0: at least one is needed"),
        (lambda run: run.sample(sampler="eular"), "^sampler='eular': .*euler"),
        (lambda run: run.sample(0), "^n=: must be"),
        (lambda run: run.sample(nfe=0), "^nfe=: must be"),
        (lambda run: run.sample(guidance=2.0), "^guidance=2.0: .* take sampler='euler'"),
        (lambda run: run.sample(frames=1), "^frames=: says how much of video= is given"),
    ],
)
def test_what_cannot_be_is_said(run: flowmap.Run, call: object, words: str) -> None:
    with pytest.raises(FlowmapError, match=words):
        call(run)  # type: ignore[operator]


def test_a_condition_is_asked_for_and_counted(tmp_path: Path) -> None:
    text = HEAD.replace('"checkerboard"', '{ type = "digits", conditional = true }') + TEACHER
    (tmp_path / "recipe.toml").write_text(text)
    made = flowmap.run(tmp_path / "recipe.toml", runs=tmp_path / "runs")
    x = torch.zeros(2, *made.recipe.data.spec().shape)
    with pytest.raises(FlowmapError, match="give prompts, one for each of the 2 samples"):
        made.velocity(x, 1)
    with pytest.raises(FlowmapError, match="there are 1 prompts and 2 samples"):
        made.velocity(x, 1, torch.tensor([3]))
    # 10 is the null label of this backbone, and no class.
    for wrong in ([3, 10], [-1, 3], [0.5, 1.0], ["three", "four"], 3, [True, False], [[3], [4]]):
        with pytest.raises(FlowmapError, match="class labels, 0 to 9, one for each sample"):
            made.velocity(x, 1, wrong)
    one, other = made.velocity(x, 1, torch.tensor([3, 4])), made.velocity(x.double(), 1, [3, 5])
    assert one.dtype == other.dtype
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])
    three, four = made.sample(2, classes=3, nfe=1), made.sample(1, classes=[3, 4], nfe=1)
    assert torch.equal(three[0], four[0])  # the same noise, the same class
    assert not torch.equal(three[1], four[1])
    for classes, words in ((10, "^classes=10: classes are 0 to 9"), ((-1,), "^classes=-1: classes are 0 to 9")):
        with pytest.raises(FlowmapError, match=words):
            made.sample(classes=classes)
    with pytest.raises(FlowmapError, match=r"^prompts= and classes=: give one of them"):
        made.sample(classes=3, prompts="three")


def test_embeddings_of_the_data_s_own_are_prompts(tmp_path: Path) -> None:
    """A causal video model with random weights reads no text: its data bring embeddings."""
    (tmp_path / "recipe.toml").write_text(VIDEOS)
    made = flowmap.run(tmp_path / "recipe.toml", runs=tmp_path / "runs")
    draw = Draw.whole(0, "test", 0, "prompts", 2)
    x = torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = made.recipe.data.build().prompts(draw)
    assert made.velocity(x, 0.5, prompts).isfinite().all()
    with pytest.raises(FlowmapError, match="there are 2 prompts and 1 samples"):
        made.velocity(x[:1], 0.5, prompts)
    with pytest.raises(FlowmapError, match="has no text encoder; its data must bring embeddings"):
        made.velocity(x, 0.5, ["a three", "a four"])


VIDEOS = """
name = "videos"
data = { type = "moving_digits", frames = 3, size = 8 }

[backbone]
type = "far_wan21"
weights = "random"
chunks = [1, 2]
full_chunks = 2
compressed_patch_size = [1, 8, 8]
architecture = { layers = 1, heads = 2, head_dim = 12, ffn_dim = 16, channels = 1, text_dim = 16, patch = [1, 4, 4] }

[[stages]]
name = "teacher"
steps = 1
batch = 2
objective = "flow_matching"
"""


def test_another_thread_and_another_run_in_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(HEAD + TEACHER)
    first = flowmap.run(tmp_path / "recipe.toml", runs=tmp_path / "runs")
    with ThreadPoolExecutor(1) as thread:  # which hears no signals
        assert torch.equal(thread.submit(lambda: first.sample(2)).result(), first.sample(2))
    second = flowmap.run(
        tmp_path / "recipe.toml", overrides=["stages.teacher.steps=2"], fresh=True, runs=tmp_path / "runs"
    )
    assert second.sample(2).shape == (2, 1, 2)
    for call in (first.metrics, lambda: first.sample(2), lambda: first.velocity(X, 1)):
        with pytest.raises(FlowmapError, match="not the run any more that was opened; load it again"):
            call()


def test_no_run_and_no_recipe_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match="is not the folder of a run"):
        flowmap.load_run(tmp_path)
    with pytest.raises(FlowmapError, match="there is no such recipe"):
        flowmap.run(tmp_path / "none.toml", runs=tmp_path)
    with pytest.raises(FlowmapError, match="give a specification"):
        flowmap.compare(runs=tmp_path)


def test_what_is_wrong_with_a_job_is_said_in_the_words_of_its_arguments(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)

    def told(**arguments: Any) -> str:
        with pytest.raises(FlowmapError) as error:
            flowmap.run(path, runs=tmp_path / "runs", **arguments)
        assert "--" not in str(error.value)
        return str(error.value)

    assert told(stages=["techer"]).startswith("stages=['techer']: unknown stage")
    assert told(overrides=["seeds"]).startswith("overrides=['seeds']: must look like")
    assert told(overrides=["stages.teacher.steps=none"]).startswith("overrides=['stages.teacher.steps=none']: stages")
    flowmap.run(path, stages=["teacher"], runs=tmp_path / "runs")
    changed = told(stages=["teacher"], overrides=["stages.teacher.batch=4"])
    assert "start over with fresh=True" in changed
    assert "only what changed: fresh=True, stages=['teacher']" in changed
    (tmp_path / "runs/small/comparison.json").write_text("{}")
    assert "give the recipe another name, or another folder by runs= (fresh=True sets" in told()


def test_a_single_word_is_a_list_of_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    made = flowmap.run(
        tmp_path / "recipe.toml", overrides="stages.teacher.steps=2", stages="teacher", runs=tmp_path / "runs"
    )
    assert made.recipe.stage("teacher").steps == 2
    assert not (made.folder / "forward").exists()
    (tmp_path / "spec.toml").write_text(SPEC)
    with pytest.raises(FlowmapError, match=r"^overrides=\['seeds'\]: must look like"):
        flowmap.compare(tmp_path / "spec.toml", overrides="seeds", runs=tmp_path / "runs")


def test_torch_waits_until_it_is_needed() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import flowmap, sys; print(flowmap.__version__, 'torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [flowmap.__version__, "False"]
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        flowmap.trian  # noqa: B018


@pytest.mark.parametrize(
    ("jupyter", "widgets", "live"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_notebook_that_can_has_a_bar(
    jupyter: bool, widgets: bool, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pretended(Console):
        is_jupyter = property(lambda self: jupyter, lambda self, found: None)  # type: ignore[assignment]

    monkeypatch.setattr(consoles, "Console", Pretended)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "found" if widgets else None)
    assert consoles.notebook_console().is_interactive == live


@pytest.mark.slow
def test_a_script_that_would_be_run_again_is_told_to_guard_its_call(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    (tmp_path / "plain.py").write_text('import flowmap\nflowmap.compare("spec.toml", processes=2)\n')
    code = subprocess.run([sys.executable, "plain.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    told = [line for line in code.stderr.splitlines() if "flowmap.errors.FlowmapError" in line]
    assert len(told) == 1
    assert 'plain.py below `if __name__ == "__main__":`' in told[0]
    assert not (tmp_path / "runs").exists()  # nothing was begun


def test_a_script_with_a_guard_is_not(tmp_path: Path) -> None:
    (tmp_path / "guarded.py").write_text(
        "from flowmap.comparison.processes import refuse_unguarded\n"
        'if __name__ == "__main__":\n    refuse_unguarded()\n'
    )
    subprocess.run([sys.executable, "guarded.py"], cwd=tmp_path, check=True)
