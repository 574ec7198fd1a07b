"""The folders that are damaged, and the commands that then read them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.video_runs import digits_run, wan_run

from .damage import Damaged, Words, of_run, of_weights
from .running import injected, run
from .scenes import Result, Scene, comparison_result, files, run_result

_RUN: tuple[Words, ...] = (
    ("run", "recipe.toml"),
    ("report", "runs/small"),
    ("evaluate", "runs/small"),
    ("sample", "runs/small", "--out", "out"),
    ("plan", "recipe.toml"),
    ("check", "recipe.toml"),
)
_COMPARISON: tuple[Words, ...] = (("compare", "spec.toml"), ("report", "runs/small"), ("check", "spec.toml"))
_VIDEO: tuple[Words, ...] = (
    ("export", "runs/digits", "--to", "made"),
    ("sample", "runs/digits", "--n", "1", "--nfe", "1", "--out", "out"),
    ("report", "runs/digits"),
)
_ENCODED: tuple[Words, ...] = (
    ("run", "r.toml", "--set", "evaluation.samples=2"),
    ("encode", "r.toml", "--from", "raw"),
    ("check", "r.toml"),
    ("plan", "r.toml"),
)
_SMALL = ("--length", "5", "--height", "32", "--width", "32")
_WEIGHTS: tuple[Words, ...] = (
    ("sample", "./made", "--prompt", "a", *("--n", "1", "--nfe", "1", "--out", "out"), *_SMALL),
    ("check", "w.toml"),
    ("plan", "w.toml"),
)


def folders(home: Path, made: Mapping[str, Scene]) -> dict[str, Damaged]:
    """All of them, by name; each is made when it is first damaged."""
    makers: dict[str, tuple[Callable[[], Path], str, tuple[Words, ...], Callable[[Path], Result]]] = {
        "finished run": (lambda: _whole(made["run"]), "runs/small", _RUN, run_result),
        "half-trained run": (
            lambda: _killed(made["run"], "forward/checkpoints/.part", 3),
            "runs/small",
            _RUN,
            run_result,
        ),
        "half-measured run": (lambda: _killed(made["run"], "/.part-metrics", 10), "runs/small", _RUN, run_result),
        "finished comparison": (lambda: _whole(made["compare"]), "runs/small", _COMPARISON, comparison_result),
        "half comparison": (lambda: _killed(made["compare"], "/", 500), "runs/small", _COMPARISON, comparison_result),
        "video run": (lambda: _digits(home), "runs/digits", _VIDEO, run_result),
        "encoded": (lambda: _whole(made["encode"]), "latents", _ENCODED, run_result),
        "half encoded": (lambda: _killed(made["encode"], "latents/.part-001", 3), "latents", _ENCODED, run_result),
        "exported": (lambda: _exported(home, made["export"]), "made", _WEIGHTS, files),
    }
    return {
        name: Damaged(name, make, inside, words, result, of_weights if name == "exported" else of_run, home / "damaged")
        for name, (make, inside, words, result) in makers.items()
    }


def _cleared(folder: Path) -> Path:
    for log in folder.glob("log-*"):
        log.unlink()
    return folder


def _whole(scene: Scene) -> Path:
    return _cleared(scene.whole[0])


def _killed(scene: Scene, where: str, time: int) -> Path:
    """What a kill of the command leaves, before its operation number `time` on a path that has `where` in it."""
    assert scene.whole
    numbers = [number for number, line in enumerate(scene.operations, start=1) if where in line]
    folder = scene.copied(f"half-{numbers[time]}")
    killed = scene.run(folder, injected(folder, "kill all", numbers[time]))
    assert killed.code == -9, killed.text
    return _cleared(folder)


def _digits(home: Path) -> Path:
    folder = home / "video-run"
    shutil.copytree(digits_run(home), folder / "runs" / "digits")
    return folder


def _exported(home: Path, scene: Scene) -> Path:
    """Exported weights, and a recipe that begins with them."""
    folder = home / "exported"
    shutil.copytree(scene.whole[0] / "made", folder / "made")
    wan = wan_run(home, "wan21")
    (text,) = (path.read_text() for path in wan.parents[1].glob("*.toml"))
    (folder / "w.toml").write_text(text.replace(str(wan.parents[1] / "twin"), "./made"))
    ended = run(folder, "check", "w.toml")
    assert ended.code == 0, ended.text
    return _cleared(folder)
