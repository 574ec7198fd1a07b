"""`steps.jsonl` and `metrics.jsonl`: what is cut, flipped, missing, doubled or of another shape is told."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from flowmap.cli.main import app
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError
from flowmap.files.json_lines import rewrite_lines
from flowmap.files.manifest import checkpoints, read_manifest
from flowmap.reading.read import read_run
from flowmap.statistics.scores import read_scores
from flowmap.training.journal import STEPS, begin, lost_steps, read_steps
from tests.small_runs import FORWARD, HEAD, TEACHER, checkpoints_every, planned, train_all
from tests.test_report import make_run, score, scores


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    plan = planned(HEAD + TEACHER + FORWARD + checkpoints_every(2, keep=9), folder)
    train_all(plan)
    everything = plan.recipe.as_tables()
    (plan.folder / "recipe.lock.toml").write_text(tomli_w.dumps(everything))
    return folder


@pytest.fixture
def stage(trained: Path, tmp_path: Path) -> Path:
    """A finished stage of six steps, with checkpoints after every second."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "small" / "teacher"


def _lines(stage: Path) -> list[bytes]:
    return (stage / STEPS).read_bytes().splitlines(keepends=True)


def test_every_manifest_seals_the_lines_up_to_its_step(stage: Path) -> None:
    assert [line.step for line in read_steps(stage)] == [1, 2, 3, 4, 5, 6]
    for checkpoint in checkpoints(stage):
        seal = read_manifest(checkpoint).steps
        assert seal is not None
        assert seal.lines == checkpoint.step


def test_two_runs_of_one_recipe_have_the_same_seals(stage: Path, tmp_path: Path) -> None:
    """Times are no part of them: manifests are compared, and name weights."""
    (tmp_path / "again").mkdir()
    plan = planned(HEAD + TEACHER + checkpoints_every(2, keep=9), tmp_path / "again")
    train_all(plan)
    other = plan.stages[0].folder
    assert [read_manifest(c).steps for c in checkpoints(other)] == [read_manifest(c).steps for c in checkpoints(stage)]
    assert _lines(other) != _lines(stage)


HARMS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "the last line is gone": lambda lines: lines[:-1],
    "most lines are gone": lambda lines: lines[:1],
    "the first line is gone": lambda lines: lines[1:],
    "a line is gone": lambda lines: lines[:2] + lines[3:],
    "a line stands twice": lambda lines: [*lines[:3], lines[2], *lines[3:]],
    "two lines have changed places": lambda lines: [lines[1], lines[0], *lines[2:]],
    "a line of another step": lambda lines: [*lines[:-1], lines[-1].replace(b'"step": 6', b'"step": 7')],
    "a line is empty": lambda lines: [*lines[:2], b"\n", *lines[2:]],
    "a list": lambda lines: [*lines[:2], b"[1]\n", *lines[3:]],
    "a field is missing": lambda lines: [lines[0].replace(b'"backwards"', b'"backward"'), *lines[1:]],
    "a number is text": lambda lines: [lines[0].replace(b'"step": 1', b'"step": "1"'), *lines[1:]],
    "a loss is text": lambda lines: [lines[0].replace(b'"student": 0.', b'"student": "x", "y": 0.'), *lines[1:]],
    "a call is no number": lambda lines: [*lines[:1], lines[1].replace(b'"grad": 1', b'"grad": true'), *lines[2:]],
    "a call of a million digits": lambda lines: [
        *lines[:1],
        lines[1].replace(b'"grad": 1', b'"grad": ' + b"9" * 10**6),
        *lines[2:],
    ],
    "a time that is none": lambda lines: [*lines[:-1], lines[-1].replace(b'"seconds": ', b'"seconds": 1e999')],
    "a thousand lists": lambda lines: [b'{"x": ' + b"[" * 10**6 + b"]" * 10**6 + b"}\n", *lines[1:]],
    "another line's field of no UTF-8": lambda lines: [
        lines[0].replace(b'"seconds"', b'"\xff": 1, "seconds"'),
        *lines[1:],
    ],
    "two lines in one": lambda lines: [lines[0].replace(b"\n", lines[0]), *lines[1:]],
    "a negative count": lambda lines: [lines[0].replace(b'"backwards": ', b'"backwards": -'), *lines[1:]],
    "no UTF-8": lambda lines: [*lines[:2], b'{"step": \xff}\n', *lines[3:]],
    "another loss": lambda lines: [
        *lines[:2],
        lines[2].replace(b'"flow_matching": ', b'"flow_matching": 1'),
        *lines[3:],
    ],
    "another count": lambda lines: [*lines[:2], lines[2].replace(b'"grad": 1', b'"grad": 2'), *lines[3:]],
}


@pytest.mark.parametrize("harm", HARMS)
def test_harm_to_the_lines_is_named_and_nothing_goes_on_with_less(stage: Path, harm: str) -> None:
    before = _lines(stage)
    after = HARMS[harm](before)
    assert after != before
    (stage / STEPS).write_bytes(b"".join(after))
    for reading in (read_steps, lambda folder: begin(folder, 4)):
        with pytest.raises(StoppedError) as caught:
            reading(stage)
        assert re.match(re.escape(str(stage / STEPS)) + "[:,] ", str(caught.value))
        assert caught.value.first == f"mv {stage / STEPS} {stage / 'damaged-1-steps.jsonl'}"
    with pytest.raises(FlowmapError, match=r"steps\.jsonl[:,] .*\nFirst: mv "):
        read_run(stage.parent)
    assert _lines(stage) == after
    # What is told to do helps, and what is lost is then said.
    (stage / STEPS).rename(stage / "damaged-1-steps.jsonl")
    assert (read_steps(stage), lost_steps(stage, [])) == ([], 6)
    assert read_run(stage.parent).doubts == (
        f"{stage / STEPS} says nothing of the first 6 steps, so they are counted nowhere.",
    )


@pytest.mark.parametrize("rest", [b'{"step": 7, "los', b'{"step": 7' + bytes(30), b"\0"])
def test_a_line_that_is_cut_off_is_said(stage: Path, rest: bytes) -> None:
    whole = (stage / STEPS).read_bytes()
    (stage / STEPS).write_bytes(whole + rest)
    assert len(read_steps(stage)) == 6
    told = f"{stage / STEPS} ends within a line; its last {len(rest)} bytes are left out."
    assert read_run(stage.parent).doubts == (told,)
    scores = stage.parent / "metrics.jsonl"
    scores.write_bytes(rest)
    doubts = (told, told.replace(str(stage / STEPS), str(scores)))
    assert read_run(stage.parent).doubts == doubts
    found = CliRunner().invoke(app, ["report", str(stage.parent)])
    assert [line for line in found.output.splitlines() if "warning" in line] == [f"warning: {one}" for one in doubts]


def test_what_json_has_no_number_for_is_read_as_a_float(stage: Path) -> None:
    before = read_steps(stage)
    shutil.rmtree(stage / "checkpoints")
    changed = re.sub(rb'"student": [0-9.e-]+}', b'"student": "-Infinity"}', _lines(stage)[0])
    (stage / STEPS).write_bytes(changed + b"".join(_lines(stage)[1:]))
    after = read_steps(stage)
    assert after[0].norms == {"student": -math.inf}
    assert isinstance(after[0].norms["student"], float)
    assert after[0].losses == before[0].losses
    assert after[1:] == before[1:]


def test_a_flipped_bit_is_found_wherever_a_run_of_the_recipe_is_alike(stage: Path) -> None:
    content = (stage / STEPS).read_bytes()
    draw = random.Random(0)
    missed = set()
    for _ in range(400):
        place = draw.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        (stage / STEPS).write_bytes(bytes(changed))
        try:
            read_steps(stage)
        except StoppedError:
            continue
        line_start = content.rfind(b"\n", 0, place) + 1
        missed.add(content.find(b', "seconds": ', line_start) <= place)
    # Only times and memory are another in every run, and nothing seals them.
    assert missed <= {True}


def test_a_kill_leaves_lines_that_go_on(stage: Path) -> None:
    lines = _lines(stage)
    for newest in checkpoints(stage)[1:]:
        shutil.rmtree(newest.path)
    # Steps after the checkpoint, the last of them cut off.
    (stage / STEPS).write_bytes(b"".join(lines[:5])[:-10])
    assert len(read_steps(stage)) == 4
    seal, lost = begin(stage, 2)
    assert (_lines(stage), lost) == (lines[:2], 0)
    assert seal.facts() == read_manifest(checkpoints(stage)[0]).steps
    for line in lines[2:4]:
        seal.add(line)
    assert seal.facts().lines == 4


def test_lines_that_were_lost_stay_lost_and_what_follows_is_held_against_the_next_checkpoint(stage: Path) -> None:
    plan = planned(HEAD + TEACHER.replace("steps = 6", "steps = 12") + checkpoints_every(2, keep=9), stage.parents[2])
    shutil.copytree(stage, stage.with_name("kept"))
    (stage / STEPS).unlink()
    (stage / "recipe.lock.toml").unlink()
    seal, lost = begin(stage, 6)
    assert (seal.facts().lines, lost, read_steps(stage), lost_steps(stage, [])) == (0, 6, [], 6)
    line = {**json.loads(_lines(stage.with_name("kept"))[5]), "step": 7}
    rewrite_lines(stage / STEPS, [line])
    assert [line.step for line in read_steps(stage)] == [7]
    assert lost_steps(stage, read_steps(stage)) == 6
    assert plan.stages[0].folder == stage


def test_a_checkpoint_of_an_older_version_seals_a_number_of_lines_at_least(stage: Path) -> None:
    for one in checkpoints(stage):
        manifest = json.loads((one.path / "manifest.json").read_text())
        del manifest["steps"]
        (one.path / "manifest.json").write_text(json.dumps(manifest))
    assert len(read_steps(stage)) == 6
    (stage / STEPS).write_bytes(b"".join(_lines(stage)[:4]))
    with pytest.raises(StoppedError, match="4 of the 6 lines are left"):
        read_steps(stage)


def test_a_manifest_that_cannot_be_read_is_the_checkpoint_s_trouble(stage: Path) -> None:
    newest = checkpoints(stage)[-1]
    (newest.path / "manifest.json").write_text("")
    assert len(read_steps(stage)) == 6


# --- scores


def test_a_value_is_the_mean_of_its_values_or_the_line_is_damaged(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo")
    good = scores()
    assert len(read_scores(folder / "metrics.jsonl")) == len(good)
    for name in ("value", "spread", "repeats"):
        odd = {**good[1], name: good[1][name] * 2}
        rewrite_lines(folder / "metrics.jsonl", [good[0], odd, *good[2:]])
        with pytest.raises(FlowmapError, match=rf"metrics\.jsonl, line 2: damaged, {name} is .* and by its values"):
            read_run(folder)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_read_as_what_it_is(tmp_path: Path, bad: float) -> None:
    folder = make_run(tmp_path / "demo")
    line = score("teacher", "euler", 1, bad, spread=math.nan, values=[bad, 1.0, bad])
    rewrite_lines(folder / "metrics.jsonl", [line])
    assert "NaN" in (folder / "metrics.jsonl").read_text()
    (found,) = read_scores(folder / "metrics.jsonl")
    assert str(found["value"]) == str(bad)
    rewrite_lines(folder / "metrics.jsonl", [{**line, "value": 0.5}])
    with pytest.raises(FlowmapError, match=r"line 1: damaged, value is 0\.5 and by its values"):
        read_scores(folder / "metrics.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "5",
        '{"stage": "teacher"}',
        json.dumps({**scores()[0], "nfe": "4"}),
        json.dumps({**scores()[0], "nfe": 0}),
        json.dumps({**scores()[0], "values": []}),
        json.dumps({**scores()[0], "values": 1.0}),
        json.dumps({**scores()[0], "values": [None]}),
        json.dumps({**scores()[0], "stage": 3}),
        json.dumps({**scores()[0], "seed": 10**30}),
        json.dumps({**scores()[0], "floor": "low"}),
        '{"nfe": ' + "[" * 10_000,
    ],
)
def test_a_score_of_another_shape_is_named(tmp_path: Path, line: str) -> None:
    folder = make_run(tmp_path / "demo")
    (folder / "metrics.jsonl").write_text(json.dumps(scores()[0]) + "\n" + line + "\n")
    with pytest.raises(FlowmapError, match=r"metrics\.jsonl, line 2: damaged, .*; delete the line"):
        read_run(folder)


# --- the other files of a run


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("recipe.lock.toml", "name = 3", "'name': input should be a valid string"),
        ("recipe.lock.toml", 'name = "x"', "'seeds': field required"),
        ("recipe.lock.toml", 'name = "x"\nseeds = []\nstages = []', "'seeds'"),
        ("recipe.lock.toml", 'name = "x"\nseeds = [0]\nstages = 3', "'stages'"),
        ("recipe.lock.toml", 'name = "x"\nseeds = [0]\nstages = [1]', "'stages.0'"),
        ("recipe.lock.toml", 'name = "x"\nseeds = [0]\n[[stages]]\nname = "a"', "'stages.0.steps'"),
        ("recipe.lock.toml", 'name = "x"\nseeds = [0]\nstages = []\nevaluation = 1', "'evaluation'"),
        (
            "recipe.lock.toml",
            'name = "x"\nseeds = [0]\nstages = []\nevaluation.contests = [1]',
            "'evaluation.contests.0'",
        ),
        ("recipe.lock.toml", "x = " + "[" * 9999, "more than 64"),
        ("about.json", "[]", "input should be an object"),
        ("about.json", '{"torch": []}', "'torch"),
        ("about.json", "{", "about.json is damaged"),
        ("about.json", "[" * 9999, "about.json is damaged"),
    ],
)
def test_a_file_of_another_shape_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    folder = make_run(tmp_path / "demo")
    (folder / name).write_text(content)
    with pytest.raises(FlowmapError, match=f"{name} is damaged: ") as caught:
        read_run(folder)
    assert words in str(caught.value)
    (folder / name).write_bytes(b"\xff\xfe")
    with pytest.raises(FlowmapError, match=f"{name} is damaged: "):
        read_run(folder)
