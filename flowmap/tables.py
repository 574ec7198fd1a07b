"""The tables of a recipe: stages, roles, optimisers, evaluation, compute, checkpoints. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flowmap.configs import NAME, AnyData, AnyMetric, AnyObjective, AnySampler, Config, Weights

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """AdamW and its learning-rate schedule, a pure function of the step."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="AdamW's momentum constants, each in [0, 1)")
    eps: float = Field(1e-8, gt=0, description="AdamW's constant against division by 0")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up from 0")
    warmup_zero: bool = Field(
        False,
        description="the learning rate of 0-based step k in warm-up is lr k / warmup, so that the first step changes "
        "nothing, as in PyTorch trainers (and AnyFlow's); false: lr (k + 1) / warmup",
    )
    decay: float = Field(0.0, ge=0, le=1, description="last fraction of the stage over which lr falls linearly to 0")


class EmaConfig(Config):
    """Moving average of the student: decay 0 before `start`, then constant (AnyFlow)."""

    decay: float = Field(0.999, ge=0, lt=1, description="share of the old average that a step keeps")
    start: int = Field(0, ge=0, description="first step at which the decay applies")


class RoleConfig(Config):
    """Where a role's weights come from, and how it is optimised if the stage trains it."""

    from_: str = Field("base", alias="from", description="'base' (the backbone's own weights) or an earlier stage")
    weights: Weights = Field("ema", description="which weights of that stage")
    optimizer: OptimizerConfig | None = Field(None, description="overrides the stage's, for this role")


class StageConfig(Config):
    """One stage of training: an objective over roles, for a number of steps."""

    name: str = Field(pattern=NAME, description="names the stage's folder; later stages refer to it")
    steps: int = Field(gt=0, description="iterations of the objective")
    batch: int = Field(gt=0, description="global batch, in samples")
    objective: AnyObjective = Field(description="what the stage minimises")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="of every trained role")
    ema: EmaConfig = Field(default_factory=EmaConfig, description="moving average of the student")
    roles: dict[str, RoleConfig] = Field(default_factory=dict, description="roles not named here start from 'base'")
    data: AnyData | None = Field(None, description="what this stage is trained on, if not the recipe's data")
    clip: float = Field(1.0, ge=0, description="gradient norm above which the gradient is scaled down; 0 = never")


class ContestConfig(Config):
    """The weights of one stage, or weights from outside, under one or more samplers."""

    stage: str = Field(
        description="whose student competes; or weights that no stage makes: 'base' (the backbone's own), or a folder "
        "of weights, a run's folder or a hub id in the cache, with a '/' in it"
    )
    samplers: tuple[AnySampler, ...] = Field(min_length=1, description="each is one row of the results")
    weights: Weights = Field("ema", description="which of the stage's weights")
    against: str | None = Field(
        None,
        description="the stage of another contest that had as much compute, its control: the report says at which "
        "calls this one is better, and what each cost",
    )
    context: int = Field(0, ge=0, description="frames given clean, from held-out data; 1 is image-to-video")
    cfg_scale: float = Field(1.0, ge=1, description="guidance, w in null + w (cond - null); velocity samplers only")


class EvaluationConfig(Config):
    """What is measured after training, and how."""

    teacher: str = Field(
        description="the stage, or weights as in contests.stage, whose many-step samples are the reference of "
        "frechet_teacher"
    )
    teacher_sampler: AnySampler = Field(default="heun", description="how those samples are drawn")  # type: ignore[assignment]
    teacher_calls: int = Field(64, gt=0, description="network calls a reference sample takes")
    teacher_cfg_scale: float = Field(1.0, ge=1, description="guidance of those samples, w in null + w (cond - null)")
    calls: tuple[int, ...] = Field(
        (1, 2, 4, 8, 16, 32), min_length=1, description="network calls per sample (of each chunk, for causal models)"
    )
    samples: int = Field(2000, ge=2, description="samples per score")
    repeats: int = Field(3, ge=2, description="times each score is taken with fresh noise")
    noise: Literal["own", "common"] = Field(
        "own", description="whether every row draws its own noise, or all the same, for paired differences"
    )
    data: AnyData | None = Field(None, description="the real samples to compare with, if not the recipe's data")
    real: int = Field(20_000, ge=2, description="real samples of a split that are compared with, at most")
    shift: float | None = Field(
        None,
        gt=0,
        description="shift of the sampling grid; if left out, each stage is sampled as it is trained",
    )
    metrics: tuple[AnyMetric, ...] = Field(min_length=1, description="what is measured; lower is better")
    contests: tuple[ContestConfig, ...] = Field(min_length=1, description="what is compared")


class ComputeConfig(Config):
    """Where and in what precision the run computes."""

    device: Literal["auto", "cpu"] = Field(
        "auto", description="'auto' takes an accelerator if there is one (not Apple's, which has no float64)"
    )
    precision: Literal["no", "bf16"] = Field(
        "no", description="mixed precision of the network calls, in training, evaluation and samples alike"
    )
    micro_batch: int = Field(
        0, ge=0, description="samples per process that go through a network at once; 0 = all, without accumulation"
    )
    threads: int = Field(0, ge=0, description="CPU threads of training, 0 = torch's choice; small networks want 1")
    trackers: tuple[Literal["tensorboard"], ...] = Field((), description="where losses are also sent")


class CheckpointsConfig(Config):
    """How often a stage is saved."""

    every: int = Field(1000, gt=0, description="steps between checkpoints; the last step is always saved")
    keep: int = Field(2, ge=1, description="how many to keep per stage")


def sampling_shift(stage: StageConfig, evaluation: EvaluationConfig | None) -> float:
    """The shift of the grid on which the student of `stage` is measured, sampled and exported."""
    if evaluation is not None and evaluation.shift is not None:
        return evaluation.shift
    trained = stage.objective.grid_shift()
    return 1.0 if trained is None else trained
