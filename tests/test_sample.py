"""`flowmap sample`: a picture and the tensors, the same for the same seed."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from flowmap.errors import FlowmapError
from flowmap.reading.open import choose_stage
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.use import joint
from flowmap.use import sample as sampling
from flowmap.use.sample import sample_run
from flowmap.use.wish import Wish
from tests.small_runs import DISCRETE, EVALUATION, FORWARD, HEAD, TEACHER, flowmap


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "recipe.toml").write_text(HEAD + TEACHER + FORWARD + EVALUATION)
    code, text = flowmap(folder, "run", "recipe.toml", "--set", "evaluation.calls=[2]")
    assert code == 0, text
    return folder / "runs" / "small"


def sampled(run: Path, out: Path, seed: int = 0, **changes: object) -> torch.Tensor:
    wish = replace(Wish(calls=2, number=5, seed=seed), **changes)  # type: ignore[arg-type]
    files, _ = sample_run(run, wish, out)
    return load_file(files[-1])["samples"]


def test_the_command_writes_a_picture_and_tensors_and_says_where(run: Path, tmp_path: Path) -> None:
    code, text = flowmap(
        tmp_path, "sample", str(run), "--nfe", "2", "--n", "5", "--seed", "3", "--out", "sub/mine.v1", report=True
    )
    assert code == 0
    assert text == (
        "sub/mine.v1.png and sub/mine.v1.safetensors: "
        "stage forward, weights ema, shift 1, sampler flow_map, nfe 2, seed 3\n"
    )
    with Image.open(tmp_path / "sub/mine.v1.png") as picture:
        assert min(picture.size) > 10
    with safe_open(tmp_path / "sub/mine.v1.safetensors", "pt") as file:
        assert list(file.keys()) == ["samples"]
        assert file.get_tensor("samples").shape == (5, 1, 2)
        facts = {"stage": "forward", "weights": "ema", "shift": "1", "sampler": "flow_map", "nfe": "2", "seed": "3"}
        assert file.metadata() == facts | {"times": "[1.0, 0.5, 0.0]", "sampler settings": '{"type": "flow_map"}'}
    code, _ = flowmap(
        tmp_path, "sample", str(run), "--nfe", "2", "--n", "5", "--seed", "3", "--out", "again.png", report=True
    )
    assert code == 0
    assert sorted(p.name for p in tmp_path.glob("again*")) == ["again.png", "again.safetensors"]
    for suffix in (".png", ".safetensors"):
        assert (tmp_path / f"again{suffix}").read_bytes() == (tmp_path / f"sub/mine.v1{suffix}").read_bytes()


def test_the_same_seed_gives_the_same_samples_and_another_others(run: Path, tmp_path: Path) -> None:
    first = sampled(run, tmp_path / "a")
    assert first.dtype == torch.float32
    assert torch.equal(sampled(run, tmp_path / "b"), first)
    assert not torch.equal(sampled(run, tmp_path / "c", seed=1), first)
    # The first samples do not depend on how many are drawn.
    assert torch.allclose(sampled(run, tmp_path / "d", number=2), first[:2], rtol=1e-5, atol=1e-6)
    rows = {tuple(row.flatten().tolist()) for row in sampled(run, tmp_path / "e", number=64)}
    assert len(rows) == 64


def test_weights_stages_samplers_and_calls_are_what_is_asked_for(run: Path, tmp_path: Path) -> None:
    results = [
        sampled(run, tmp_path / str(number), **settings)  # type: ignore[arg-type]
        for number, settings in enumerate((
            {},
            {"weights": "raw"},
            {"calls": 1},
            {"sampler": "consistency"},
            {"stage": "teacher"},
            {"stage": "teacher", "sampler": "heun"},
        ))
    ]  # fmt: skip
    for index, one in enumerate(results):
        assert all(not torch.equal(one, other) for other in results[:index])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stage": "techer"}, "--stage techer: .*teacher"),
        ({"sampler": "eular"}, "--sampler eular: .*euler"),
        ({"stage": "teacher", "sampler": "flow_map"}, "needs a flow map, and stage 'teacher' trains a velocity"),
        ({"stage": "teacher", "sampler": "heun", "calls": 1}, "takes 2 calls a step, so 1 is not possible; nearest: 2"),
        ({"stage": "teacher", "sampler": "heun", "calls": 7}, "so 7 is not possible; nearest: 6"),
        (
            {"stage": "teacher", "sampler": "euler", "cfg_scale": 3.0},
            "--guidance 3: guidance needs a condition, and the data have none; leave it out",
        ),
        ({"classes": (3,)}, "--class: the data of this run are not conditioned on a class"),
        ({"train_seed": 9}, "--train-seed 9: this run has 0"),
    ],
)
def test_what_cannot_be_sampled_is_said(run: Path, tmp_path: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(FlowmapError, match=words):
        sampled(run, tmp_path / "x", **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowmapError, match=r"x is not the folder of a run; runs in .*: small"):
        sampled(run.parent / "x", tmp_path / "x")
    with pytest.raises(FlowmapError, match="is not the folder of a run"):
        sampled(tmp_path / "nowhere" / "x", tmp_path / "x")


def test_an_unfinished_stage_says_how_to_finish_it(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(HEAD + TEACHER + FORWARD)
    code, text = flowmap(tmp_path, "run", "recipe.toml", "--stage", "teacher")
    assert code == 0, text
    code, text = flowmap(tmp_path, "sample", "runs/small", "--n", "2", "--nfe", "1")
    assert code == 1
    home = (tmp_path / "runs").resolve()
    assert text == (
        f"error: stage 'forward' is not finished in {home}/small/forward.\n"
        f"To go on: flowmap run {home}/small/recipe.lock.toml --runs {home}\n"
    )
    code, text = flowmap(tmp_path, *text.split("flowmap ")[-1].split())
    assert code == 0
    assert "✓ teacher: finished before, 6 steps" in text
    assert flowmap(tmp_path, "sample", "runs/small", "--n", "2", "--nfe", "1")[0] == 0
    # A folder that was renamed is found under its new name.
    (tmp_path / "runs/small").rename(tmp_path / "runs/large")
    for file in (tmp_path / "runs/large/forward/checkpoints").glob("*/student.ema.safetensors"):
        file.write_bytes(b"")
    code, text = flowmap(tmp_path, "sample", "runs/large", "--n", "2", "--nfe", "1")
    assert code == 1
    assert f"&& flowmap run {home}/large/recipe.lock.toml --set name=large --runs {home}\n" in text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_samples_that_are_no_numbers_are_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    real = joint.generate

    def generate(*args: object, **named: object) -> torch.Tensor:
        samples = real(*args, **named)  # type: ignore[arg-type]
        samples[1, 0, 0] = value
        return samples

    good = sampled(run, tmp_path / "a")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(joint, "generate", generate)
    for out in ("a", "b"):
        with pytest.raises(
            FlowmapError, match="1 of 5 samples have values that are no finite numbers, so nothing was"
        ) as e:
            sampled(run, tmp_path / out)
        assert e.value.code == 1
    # Neither something new that looks finished, nor anything less of what was there.
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert good.isfinite().all()


@pytest.mark.parametrize("option", ["--guidance", "--shift"])
@pytest.mark.parametrize("number", ["inf", "nan", "1e999"])
def test_an_option_that_is_no_number_is_refused(run: Path, tmp_path: Path, option: str, number: str) -> None:
    code, text = flowmap(tmp_path, "sample", str(run), f"{option}={number}")
    assert code == 2
    assert "is no finite number" in text or "is not in the range" in text or "greater than or equal" in text
    assert [p for p in tmp_path.iterdir() if not p.name.startswith("log-")] == []


def test_a_file_that_fails_takes_the_others_with_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sampling, "save_file", fail)
    with pytest.raises(FlowmapError, match=r"a\.safetensors: the disk is full"):
        sampled(run, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_samples_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, text = flowmap(tmp_path, "sample", str(run), "--n", "2", "--nfe", "1", "--out", "file/x")
    assert code == 1
    assert "error: cannot write file/x: a file stands where a folder is needed" in text
    assert "Traceback" not in text


def test_a_control_is_not_what_a_recipe_is_for(tmp_path: Path) -> None:
    control = '{ stage = "discrete", samplers = ["flow_map"] }'
    file = tmp_path / "recipe.toml"
    file.write_text(
        HEAD + TEACHER + FORWARD + DISCRETE + EVALUATION.rstrip().removesuffix("]") + f"    {control},\n]\n"
    )
    chosen = choose_stage(make_plan(read(file)[0], tmp_path), None, None)
    assert chosen.stage.name == "discrete"  # the last flow map that a contest names
    file.write_text(file.read_text().replace('stage = "forward",', 'stage = "forward", against = "discrete",'))
    assert choose_stage(make_plan(read(file)[0], tmp_path), None, None).stage.name == "forward"
