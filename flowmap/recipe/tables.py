"""The tables of a recipe: stages, roles, optimisers, evaluation, compute, checkpoints. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from flowmap.plugin.fields import AnyData, AnyMetric, AnyObjective, AnySampler
from flowmap.schema.bounds import (
    MOST_CONTESTS,
    MOST_NAME,
    MOST_ROWS,
    Batch,
    Calls,
    Constant,
    Decay,
    Devices,
    Factor,
    Given,
    Guidance,
    LearningRate,
    Memory,
    MicroBatch,
    Norm,
    PathText,
    Prefetch,
    Processes,
    Repeats,
    Rewinds,
    Share,
    Shift,
    SomeShare,
    Spread,
    Step,
    Steps,
    WeightDecay,
)
from flowmap.schema.config import Config, Finding, idle
from flowmap.schema.words import NAME, Base, Reduction, Shard, Weights


class OptimizerConfig(Config):
    """AdamW and its learning-rate schedule, a pure function of the step."""

    lr: LearningRate = Field(1e-3, description="peak learning rate")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="AdamW's momentum constants, each in [0, 1)")
    eps: Constant = Field(1e-8, description="AdamW's constant against division by 0")
    weight_decay: WeightDecay = Field(0.0, description="decoupled weight decay")
    warmup: Step = Field(0, description="steps of linear warm-up from 0")
    warmup_zero: bool = Field(
        False,
        description="the learning rate of 0-based step k in warm-up is lr k / warmup, so that the first step changes "
        "nothing, as in PyTorch trainers (and AnyFlow's); false: lr (k + 1) / warmup",
    )
    decay: Share = Field(0.0, description="last fraction of the stage over which lr falls linearly to 0")


class EmaConfig(Config):
    """Moving average of the student: decay 0 before `start`, then constant (AnyFlow)."""

    decay: Decay = Field(0.999, description="share of the old average that a step keeps")
    start: Step = Field(0, description="first step at which the decay applies")


class RoleConfig(Config):
    """Where a role's weights come from, and how it is optimised if the stage trains it."""

    from_: str = Field(
        "base",
        max_length=MOST_NAME,
        alias="from",
        description="'base' (the backbone's own weights) or an earlier stage",
    )
    weights: Weights = Field("ema", description="which weights of that stage")
    optimizer: OptimizerConfig | None = Field(None, description="overrides the stage's, for this role")


class StageConfig(Config):
    """One stage of training: an objective over roles, for a number of steps."""

    name: str = Field(
        pattern=NAME, max_length=MOST_NAME, description="names the stage's folder; later stages refer to it"
    )
    steps: Steps = Field(description="iterations of the objective")
    batch: Batch = Field(description="global batch, in samples")
    objective: AnyObjective = Field(description="what the stage minimises")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="of every trained role")
    ema: EmaConfig = Field(default_factory=EmaConfig, description="moving average of the student")
    roles: dict[str, RoleConfig] = Field(
        default_factory=dict, max_length=MOST_ROWS, description="roles not named here start from 'base'"
    )
    data: AnyData | None = Field(None, description="what this stage is trained on, if not the recipe's data")
    clip: Norm = Field(1.0, description="gradient norm above which the gradient is scaled down; 0 = never")


class ContestConfig(Config):
    """The weights of one stage, or weights from outside, under one or more samplers."""

    stage: PathText = Field(
        description="whose student competes; or weights that no stage makes: 'base' (the backbone's own), or a folder "
        "of weights, a run's folder or a hub id in the cache, with a '/' in it"
    )
    samplers: tuple[AnySampler, ...] = Field(
        (), max_length=MOST_ROWS, description="each is one row of the results; if left out, that of the weights"
    )
    weights: Weights = Field("ema", description="which of the stage's weights")
    against: str | None = Field(
        None,
        description="the stage of another contest that had as much compute, its control: the report says at which "
        "calls this one is better, and what each cost",
    )
    context: Given = Field(0, description="frames given clean, from held-out data; 1 is image-to-video")
    cfg_scale: Guidance = Field(1.0, description="guidance, w in null + w (cond - null); velocity samplers only")


class EvaluationConfig(Config):
    """What is measured after training, and how."""

    teacher: PathText = Field(
        description="the stage, or weights as in contests.stage, whose many-step samples are the reference of "
        "frechet_teacher"
    )
    teacher_sampler: AnySampler = Field(default="heun", description="how those samples are drawn")  # type: ignore[assignment]
    teacher_calls: Calls = Field(64, description="network calls a reference sample takes")
    teacher_cfg_scale: Guidance = Field(1.0, description="guidance of those samples, w in null + w (cond - null)")
    calls: tuple[Calls, ...] = Field(
        (1, 2, 4, 8, 16, 32),
        min_length=1,
        max_length=MOST_ROWS,
        description="network calls per sample (of each chunk, for causal models), but of a list of a sampler's own",
    )
    samples: Spread = Field(2000, description="samples per score")
    repeats: Repeats = Field(3, description="times each score is taken with fresh noise")
    noise: Literal["own", "common"] = Field(
        "own", description="whether every row draws its own noise, or all the same, for paired differences"
    )
    data: AnyData | None = Field(None, description="the real samples to compare with, if not the recipe's data")
    real: Spread = Field(20_000, description="real samples of a split that are compared with, at most")
    shift: Shift | None = Field(
        None, description="shift of the sampling grid; if left out, each stage is sampled as it is trained"
    )
    metrics: tuple[AnyMetric, ...] = Field(min_length=1, max_length=MOST_ROWS, description="what is measured")
    contests: tuple[ContestConfig, ...] = Field(min_length=1, max_length=MOST_CONTESTS, description="what is compared")


class ComputeConfig(Config):
    """Where and in what precision the run computes."""

    device: Literal["auto", "cpu"] = Field(
        "auto", description="'auto' takes an accelerator if there is one (not Apple's, which has no float64)"
    )
    precision: Literal["no", "bf16"] = Field(
        "no", description="mixed precision of the network calls, in training, evaluation and samples alike"
    )
    compile: bool = Field(
        False,
        description="compile the blocks of networks (torch.compile), in training, evaluation and samples alike: the "
        "first steps take minutes, the others less time and memory. Forward-mode derivatives are not compiled",
    )
    cudnn_attention: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="whether training may take cuDNN's kernels of attention: on Hopper GPUs 1.7 times as fast as flash "
        "attention, with gradients that have been wrong at some shapes; 'auto': where the backbone has checked them",
    )
    micro_batch: MicroBatch = Field(
        0, description="samples per process that go through a network at once; 0 = all, without accumulation"
    )
    sequence: Devices = Field(
        1, description="processes that share the tokens of each sample (Ulysses); the others take other samples"
    )
    shard: Shard = Field(
        "auto",
        description="who shares one copy of the networks: 'all' processes, or those of each 'node' (nodes exchange "
        "gradients alone); 'auto': those of each node, if half of their memory holds what is not computed",
    )
    base: Base = Field(
        "auto",
        description="frozen parameters, with several processes: 'sharded' over them, or 'replicated', whole in each, "
        "and never gathered; 'auto': replicated if they take at most an eighth of an accelerator's memory",
    )
    sampling: Base = Field(
        "auto",
        description="networks that are evaluated or sampled, with several processes: 'sharded' over them, which then "
        "call together, or 'replicated', whole in each; 'auto': replicated if one takes at most half of an "
        "accelerator's memory",
    )
    reduction: Reduction = Field(
        "auto",
        description="when several processes average gradients: once a 'turn', for which each holds the whole gradient "
        "of a role, or after each 'loss' of each micro-batch; 'auto': once a turn if that takes at most a sixteenth of "
        "a device's memory",
    )
    prefetch: Prefetch = Field(
        2,
        description="micro-batches whose samples and noise the CPU makes ready while an accelerator computes, 0 = "
        "none; without an accelerator none are",
    )
    threads: Processes = Field(0, description="CPU threads of training, 0 = torch's choice; small networks want 1")
    trackers: tuple[Literal["tensorboard"], ...] = Field(
        (), max_length=MOST_ROWS, description="where losses are also sent"
    )


class WatchdogConfig(Config):
    """What to do when a stage that trains a critic beside its student seems to collapse."""

    action: Literal["off", "warn", "stop", "rewind"] = Field(
        "warn",
        description="'stop' ends the run; 'rewind' goes back to the last checkpoint before the first sign and goes on "
        "with lower learning rates",
    )
    rise: Factor = Field(4.0, description="times its running mean at which a loss or a gradient norm is a sign")
    variance: Factor = Field(
        4.0, description="factor by which the variance of samples may differ from that of the data"
    )
    memory: Memory = Field(500, description="steps that the running mean goes back")
    lower: SomeShare = Field(0.5, description="times the learning rates after each rewind")
    rewinds: Rewinds = Field(3, description="of a stage, at most; then it stops")


class CheckpointsConfig(Config):
    """How often a stage is saved."""

    every: Steps = Field(1000, description="steps between checkpoints; the last step is always saved")
    keep: Steps = Field(2, description="how many to keep per stage")


def sampling_shift(stage: StageConfig, evaluation: EvaluationConfig | None) -> float:
    """The shift of the grid on which the student of `stage` is measured, sampled and exported."""
    if evaluation is not None and evaluation.shift is not None:
        return evaluation.shift
    trained = stage.objective.grid_shift()
    return 1.0 if trained is None else trained


def has_critic(stage: StageConfig) -> bool:
    """Whether `stage` trains another network beside its student, and so can collapse as on-policy stages do."""
    return sum(spec.trained for spec in stage.objective.roles().values()) > 1


def watchdog_findings(config: WatchdogConfig, stages: Sequence[StageConfig]) -> Iterator[Finding]:
    """Settings of a watchdog that has nothing to watch in `stages`, or does something else."""
    if config.action != "rewind":
        yield from idle(config, f"action is '{config.action}'", "lower", "rewinds")
    if config.action == "off":
        yield from idle(config, "action is 'off'", "rise", "variance", "memory")
    elif not any(has_critic(stage) for stage in stages):
        yield from idle(config, "no stage trains a critic", "action", "rise", "variance", "memory")
