"""flowmap from Python, in scripts and notebooks: the same code as the commands, with the same names for things."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from rich.console import Console
from torch import Tensor

from flowmap.comparison.record import load
from flowmap.comparison.run import compare as run_comparison
from flowmap.comparison.standings import Standings
from flowmap.comparison.unfold import read_comparison
from flowmap.console.commands import going_on
from flowmap.console.working import working
from flowmap.errors import FlowmapError
from flowmap.interfaces import FlowMap
from flowmap.launch.run import run_recipe
from flowmap.recipe.layout import StagePlan
from flowmap.recipe.recipe import Recipe
from flowmap.runs.open import choose_stage, open_run, rerun
from flowmap.schema.words import Weights
from flowmap.statistics.scores import METRICS, read_scores
from flowmap.training.processes import Processes
from flowmap.use.sample import draw_samples
from flowmap.use.student import Contestant, open_contestant
from flowmap.use.wish import Wish
from flowmap.use.wishes import open_wished_run

_KEPT = "what was finished is kept. Call it again to go on"


def run(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    stages: Sequence[str] = (),
    fresh: bool = False,
    runs: str | Path = "runs",
) -> Run:
    """Train every stage of the recipe in the file `recipe` that is not finished, evaluate, report: `flowmap run`.

    `overrides` change fields, as `--set` does: "stages.teacher.steps=10". With `stages` these alone are trained, and
    nothing is evaluated. `fresh` sets the old folder aside. The run is in `runs`/<name>. Raises FlowmapError for
    whatever is wrong with the recipe or the machine, and when it is interrupted; what was finished is kept.
    """
    console = _console()
    with working(console, _KEPT):
        plan = run_recipe(Path(recipe), overrides, stages, fresh, Path(runs), console)
    return load_run(plan.folder)


def compare(
    *specifications: str | Path,
    overrides: Sequence[str] = (),
    processes: int | None = None,
    fresh: bool = False,
    redo: Sequence[str] = (),
    runs: str | Path = "runs",
) -> Standings:
    """Train contestants at equal budgets, and say which is better where: `flowmap compare`.

    One file with contestants, or several recipes to compare as they are. Contestants are trained in processes of their
    own: a script that calls this does so below `if __name__ == "__main__":`. Raises FlowmapError for whatever is wrong
    with the specification or the machine, if a contestant failed, and when it is interrupted; what was finished is
    kept.
    """
    console, paths = _console(), [Path(path) for path in specifications]
    if not paths:
        raise FlowmapError("compare: give a specification, or several recipes")
    with working(console, _KEPT):
        run_comparison(paths, overrides, Path(runs), processes, fresh, redo, console)
    return load(Path(runs) / read_comparison(paths, overrides)[0].name)


def load_run(folder: str | Path) -> Run:
    """The run in `folder`. Raises FlowmapError if it is none, or its recipe is damaged."""
    return Run(Path(folder))


@final
class Run:
    """The run in a folder: its recipe, its scores, and the students of its finished stages.

    A student is read when it is first asked for, and kept until another is. Wherever a student is meant, `stage` is
    its stage (the one that the recipe is for, if it is None), `weights` are its moving average ("ema") or "raw", and
    `train_seed` is the training seed (the first, if it is None).
    """

    def __init__(self, folder: Path) -> None:
        self._plan = open_run(folder)
        self._kept: tuple[tuple[str, int, Weights], Contestant] | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {', '.join(stage.name for stage in self.recipe.stages)})"

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return self._plan.folder

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was run, with every default."""
        return self._plan.recipe

    def metrics(self) -> list[dict[str, Any]]:
        """What was measured, one row per score, as `metrics.jsonl` has it (docs/run-folder.md says what each field is).

        A table: `pandas.DataFrame(run.metrics())`. Empty if nothing was measured yet.
        """
        return read_scores(self.folder / METRICS)

    def sample(
        self,
        n: int | None = None,
        *,
        nfe: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
        prompts: str | Sequence[str] = (),
        classes: int | Sequence[int] = (),
        guidance: float | None = None,
        image: str | Path | None = None,
        video: str | Path | None = None,
        frames: int | None = None,
        stage: str | None = None,
        weights: Weights = "ema",
        train_seed: int | None = None,
    ) -> Tensor:
        """Samples `[N, F, ...]` in data space, on the CPU: those that `flowmap sample` writes for the same options.

        `n` of them (per prompt, if there are `prompts`: texts, of data with captions; or `classes`), with `nfe` network
        calls each.
        `image`, or the first `frames` frames of `video`, are files whose frames are given clean. The same `seed` gives
        the same samples. Raises FlowmapError for what cannot be done.
        """
        wish = Wish(
            stage=stage,
            weights=weights,
            sampler=sampler,
            calls=nfe,
            number=n,
            seed=seed,
            train_seed=train_seed,
            prompts=(prompts,) if isinstance(prompts, str) else tuple(prompts),
            classes=(classes,) if isinstance(classes, int) else tuple(classes),
            image=None if image is None else Path(image),
            video=None if video is None else Path(video),
            frames=frames,
            cfg_scale=guidance,
        )
        with working(_console(), "no sample was finished"):
            return draw_samples(open_wished_run(self._plan, wish, self._open), wish)[0]

    @torch.no_grad()
    def velocity(
        self,
        x: Tensor,
        t: float | Tensor,
        prompts: Any = None,
        *,
        stage: str | None = None,
        weights: Weights = "ema",
        train_seed: int | None = None,
    ) -> Tensor:
        """The velocity v(x, t) `[B, F, ...]` of a student; of a flow map its mean velocity at r = t.

        `x` `[B, F, ...]` is in model space (with a VAE: its latents), where noise is at t = 1 and data at t = 0; `t` is
        in [0, 1], one for all or `[B]`. `prompts` are `B` texts, or `B` class labels, of data with a condition. All
        frames are seen as one chunk. Raises FlowmapError for shapes and conditions that do not fit.
        """
        student, at = self._student(stage, weights, train_seed), _times(t, x)
        cond = _condition(student, x, prompts, self.recipe.data.spec().conditional)
        return student.network.velocity(x.to(student.device), at.to(student.device), cond).to(x.device)

    @torch.no_grad()
    def map(
        self,
        x: Tensor,
        t: float | Tensor,
        r: float | Tensor,
        prompts: Any = None,
        *,
        stage: str | None = None,
        weights: Weights = "ema",
        train_seed: int | None = None,
    ) -> Tensor:
        """The flow map X_{t->r}(x) `[B, F, ...]` of a student: from the point `x` at time `t` to time `r`, one call.

        Times and points as in `velocity`. Raises FlowmapError if the stage trains a velocity, which has no map, and for
        shapes and conditions that do not fit.
        """
        student = self._student(stage, weights, train_seed)
        if not isinstance(student.network, FlowMap):
            raise FlowmapError(
                f"stage '{student.stage}' trains a velocity, which goes nowhere by itself; sample it, or name a stage "
                "that trains a flow map"
            )
        cond = _condition(student, x, prompts, self.recipe.data.spec().conditional)
        at, to = _times(t, x).to(student.device), _times(r, x).to(student.device)
        return student.network.jump(x.to(student.device), at, to, cond).to(x.device)

    def _student(self, stage: str | None, weights: Weights, train_seed: int | None) -> Contestant:
        chosen = choose_stage(self._plan, stage, train_seed)
        with working(_console(), "nothing was changed"), going_on(rerun(self.folder)):
            return self._open(chosen, weights, Processes(self.recipe.compute).device)

    def _open(self, chosen: StagePlan, weights: Weights, device: torch.device) -> Contestant:
        key = (chosen.stage.name, chosen.seed, weights)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # its memory is needed for the next
            self._kept = key, open_contestant(chosen, weights, device)
        return self._kept[1]


def _times(t: float | Tensor, x: Tensor) -> Tensor:
    """One time for each sample, in float32."""
    times = torch.as_tensor(t, dtype=torch.float32)
    if times.ndim > 1 or (times.ndim == 1 and len(times) != len(x)):
        raise FlowmapError(f"a time is one number, or one for each of the {len(x)} samples, not {list(times.shape)}")
    if not bool(((times >= 0) & (times <= 1)).all()):
        raise FlowmapError("times are between 0 (data) and 1 (noise)")
    return times.expand(len(x))


def _condition(student: Contestant, x: Tensor, prompts: Any, conditional: bool) -> Any:
    shape = student.backbone.latent_shape()
    if tuple(x.shape[1:]) != tuple(shape):
        raise FlowmapError(f"points are [B, {', '.join(map(str, shape))}], not {list(x.shape)}")
    if conditional and prompts is None:
        raise FlowmapError(f"this network has a condition: give prompts, one for each of the {len(x)} samples")
    if prompts is not None and not conditional:
        raise FlowmapError("these data have no condition; leave prompts out")
    if prompts is not None and len(prompts) != len(x):
        raise FlowmapError(f"there are {len(prompts)} prompts and {len(x)} samples")
    return student.backbone.condition(prompts, len(x))[0]


def _console() -> Console:
    """Where progress is shown: a bar in a notebook too, if it can draw one (with ipywidgets), and else lines."""
    console = Console()
    bars = console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None
    return Console(force_interactive=True) if bars else console
