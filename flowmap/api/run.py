"""A run in its folder, as Python has it: recipe, scores, samples, velocities and maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from flowmap.api.arguments import condition_of, point_of, times_of
from flowmap.api.consoles import notebook_console
from flowmap.console.commands import going_on
from flowmap.console.options import from_python
from flowmap.console.working import working
from flowmap.errors import FlowmapError
from flowmap.interfaces import FlowMap
from flowmap.reading.open import choose_stage, open_run, rerun
from flowmap.recipe.layout import LOCK, StagePlan
from flowmap.recipe.recipe import Recipe
from flowmap.schema.words import Weights
from flowmap.statistics.scores import METRICS, read_scores
from flowmap.training.processes import Processes
from flowmap.use.opened import open_wished_run
from flowmap.use.sample import draw_samples
from flowmap.use.student import ReadyModel, open_contestant
from flowmap.use.wish import Wish, known_weights


@final
class Run:
    """The run in a folder: its recipe, its scores, and the students of its finished stages.

    A student is read when it is first asked for, and kept until another is. Another run in the same place is an error.
    Wherever a student is meant, `stage` is its stage (the one that the recipe is for, if it is None), `weights` are its
    moving average ("ema") or "raw", and `train_seed` is the training seed (the first, if it is None).
    """

    def __init__(self, folder: Path) -> None:
        self._plan = open_run(folder)
        self._lock = (self.folder / LOCK).read_bytes()
        self._kept: tuple[tuple[str, int, Weights], ReadyModel] | None = None

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
        self._refuse_another()
        return read_scores(self.folder / METRICS)

    @from_python()
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
        self._refuse_another()
        wish = Wish(
            number=n,
            calls=nfe,
            sampler=sampler,
            seed=seed,
            prompts=(prompts,) if isinstance(prompts, str) else tuple(prompts),
            classes=(classes,) if isinstance(classes, int) else tuple(classes),
            image=None if image is None else Path(image),
            video=None if video is None else Path(video),
            frames=frames,
            cfg_scale=guidance,
            stage=stage,
            weights=known_weights(weights),
            train_seed=train_seed,
        )
        with working(notebook_console(), "no sample was finished"):
            return draw_samples(open_wished_run(self._plan, wish, self._open), wish)[0]

    @from_python()
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
        student = self._student(stage, weights, train_seed)
        point, cond = point_of(student, x), condition_of(student, prompts, len(x), self.recipe.data.spec())
        return student.network.velocity(point, times_of(t, point), cond).to(x.device)

    @from_python()
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
        point, cond = point_of(student, x), condition_of(student, prompts, len(x), self.recipe.data.spec())
        at, to = times_of(t, point), times_of(r, point)
        if bool((to > at).any()):
            raise FlowmapError("a flow map goes from a time t towards the data, to r <= t")
        return student.network.jump(point, at, to, cond).to(x.device)

    def _student(self, stage: str | None, weights: Weights, train_seed: int | None) -> ReadyModel:
        self._refuse_another()
        chosen = choose_stage(self._plan, stage, train_seed)
        with working(notebook_console(), "nothing was changed"), going_on(rerun(self.folder)):
            return self._open(chosen, known_weights(weights), Processes(self.recipe.compute))

    def _open(self, chosen: StagePlan, weights: Weights, processes: Processes) -> ReadyModel:
        key = (chosen.stage.name, chosen.seed, weights)
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # its memory is needed for the next
            self._kept = key, open_contestant(chosen, weights, processes.device)
        return self._kept[1]

    def _refuse_another(self) -> None:
        """Refuse to mix what was read of one run with what another has left in its place."""
        try:
            same = (self.folder / LOCK).read_bytes() == self._lock
        except OSError:
            same = False
        if not same:
            raise FlowmapError(f"{self.folder} is not the run any more that was opened; load it again")
