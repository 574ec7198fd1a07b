"""Write docs/objectives.md, every objective's fields beside its authors' values: `python docs/objectives.py`.

Published and released values stand here, typed in with the place where they were read; ours are read from the
objectives' configurations, and from a recipe where one is the preset.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, final

from flowmap.errors import FlowmapError
from flowmap.plugin.catalogue import catalogue
from flowmap.recipe.read import read

ROOT = Path(__file__).parents[1]

HEADER = """# The objectives' settings, published, released, ours

What the authors of every objective published, what their code does, what ours does if a recipe leaves the field out,
and why where that differs. `python docs/objectives.py` writes this page: values of others stand in that script with
the place where they were read, ours are read from the configurations. It refuses a value that differs without a
reason, and a test fails when the page is out of date or a field of an objective is missing.

- *released* is the code at the commit named above each table; file names are relative to what is said there. Values
  are in our terms (times in [0, 1] with 1 = noise, guidance w in null + w (cond - null)), with the source's own words
  beside them where those are other terms.
- *published* is the paper. Its text could mostly not be had where this page was written: **not read here** says so, in
  place of a number from memory. *Quoted* is what notes and re-implementations of third parties quote from it.
- Rows are compared with the released value, or with the published one where nothing is released. *preset* is a recipe
  of this repository with the released value. Losses themselves are compared in `tests/`.
- *As released* is what to write into a recipe's stage for the released values. A comparison of ours may set others,
  where its data have no condition to guide by, or a grid of their own.
- *Recipe's settings* have no default in an objective. They are what the released code used; put them into the stage.
  There is AdamW and no RAdam here: a warm-up takes the place of RAdam's.
- *Ours alone* are fields that the authors have no counterpart of, or that nothing reads unless another field is set.
"""

_OTHER = object()


@final
@dataclass(frozen=True)
class Said:
    """A value in our terms, where it was read, and the source's own words if those are others."""

    value: Any
    where: str
    words: str = ""

    def text(self) -> str:
        """The cell of the table."""
        if not self.where:
            return self.words
        if self.value is _OTHER:
            return f"{self.words} ({self.where})"
        return f"{_text(self.value)} ({'; '.join(part for part in (self.words, self.where) if part)})"


UNREAD = Said(_OTHER, "", "not read here")
NOTHING = Said(_OTHER, "", "nothing released")
_EMPTY = (UNREAD, NOTHING)


def other(words: str, where: str) -> Said:
    """What no value of the field says."""
    return Said(_OTHER, where, words)


def quoted(value: Any, where: str) -> Said:
    """A paper's value, as others quote it."""
    return Said(value, f"quoted: {where}")


@final
@dataclass(frozen=True)
class Row:
    """One field of an objective: `name` is dotted. `preset` is another path in the preset, if not the same."""

    name: str
    released: Said
    why: str = ""
    published: Said = UNREAD
    preset: str = ""

    def reference(self) -> Said | None:
        """What ours is compared with, if there is any."""
        return next((said for said in (self.released, self.published) if said not in _EMPTY), None)


@final
@dataclass(frozen=True)
class Matter:
    """What no field says, and we do in another way."""

    what: str
    released: str
    where: str
    ours: str
    why: str


@final
@dataclass(frozen=True)
class Setting:
    """A setting of the recipe that belongs to the method, as released."""

    what: str
    released: str
    where: str


@cache
def _recipe(name: str) -> dict[str, Any]:
    return read(ROOT / "recipes" / f"{name}.toml")[0].model_dump(mode="json", by_alias=True)


@final
@dataclass(frozen=True)
class Preset:
    """The objective of a stage of a recipe in recipes/, or a table inside it."""

    recipe: str
    stage: str

    def settings(self) -> Mapping[str, Any]:
        """The objective's fields, complete with defaults."""
        stages = _recipe(self.recipe)["stages"]
        found: Mapping[str, Any] = next(each["objective"] for each in stages if each["name"] == self.stage)
        return found


@final
@dataclass(frozen=True)
class Page:
    """What is said of one objective: its sources, fields, other matters, settings, and fields of ours alone."""

    sources: str
    rows: tuple[Row, ...]
    matters: tuple[Matter, ...] = ()
    settings: tuple[Setting, ...] = ()
    alone: Mapping[str, str] = field(default_factory=dict)
    preset: Preset | None = None


# Reasons that recur.
_GUIDANCE = "belongs to the model and its data: 1 is no guidance, which is all that data without a condition can have"
_WANS = "belongs to the backbone: 1 is an even grid, and Wan's is 5"
_SHARES = (
    "AnyFlow's shares, the same for the whole family, so that contestants differ in their loss alone; "
    "`branches = { diffusion = 0.75, consistency = 0.0 }` is the released"
)
_DISTILLED = "distillation is the usual case here; the released self-distillation is sayable, as "
_UNUSED = {
    "tangent.step": "half width of a difference; not used by jvp",
    "tangent.batched": "both sides of a difference in one call; the same numbers",
}
_CO = {
    "forward_weight": "weight of `forward`, if there is one",
    "replay": "memory of causal rollouts; the same numbers",
}

_ANYFLOW = (
    "NVlabs/AnyFlow, commit 549236a (`yml` is the stage's file under `options/train/anyflow/`, trainers are under "
    "`far/trainers/`)"
)
_FASTGEN = "NVlabs/FastGen, commit 34f30e8, `fastgen/`"
_MAPS = (
    "nmboffi/flow-maps could not be had; its code was read in a copy, khiembk/Physics-Informed-flow-maps, commit "
    "cbb8a7c, `py/`"
)

_FLOW_MATCHING = Page(
    f"Paper: arXiv 2210.02747. Code: stage 1 of {_ANYFLOW}. All around it: [fidelity.md](fidelity.md).",
    (
        Row("times.distribution", Said("logit_normal", "trainer_wan_teacher.py:209")),
        Row("times.mean", Said(0.0, "trainer_wan_teacher.py:209")),
        Row("times.std", Said(1.0, "trainer_wan_teacher.py:209")),
        Row("times.shift", Said(5.0, "yml `scheduler_cfg.shift`"), _WANS),
        Row(
            "drop_condition",
            Said(0.1, "yml `text_encoder_cfg.drop_text_ratio`"),
            "data without a condition have nothing to drop",
        ),
        Row(
            "view",
            Said("whole", "trainer_wan_teacher.py:223", "all frames noised, as one chunk"),
            "a causal model is trained as it is sampled; the same for a model of one chunk, and the FAR recipes say "
            "`whole`",
        ),
    ),
    settings=(
        Setting("learning rate, betas, weight decay", "5e-5, (0.9, 0.95), 0", "yml `train.optim_g`"),
        Setting("EMA", "0.999 from step 1000", "yml `train.ema_decay`, `ema_warmup_step`"),
        Setting("batch, steps", "32, 6000 (1.3B); 16, 4000 (14B)", "names of the ymls"),
    ),
    preset=Preset("anyflow_wan_1.3b", "teacher"),
)

_FLOW_MAP = Page(
    f"Paper: AnyFlow, arXiv 2605.13724. Code: stage 2 of {_ANYFLOW}. All around it: [fidelity.md](fidelity.md).",
    (
        Row("velocity", Said("data", "trainer_wan_anyflow_pretrain.py:243")),
        Row("branches.diffusion", Said(0.5, "yml `flowmap_cfg.diffusion_ratio`")),
        Row("branches.consistency", Said(0.25, "yml `flowmap_cfg.consistency_ratio`")),
        Row("shift", Said(5.0, "yml `scheduler_cfg.shift`"), _WANS),
        Row(
            "weight",
            Said("beta08", "yml `scheduler_cfg.weight_type`"),
            "all times alike unless a recipe says more, as in the other objectives of the family",
        ),
        Row("cfg_scale", Said(3.0, "yml `text_encoder_cfg.fuse_guidance_scale`"), _GUIDANCE),
        Row(
            "drop_condition",
            Said(0.1, "yml `text_encoder_cfg.drop_text_ratio`"),
            "data without a condition have nothing to drop",
        ),
        Row("rebalance", Said(True, "trainer_wan_anyflow_pretrain.py, `scale_weight`")),
        Row("bidirectional", Said(0.0, "yml `transformer_cfg`", "causal models 0.1")),
        Row("tangent.method", Said("central", "trainer_wan_anyflow_pretrain.py:239")),
        Row(
            "tangent.step",
            Said(0.005, "yml `flowmap_cfg.epsilon`", "5 of 1000"),
            "a recipe that leaves it out takes less if the backbone's time frequencies are high",
        ),
    ),
    settings=(
        Setting("learning rate, betas, weight decay", "5e-5, (0.9, 0.95), 0", "yml `train.optim_g`"),
        Setting("EMA", "0.999 from step 1000", "yml `train.ema_decay`, `ema_warmup_step`"),
        Setting("batch, steps", "32, 6000 (1.3B); 16, 4000 (14B)", "names of the ymls"),
    ),
    alone={"tangent.batched": _UNUSED["tangent.batched"]},
    preset=Preset("anyflow_wan_1.3b", "forward"),
)

_BACKWARD_SIMULATION = Page(
    f"Paper: AnyFlow, arXiv 2605.13724. Code: stage 3 of {_ANYFLOW}. All around it: [fidelity.md](fidelity.md).",
    (
        Row(
            "rollout_steps",
            Said((2, 4, 8, 16, 50), "yml `rollout_cfg.num_inference_steps_list`"),
            "with 1, as one-step samples are then trained on-policy too, and no longer grid than small models are "
            "sampled on; the recipes have the released list",
        ),
        Row("unroll", Said("segments", "`../pipelines/pipeline_wan_anyflow.py`:370", "three segments")),
        Row("shift", Said(5.0, "yml `dmd_scheduler_cfg.shift`"), _WANS),
        Row(
            "cfg_scale",
            Said(4.0, "yml `dmd_cfg.real_guidance_scale`", "3, cond + w (cond - null)"),
            _GUIDANCE,
        ),
        Row("critic_times.distribution", Said("logit_normal", "trainer_wan_anyflow_onpolicy.py, `discriminator_loss`")),
        Row("critic_times.mean", Said(0.0, "trainer_wan_anyflow_onpolicy.py, `discriminator_loss`")),
        Row("critic_times.std", Said(1.0, "trainer_wan_anyflow_onpolicy.py, `discriminator_loss`")),
        Row("critic_times.shift", Said(5.0, "yml `dmd_scheduler_cfg.shift`"), _WANS),
        Row("score", Said("whole", "trainer_wan_anyflow_onpolicy.py:119-127", "all frames as one chunk")),
        Row(
            "forward",
            Said("flow_map", "trainer_wan_anyflow_onpolicy.py, `cotrain_forward_kl`", "stage 2's loss, whole"),
            "which loss goes on is the recipe's to say; without any, `check` warns",
            preset="forward.type",
        ),
        Row("forward_weight", Said(1.0, "yml `dmd_cfg.dmd_weight`", "of distribution matching")),
        Row("sampler.type", Said("flow_map", "`../pipelines/pipeline_wan_anyflow.py`:370")),
    ),
    settings=(
        Setting(
            "learning rate, betas, weight decay, of student and critic",
            "2e-6, (0, 0.999), 0",
            "yml `optim_g`, `optim_d`",
        ),
        Setting("EMA", "0.99 from step 200", "yml `train.ema_decay`, `ema_warmup_step`"),
        Setting("updates of the critic for one of the student", "1", "yml `discriminator_update_ratio`"),
        Setting("batch, steps", "32 (1.3B), 16 (14B); 1200", "names of the ymls; `total_iter`"),
    ),
    alone={"replay": _CO["replay"]},
    preset=Preset("anyflow_wan_1.3b", "on_policy"),
)

_DISCRETE = Page(
    "Paper: CTM, arXiv 2310.02279. Code: sony/ctm, commit 87cca3b, `code/cm/`. CTM on flow matching, with its loss in "
    "velocities, is ours.",
    (
        Row(
            "branches.diffusion",
            other("denoising of every sample, as a loss of its own with an adaptive weight", "script_util.py:55-60"),
            "a share of the batch in place of a second loss: no weight to tune between them",
        ),
        Row(
            "branches.consistency",
            other("none; r is even among the grid's later times, 0 with them", "script_util.py:44; resample.py:77-81"),
            "the jump to 0, which sampling in one step takes, gets a share of its own",
        ),
        Row(
            "step",
            other(
                "1 to 39 of the grid's 39 intervals in as many Heun steps, longer ones more often",
                "karras_diffusion.py:132-158; script_util.py:97",
            ),
            "one step of one length costs every sample the same, and is about the released shortest, 1/39",
        ),
        Row("solver", Said("heun", "karras_diffusion.py:490")),
        Row("shift", other("noise levels 0.002 to 80, rho 7", "script_util.py:161-163"), _WANS),
        Row("cfg_scale", Said(1.0, "karras_diffusion.py:490", "no guidance")),
    ),
    (
        Matter(
            "distance",
            "LPIPS of images",
            "script_util.py:153",
            "squared error of velocities",
            "LPIPS needs another network, and images",
        ),
        Matter(
            "adversarial loss",
            "of a StyleGAN-XL discriminator, in a second phase",
            "`../../commands/CTM+DSM+GAN_command.sh`",
            "none",
            "compared are distillation losses",
        ),
        Matter(
            "average in the target",
            "0.999, of the target alone",
            "script_util.py:149",
            "the stage's `ema`",
            "one average a run",
        ),
    ),
    (
        Setting(
            "optimiser, learning rate, weight decay",
            "RAdam, 4e-4 without GAN and 8e-6 with it, 0",
            "train_util.py:111; `../../commands/`; script_util.py:197",
        ),
        Setting("batch", "1440 without GAN, 4224 with it", "`../../commands/`"),
        Setting("EMA", "0.999", "script_util.py:149"),
    ),
)

_MEAN_FLOW = Page(
    "Paper: MeanFlow, arXiv 2505.13447. Code: Gsunshine/meanflow, commit d70cb55 (`default` is `configs/default.py`; "
    "`meanflow.py`).",
    (
        Row("velocity", Said("data", "meanflow.py:216")),
        Row("times.distribution", Said("logit_normal", "default:52"), published=quoted("logit_normal", "table 4")),
        Row("times.mean", Said(-0.4, "default:53"), published=quoted(-0.4, "table 4")),
        Row("times.std", Said(1.0, "default:54"), published=quoted(1.0, "table 4")),
        Row("branches.diffusion", Said(0.75, "default:57"), published=quoted(0.75, "table 4")),
        Row("branches.consistency", Said(0.0, "meanflow.py:147-157", "no such rows")),
        Row(
            "cfg_scale",
            Said(2.0, "default:62-63; meanflow.py:178-185", "omega 1, kappa 0.5: omega / (1 - kappa)"),
            f"{_GUIDANCE}; a mixture of the data's velocity and the student's (kappa) is not offered: w = 2 without it "
            "has the same mean",
            published=quoted(2.0, "table 4, B/2"),
        ),
        Row("drop_condition", Said(0.1, "default:58"), published=quoted(0.1, "section 4.2")),
        Row("power", Said(1.0, "default:70; meanflow.py:242"), published=quoted(1.0, "table 1e")),
        Row(
            "constant",
            Said(0.01, "default:71; meanflow.py:242"),
            "FastGen has 1e-3 for CIFAR-10 (config_mf_cifar10.py:46), as is quoted from the paper; beside a sum over "
            "the thousands of elements of an image both are nothing, but not in two dimensions",
            published=quoted(1e-3, "by re-implementations"),
        ),
        Row("tangent.method", Said("jvp", "meanflow.py:231")),
    ),
    (
        Matter(
            "loss",
            "the sum over elements, weighed",
            "meanflow.py:239-243",
            "that over their number",
            "AdamW does not see it; a clip of the gradient's norm does, and should not go by a sample's size",
        ),
        Matter(
            "which samples lose their condition",
            "the first of the batch, so mostly rows with r = t",
            "meanflow.py:191-200",
            "any",
            "every branch then learns the null alike",
        ),
    ),
    (
        Setting(
            "optimiser, learning rate, betas, weight decay",
            "AdamW, 1e-4, (0.9, 0.95), 0",
            "train.py:72-76; default:32, 44",
        ),
        Setting("EMA", "0.9999", "default:45"),
        Setting("batch, epochs of ImageNet", "256; 240 (B/4)", "default:33; configs/run_b4.yml"),
        Setting("second time of the network", "t - r beside t", "meanflow.py:227"),
    ),
    {"times.shift": "changes nothing at 1", **_UNUSED},
)

_FAMILY_SETTINGS = (
    Setting(
        "optimiser, learning rate",
        "RAdam, 1e-2 to step 35000, then falling with 1 / sqrt(step)",
        "configs/cifar10.py; common/state_utils.py",
    ),
    Setting("batch, steps, clip", "512, 400000, 1", "configs/cifar10.py"),
    Setting("EMA", "0.9999", "configs/cifar10.py, `fid_ema_factor`"),
)
_LEARNED = Matter(
    "weights",
    "exp(-w) loss + w, w(t, r) learned by a part of the network",
    "common/losses.py",
    "1",
    "no second network, as in the other objectives of the family",
)


def _family(velocity: Row, *more: Row) -> tuple[Row, ...]:
    """What self-distillation of flow maps has in all three forms."""
    return (
        velocity,
        Row("times.distribution", Said("uniform", "common/loss_args.py, `_sample_triangle`")),
        Row("branches.diffusion", Said(0.75, "configs/cifar10.py, `diag_fraction`"), _SHARES),
        Row("branches.consistency", Said(0.0, "common/loss_args.py", "no such rows"), _SHARES),
        *more,
        Row("cfg_scale", Said(1.0, "configs/cifar10.py, `use_cfg`", "no guidance")),
    )


_FAMILY_TIMES = {
    "times.mean": "of logit-normal times",
    "times.std": "of logit-normal times",
    "times.shift": "changes nothing at 1",
}

_EULERIAN = Page(
    "Papers: flow map matching, arXiv 2406.07507; self-distillation (ESD), 2505.18825; AYF, 2506.14603, of which no "
    f"code was found. Code: {_MAPS}.",
    _family(
        Row("velocity", Said("self", "common/losses.py, `esd_term`"), f'{_DISTILLED}`velocity = "self"`'),
        Row("normalize", Said(False, "common/losses.py, `esd_term`"), "AYF normalises; that is sayable"),
        Row("constant", NOTHING, "of `normalize`: 0.1 is sCM's and rCM's"),
        Row("warmup", Said(0, "common/losses.py, `esd_term`")),
        Row("tangent.method", Said("jvp", "common/losses.py, `esd_term`")),
    ),
    (
        _LEARNED,
        Matter(
            "what carries a gradient",
            "the derivative of X in its first time; the part along the velocity does not",
            "common/losses.py, `esd_term`, stopgrad `full`",
            "u alone",
            "the stop-gradient of MeanFlow, without a second derivative of the network",
        ),
    ),
    _FAMILY_SETTINGS,
    {**_FAMILY_TIMES, **_UNUSED},
)

_LAGRANGIAN = Page(
    f"Papers: flow map matching, arXiv 2406.07507; self-distillation (LSD), 2505.18825. Code: {_MAPS}.",
    _family(
        Row("velocity", Said("self", "common/losses.py, `lsd_term`"), f'{_DISTILLED}`velocity = "self"`'),
        Row("tangent.method", Said("jvp", "common/flow_map.py, `partial_t`")),
    ),
    (_LEARNED,),
    _FAMILY_SETTINGS,
    {**_FAMILY_TIMES, **_UNUSED},
)

_SEMIGROUP = Page(
    f"Paper: self-distillation (PSD), arXiv 2505.18825. Code: {_MAPS}.",
    _family(
        Row("velocity", Said("data", "common/losses.py, `diagonal_term`"), f'{_DISTILLED}`velocity = "data"`'),
        Row("middle", Said("uniform", "configs/cifar10.py, `experiments`", "midpoint in another run")),
        Row("drop_condition", Said(0.0, "configs/cifar10.py, `class_dropout`")),
    ),
    (_LEARNED,),
    _FAMILY_SETTINGS,
    _FAMILY_TIMES,
)

_SHORTCUT = Page(
    "Paper: arXiv 2410.12557. Code: kvfrans/shortcut-models, commit 6010043 (`targets` is `targets_shortcut.py`).",
    (
        Row("levels", Said(7, "train.py:54; targets:11-13", "lengths 1 to 1/64 of 128 steps")),
        Row("bootstrap", Said(0.125, "train.py:63", "one of 8")),
        Row(
            "cfg_scale",
            Said(1.5, "README.md, ImageNet-256", "of the two halves of the shortest jumps; none on CelebA"),
            f"{_GUIDANCE}; guidance here is of the rows with r = t, which the shortest jumps inherit",
        ),
        Row("drop_condition", Said(0.1, "train.py:52", "of rows with r = t; jumps keep theirs")),
    ),
    (
        Matter(
            "lengths of jumps",
            "the first rows of the batch have one length each, as many of each",
            "targets:13-14",
            "drawn, all as often",
            "a small batch then has all lengths in turn",
        ),
        Matter(
            "clipping",
            "states and targets of jumps to [-4, 4]",
            "targets:45, 71",
            "none",
            "latents of other models are not in that range",
        ),
    ),
    (
        Setting(
            "optimiser, learning rate, betas, weight decay", "AdamW, 1e-4, (0.9, 0.999), 0.1", "train.py:40-43, 152"
        ),
        Setting("EMA, also of the targets", "0.999", "train.py:56, 64"),
        Setting("batch, steps", "256, 810000 (ImageNet-256); 64, 410000 (CelebA)", "README.md"),
    ),
)

_TRANSITION = Page(
    "Paper: TiM, arXiv 2509.04394. Code: WZDTHU/TiM, commit b431859 (`yaml` is `configs/c2i/tim_xl_p2_256.yaml`; "
    "`transition` and `transports` are under `tim/schedulers/`).",
    (
        Row("times.distribution", Said("logit_normal", "transports:43-47")),
        Row("times.mean", Said(-0.4, "yaml:5", "text to image 0"), "classes; for text set 0"),
        Row("times.std", Said(1.0, "yaml:6", "text to image 1.6"), "classes; for text set 1.6"),
        Row("branches.diffusion", Said(0.5, "yaml:16")),
        Row("branches.consistency", Said(0.1, "yaml:17")),
        Row("sigma_d", Said(1.0, "yaml:7")),
        Row("interval", Said("time", "yaml:21; transition:142-143", "tan(t) - tan(r) of the time itself")),
        Row("power", Said(1.0, "transition:166-168")),
        Row("constant", Said(1e-5, "transition:166", "10e-6")),
        Row("cosine", Said(True, "projects/train/trainer_c2i.py:364, trainer_t2i.py:401", "`use_dir_loss=True`")),
        Row("direction", Said("data", "transition:121-127", "x and noise are kept, t moves")),
        Row(
            "cfg_scale",
            Said(1.0, "yaml:10", "no guidance"),
            "the guided `tim_xl_p2_256_mg.yaml` adds 0.75 (cond - null) of the averaged model to v, for t in "
            "[0.3, 0.8]: in its fixed point w = 4, without the window",
        ),
        Row("drop_condition", Said(0.1, "yaml:28")),
        Row("tangent.method", Said("central", "yaml:18", "dde")),
        Row("tangent.step", Said(0.005, "yaml:19")),
    ),
    (
        Matter(
            "alignment with another network's features",
            "weight 1",
            "yaml:43-44",
            "none",
            "needs that network; compared are distillation losses",
        ),
        Matter(
            "who gives the guidance",
            "the averaged model",
            "transition:131-139",
            "the student",
            "one way for all objectives",
        ),
    ),
    (
        Setting(
            "optimiser, learning rate, betas, eps",
            "AdamW, 1e-4 per 256 samples (text 512), (0.9, 0.95), 1e-6",
            "yaml:67-79",
        ),
        Setting("weight decay, clip", "0.01, 1", "yaml:78, 80"),
        Setting("EMA, steps", "0.9999, 750000", "yaml:47, 63"),
        Setting("second time of the network", "t - r beside t", "yaml:36"),
    ),
    {"times.shift": "changes nothing at 1", "tangent.batched": _UNUSED["tangent.batched"]},
)

_IMPROVED = dict.fromkeys(
    ("times", "mapping", "double_every", "start_stage"),
    "of schedule `improved`; its released values are those of `consistency_training`",
)
_GRID = {"points": "of schedule `grid`, see `consistency`", "shift": "of schedule `grid`, see `consistency`"}

_CONSISTENCY = Page(
    "Paper: arXiv 2303.01469. Code: openai/consistency_models, commit e32b69e (`launch` is `scripts/launch.sh`, "
    "consistency distillation on ImageNet-64; `diffusion` is `cm/karras_diffusion.py`).",
    (
        Row("schedule", Said("grid", "launch, `scale_mode fixed`; diffusion:174-186")),
        Row(
            "points",
            Said(39, "launch, `start_scales 40`; diffusion:174-186", "40 times"),
            "of another grid, see shift, so that no number is the released one; `points = 39` is as many",
        ),
        Row("shift", other("noise levels 0.002 to 80, rho 7", "diffusion:178-186"), _WANS),
        Row(
            "distance",
            other("squared error of x0, or LPIPS", "launch, `loss_norm`; diffusion:207-232"),
            "that over t^2, in which x_t drops out; LPIPS needs another network, and images",
        ),
        Row("huber_scale", NOTHING, "of distance 'pseudo_huber', which is not this paper's"),
        Row("target", Said("average", "diffusion:127-132; launch, `target_ema_mode fixed`")),
        Row("solver", Said("heun", "diffusion:196")),
        Row("cfg_scale", Said(1.0, "diffusion:138-140", "no guidance")),
    ),
    (
        Matter(
            "average in the target",
            "0.95, of the target alone",
            "launch, `start_ema`",
            "the stage's `ema`",
            "one average a run",
        ),
    ),
    (
        Setting(
            "optimiser, learning rate, weight decay",
            "RAdam, 8e-6 (ImageNet-64), 1e-5 (LSUN), 0",
            "launch; cm/train_util.py:82",
        ),
        Setting("EMA of what is sampled", "0.99994", "launch, `ema_rate`"),
        Setting("batch, steps", "2048 (ImageNet-64), 256 (LSUN); 600000", "launch"),
    ),
    _IMPROVED,
)

_CONSISTENCY_TRAINING = Page(
    "Papers: arXiv 2303.01469, improved in 2310.14189 (no code) and ECT, 2406.14548. Code: locuslab/ect, commit "
    "4311059 (`loss` is `training/loss.py`, `run` is `run_ecm.sh`, CIFAR-10).",
    (
        Row("schedule", Said("improved", "loss:45-50")),
        Row("times.distribution", Said("logit_normal", "loss:54-55", "log-normal noise levels")),
        Row("times.mean", Said(-1.1, "loss:13")),
        Row("times.std", Said(2.0, "loss:13")),
        Row("mapping", Said("noise", "loss:45-50")),
        Row("double_every", Said(25000, "run", "250 ticks of 12800 samples, batch 128")),
        Row("start_stage", Said(0, "loss:26")),
        Row("distance", Said("pseudo_huber", "loss:82-89; ct_train.py:75")),
        Row(
            "huber_scale",
            other("0, the norm itself", "ct_train.py:75"),
            "c = 0.00054 sqrt(D), which 2310.14189 is quoted with: a norm has no gradient where nothing is missing",
        ),
        Row("target", Said("student", "loss:68-73")),
        Row("drop_condition", Said(0.0, "run, `--cond=0`", "no condition")),
    ),
    (
        Matter(
            "c of the pseudo-Huber distance",
            "0; FastGen 1e-8",
            "ct_train.py:75",
            "0.00054 sqrt(D), said to be 2310.14189's (not read here)",
            "smooth where predictions meet",
        ),
        Matter(
            "least t - s",
            "none",
            "loss:37",
            "a thousandth of t, FastGen's (`callbacks/ct_schedule.py`)",
            "nearer, float32 has no digits left",
        ),
        Matter(
            "how t - s falls in 2303.01469",
            "2 to 200 intervals, the target's average with it",
            "openai/consistency_models, `scripts/launch.sh`",
            "not offered",
            "2310.14189 and ECT are its successors",
        ),
    ),
    (
        Setting("optimiser, learning rate, betas", "RAdam, 1e-4, (0.9, 0.999)", "run; ct_train.py:119"),
        Setting("EMA", "0.9999", "ct_train.py:59"),
        Setting("batch, steps, dropout", "128, 200000, 0.2", "run"),
    ),
    {**_GRID, "times.shift": "changes nothing at 1"},
)

_NO_T = "no Student's t-distribution is offered: times are those of the first stage, above t'"

_TCM = Page(
    f"Paper: arXiv 2410.14895. Code: {_FASTGEN} (`tcm` is `configs/methods/config_tcm.py`, `cm` `config_cm.py` beside "
    "it, `CM` is `methods/consistency_model/CM.py`).",
    (
        Row("schedule", Said("improved", "CM:28-33")),
        Row("times.distribution", other("log of the noise level by Student's t, 0.01 degrees", "tcm:50-51"), _NO_T),
        Row("times.mean", other("0, of Student's t", "tcm:48"), _NO_T),
        Row("times.std", other("0.2, of Student's t", "tcm:49"), _NO_T),
        Row("mapping", Said("noise", "CM:28-33", "EDM's noise levels")),
        Row(
            "double_every",
            other("1 million samples: 977 steps of 1024", "tcm:59"),
            "of no effect at stage 9, which is the last; the released comment asks for a value that leads there",
        ),
        Row(
            "start_stage",
            Said(9, "tcm:58-59; callbacks/ct_schedule.py:38-58", "goes on from the first stage, to ratio 0.999"),
        ),
        Row("distance", Said("pseudo_huber", "cm:48; CM:198-200")),
        Row("huber_scale", Said(1e-8, "cm:48", "c"), "as in `consistency_training`"),
        Row("target", Said("student", "CM:163-165")),
        Row("velocity", Said("data", "cm:46", "`use_cd` False")),
        Row("boundary", Said(0.5, "tcm:24", "noise level 1")),
        Row("boundary_share", Said(0.25, "tcm:20")),
        Row("boundary_weight", Said(0.1, "tcm:22")),
        Row("drop_condition", Said(0.0, "cm:107", "no condition")),
    ),
    settings=(
        Setting("optimiser, learning rate, weight decay", "RAdam, 5e-5, 0", "tcm:41, 47; cm:58"),
        Setting("EMA", "0.9999, 0.99995 and 0.9996", "configs/experiments/EDM/config_tcm_cifar10.py:29-33"),
        Setting(
            "batch, steps, dropout", "1024, 300000, 0.2", "configs/experiments/EDM/config_tcm_cifar10.py:35-36; tcm:39"
        ),
    ),
    alone={
        **_GRID,
        "times.shift": "changes nothing at 1",
        "solver": "of velocity `teacher`",
        "cfg_scale": "of velocity `teacher`",
    },
)

_SCM = Page(
    f"Paper: arXiv 2410.11081 (no code of its authors). Code: {_FASTGEN} (`scm` is `configs/methods/config_scm.py`, "
    "`sCM` `methods/consistency_model/sCM.py`).",
    (
        Row(
            "velocity", Said("teacher", "configs/experiments/EDM/config_scd_cifar10.py:18", "`use_cd` True; sCT False")
        ),
        Row("sigma_d", Said(0.5, "scm:39")),
        Row("mean", Said(-1.0, "scm:35")),
        Row("std", Said(1.4, "scm:36")),
        Row("warmup", Said(10000, "scm:51")),
        Row("normalize", Said(True, "sCM:271-275"), "by the norm, see below"),
        Row("ramp", Said("paper", "sCM:259-269")),
        Row(
            "bins",
            other("a learned log-variance, and the weight 1 / sigma", "sCM:277-285"),
            "the loss's own mean at such times, to which that log-variance leads, without another network",
        ),
        Row("cfg_scale", Said(1.0, "configs/config.py, `guidance_scale`", "no guidance")),
        Row("tangent.method", Said("jvp", "scm:61")),
    ),
    (
        Matter(
            "size of g in g / (size + 0.1)",
            "the root of the mean square",
            "scm:57; sCM:272-274",
            "the norm, as rCM has it",
            "the root of the mean square makes a tangent sqrt(D) times as long; FastGen agrees with ours once set to "
            "the norm",
        ),
    ),
    (
        Setting(
            "optimiser, learning rate, betas, weight decay",
            "RAdam, 1e-4, (0.9, 0.99), 0",
            "scm:110-111; configs/opt.py:58",
        ),
        Setting("EMA", "0.9999, 0.99995 and 0.9996", "configs/experiments/EDM/config_scd_cifar10.py:22-26"),
        Setting(
            "batch, steps", "512; 500000 (sCD), 350000 (sCT)", "configs/experiments/EDM/config_scd_cifar10.py:28-29"
        ),
    ),
    _UNUSED,
)

_RCM = Page(
    "Paper: arXiv 2510.08431. Code: NVlabs/rcm, commit 5b41aa9 (`config` is "
    "`rcm/configs/experiments/rcm/wan2pt1_t2v.py`, the 1.3B model; `model` is `rcm/models/t2v_model_distill_rcm.py`).",
    (
        Row("forward.type", Said("scm", "model:116")),
        Row("forward.velocity", Said("teacher", "model:519")),
        Row("forward.sigma_d", Said(1.0, "model:92")),
        Row("forward.mean", Said(0.7, "config, `p_G`", "14B 1.5")),
        Row("forward.std", Said(1.6, "config, `p_G`")),
        Row("forward.warmup", Said(1000, "config, `tangent_warmup`", "14B 0")),
        Row("forward.normalize", Said(True, "model:571")),
        Row(
            "forward.ramp",
            Said("rcm", "model:548-552"),
            "the published models were trained with the released formula; that of sCM's paper is sayable",
            published=Said("paper", "sCM's formula, as FastGen has it"),
        ),
        Row("forward.bins", Said(0, "model:573-574", "no weights")),
        Row("forward.cfg_scale", Said(5.0, "config, `teacher_guidance`"), f"{_GUIDANCE}; it follows `cfg_scale`"),
        Row("forward.tangent.method", Said("jvp", "model:99, 543", "`fd_type` 0")),
        Row("forward_weight", Said(100.0, "config, `loss_scale`, `loss_scale_dmd`", "beside 1")),
        Row("cfg_scale", Said(5.0, "config, `teacher_guidance`"), _GUIDANCE),
        Row("start", Said(None, "model:294-299, 709", "the end of the warm-up")),
        Row("most_steps", Said(4, "config, `max_simulation_steps_fake`")),
        Row("sampler.type", Said("consistency", "model:478-502")),
        Row("score_times.low", Said(0.0, "rcm/utils/timestep_utils.py, `UniformShift`")),
        Row("score_times.high", Said(1.0, "rcm/utils/timestep_utils.py, `UniformShift`")),
        Row("score_times.shift", Said(5.0, "config, `p_D`")),
        Row("score_times.limits", Said("range", "rcm/utils/timestep_utils.py, `UniformShift`", "no limits")),
        Row(
            "critic_steps",
            Said(4, "config, `student_update_freq=5`", "14B 9"),
            "steps are the student's or the critic's",
        ),
        Row("critic_sigma_d", Said(1.0, "model:693", "error of x0 over sin^2")),
        Row("score", Said("whole", "config, `net_teacher`, `net_fake_score`", "bidirectional models")),
    ),
    (
        Matter(
            "number N of a rollout's steps",
            "goes around from 1 to 4",
            "model:645, 683",
            "drawn",
            "the same frequencies, and no state: a resumed run needs none",
        ),
        Matter(
            "losses",
            "sums over elements",
            "model:573, 669, 693",
            "means",
            "the same ratio of both; a clip and a weight decay see the size",
        ),
        Matter(
            "least size by which the gradient of matching is divided",
            "1e-5",
            "model:664",
            "none; samples that are not finite add nothing",
            "as in the other objectives",
        ),
    ),
    (
        Setting(
            "learning rate of the student, of the critic",
            "2e-6, 4e-7; 14B 1e-6, 1e-7",
            "config, `optimizer`, `optimizer_fake_score`",
        ),
        Setting("betas, weight decay, clip", "(0, 0.999), 0.01, none", "config; `grad_clip=False`"),
        Setting(
            "EMA",
            "of power form, relative width 0.1",
            "rcm/configs/defaults/ema.py; model:1048-1062",
        ),
        Setting(
            "data",
            "250000 videos of the 14B teacher, 100 Euler steps, shift 3, guidance 5",
            "config, `tar_path_pattern`",
        ),
    ),
    {
        "replay": _CO["replay"],
        "forward.tangent.step": _UNUSED["tangent.step"],
        "forward.tangent.batched": _UNUSED["tangent.batched"],
    },
)

_DMD2 = Page(
    "Paper: arXiv 2405.14867, for diffusion models. Code: tianweiy/DMD2, commit 8d8fa55 (`sdxl` is the 4-step script "
    "`experiments/sdxl/sdxl_cond999_8node_lr5e-7_denoising4step_...sh`), and, on flow matching, "
    f"{_FASTGEN} (`wan` is `configs/experiments/WanT2V/config_dmd2.py`, `method` is "
    "`methods/distribution_matching/dmd2.py`).",
    (
        Row(
            "score_times.low",
            Said(0.001, "wan:29"),
            "FastGen's; DMD2's own are steps of a diffusion schedule, 2 to 98 % of them (main/train_sd.py:634)",
        ),
        Row(
            "score_times.high",
            Said(0.999, "wan:30"),
            "as low; FastGen clamps at 0.999 once more after the shift, one time in 250",
        ),
        Row("score_times.shift", Said(5.0, "wan:28; configs/config.py, `shift`")),
        Row("score_times.limits", Said("range", "networks/noise_schedule.py, `shifted`")),
        Row(
            "critic_steps",
            Said(5, "sdxl, `dfake_gen_update_ratio`", "SD1.5 10"),
            "FastGen's are 4: its student's steps are none of the critic's (method:68)",
        ),
        Row(
            "critic_sigma_d",
            Said(0.0, "method:347; methods/common_loss.py:54-57", "error of the network's own output"),
            "DMD2's EDM models have 0.5 (main/edm/edm_guidance.py:152-155); FastGen's Wan recipe the error of x0 "
            "(wan:33), which is t^2 and not offered",
        ),
        Row(
            "sampler.type",
            Said("consistency", "main/sd_unified_model.py:138-161", "backward simulation"),
            "FastGen starts from noised data, see `causvid`",
        ),
        Row("steps", Said(4, "sdxl, `num_denoising_step`; wan:37")),
        Row("shift", Said(5.0, "wan:38", "0.999, 0.937, 0.833, 0.624"), _WANS),
        Row("cfg_scale", Said(5.0, "wan:25", "SDXL 8, SD1.5 1.75"), _GUIDANCE),
        Row("score", Said("whole", "main/sd_guidance.py", "one chunk")),
        Row("forward", Said(None, "main/sd_guidance.py")),
    ),
    (
        Matter(
            "adversarial loss",
            "weight 5e-3 (SDXL), 3e-2 (FastGen, Wan)",
            "sdxl, `gen_cls_loss_weight`; wan:24",
            "none",
            "compared are distillation losses; it needs real data and a head",
        ),
        Matter(
            "times of the critic in DMD2",
            "all steps of the schedule",
            "main/sd_guidance.py:271-277",
            "as those of the scores",
            "as FastGen and Self-Forcing have it",
        ),
    ),
    (
        Setting(
            "learning rate of student and critic",
            "5e-7 (SDXL), 2e-6 (ImageNet), 1e-5 (FastGen, Wan)",
            "`experiments/`; wan:14-16",
        ),
        Setting("betas, weight decay, clip", "(0.9, 0.999), 0.01, 10", "main/train_sd.py:194-201; sdxl"),
        Setting("batch", "2 on each GPU of 8 machines (SDXL), 64 (FastGen, Wan)", "sdxl; wan:54"),
        Setting("EMA", "none", "main/train_sd.py; configs/methods/config_dmd2.py"),
    ),
    _CO,
)

_SELF_FORCING = Page(
    "Paper: arXiv 2506.08009. Code: guandeh17/Self-Forcing, commit 33593df (`yaml` is "
    "`configs/self_forcing_dmd.yaml`).",
    (
        Row("score_times.low", Said(0.02, "model/dmd.py:36")),
        Row("score_times.high", Said(0.98, "model/dmd.py:37")),
        Row("score_times.shift", Said(5.0, "yaml:15")),
        Row("score_times.limits", Said("clamp", "model/dmd.py:166-170, 280-284")),
        Row("critic_steps", Said(5, "yaml:38; trainer/distillation.py:316")),
        Row("critic_sigma_d", Said(0.0, "yaml:17; utils/loss.py:61-69", "error of the velocity")),
        Row("sampler.type", Said("consistency", "pipeline/self_forcing_training.py:145-171")),
        Row("steps", Said(4, "yaml:7-11")),
        Row("shift", Said(5.0, "yaml:12, 50-51", "1000, 750, 500, 250, warped"), _WANS),
        Row("cfg_scale", Said(4.0, "yaml:16; model/dmd.py:108-110", "3, cond + w (cond - null)"), _GUIDANCE),
        Row("score", Said("whole", "model/base.py:33, 36", "teacher and critic are not causal")),
        Row("forward", Said(None, "model/dmd.py:194")),
    ),
    settings=(
        Setting("learning rate of the student, of the critic", "2e-6, 4e-7", "yaml:25-26"),
        Setting(
            "betas, weight decay, clip",
            "(0, 0.999), 0.01, 10",
            "yaml:27-30; configs/default_config.yaml:3; trainer/distillation.py:178-179",
        ),
        Setting("EMA", "0.99 from step 200", "yaml:33-34"),
        Setting("batch", "64", "yaml:35"),
        Setting("teacher, start of the student", "Wan2.1 14B; `trajectory`", "yaml:1, 5"),
    ),
    alone=_CO,
)

_CAUSVID = Page(
    "Paper: arXiv 2412.07772. Code: tianweiy/CausVid, commit ca21150 (`yaml` is `configs/wan_causal_dmd.yaml`, `dmd` "
    "`causvid/dmd.py`).",
    (
        Row("score_times.low", Said(0.02, "dmd:88")),
        Row("score_times.high", Said(0.98, "dmd:89")),
        Row("score_times.shift", Said(8.0, "yaml:20; dmd:237-240")),
        Row("score_times.limits", Said("clamp", "dmd:237-241, 443-447")),
        Row("critic_steps", Said(5, "yaml:41")),
        Row("critic_sigma_d", Said(0.0, "yaml:25; causvid/loss.py", "error of the velocity")),
        Row(
            "steps",
            Said(3, "yaml:14-18", "1000, 757, 522, and 0, the data themselves"),
            "4 are those of the second released run, `wan_causal_dmd_warp_4step_cfg2.yaml`; nothing is learned at 0",
        ),
        Row("shift", Said(8.0, "yaml:20, 53", "1000, 757, 522; warped in the second run"), _WANS),
        Row("cfg_scale", Said(4.5, "yaml:21; dmd:180-182", "3.5, cond + w (cond - null); second run 2"), _GUIDANCE),
        Row("score", Said("whole", "yaml:23-24", "`bidirectional_video`")),
        Row("forward", Said(None, "dmd:371-404")),
    ),
    (
        Matter(
            "what a chunk sees of those before it",
            "as noised as they are",
            "dmd:341-359",
            "clean",
            "our causal models are trained by teacher forcing",
        ),
        Matter(
            "rows at time 0",
            "one in four: the data, which the student is to leave as they are",
            "dmd:321-337",
            "none",
            "they pull at nothing but the map's boundary, which holds by construction",
        ),
    ),
    (
        Setting(
            "learning rate, betas, weight decay, clip, of both",
            "2e-6, (0.9, 0.999), 0.01 (torch's), 10",
            "yaml:34-36; causvid/train_distillation.py:97-105, 124",
        ),
        Setting("EMA", "none", "causvid/train_distillation.py"),
        Setting("batch", "1 on each GPU", "yaml:38"),
        Setting("start of the student", "`trajectory`, 3000 steps", "yaml:3"),
    ),
    {"forward_weight": _CO["forward_weight"]},
)

_TRAJECTORY = Page(
    "Paper: CausVid's initialisation, arXiv 2412.07772. Code: tianweiy/CausVid, commit ca21150 (`pairs` is "
    "`causvid/models/wan/generate_ode_pairs.py`, `yaml` `configs/wan_causal_ode.yaml`).",
    (
        Row("sampler.type", Said("euler", "causvid/models/wan/flow_match.py:44-56")),
        Row("trajectory_steps", Said(50, "pairs:24"), "a multiple of `steps`, so that the grid's times are on the way"),
        Row(
            "steps",
            Said(3, "pairs:113; yaml:4-8", "points 0, 36 and 44 of 50, and the end, which has no loss"),
            "as `causvid`",
        ),
        Row("shift", Said(8.0, "pairs:23"), _WANS),
        Row("cfg_scale", Said(6.0, "pairs:41, 90-92"), _GUIDANCE),
    ),
    (
        Matter(
            "pairs",
            "made once, stored",
            "pairs; yaml:23",
            "made in each step",
            "no second store of data; a few hundred steps are what it is for",
        ),
    ),
    (
        Setting("learning rate, betas, clip", "2e-6, (0.9, 0.999), 10", "yaml:20-22; causvid/train_ode.py"),
        Setting("batch, steps", "2 on each GPU, 3000", "yaml:24; configs/wan_causal_dmd.yaml:3"),
    ),
)

PAGES: Mapping[str, Page] = {
    "flow_matching": _FLOW_MATCHING,
    "flow_map": _FLOW_MAP,
    "discrete_flow_map": _DISCRETE,
    "mean_flow": _MEAN_FLOW,
    "eulerian": _EULERIAN,
    "lagrangian": _LAGRANGIAN,
    "semigroup": _SEMIGROUP,
    "shortcut": _SHORTCUT,
    "transition": _TRANSITION,
    "consistency": _CONSISTENCY,
    "consistency_training": _CONSISTENCY_TRAINING,
    "tcm": _TCM,
    "scm": _SCM,
    "rcm": _RCM,
    "dmd2": _DMD2,
    "self_forcing": _SELF_FORCING,
    "causvid": _CAUSVID,
    "trajectory": _TRAJECTORY,
    "backward_simulation": _BACKWARD_SIMULATION,
}


def load() -> dict[str, dict[str, Any]]:
    """The defaults of every objective of this package by name, as plain tables."""
    return {
        component.name: component.config.model_validate({}).model_dump(mode="json", by_alias=True)
        for component in catalogue().components
        if component.kind == "objective" and component.distribution.startswith("flowmap ")
    }


def value_at(settings: Mapping[str, Any], path: str) -> Any:
    """The value of a dotted `path`; raises FlowmapError if there is none."""
    found: Any = settings
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            raise FlowmapError(f"'{settings['type']}' has no field {path}")
        found = found[name]
    return found


def leaves(settings: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Dotted paths to the values of an objective, but for its own type."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{name}.")
        elif f"{path}{name}" != "type":
            yield f"{path}{name}"


def missing(page: Page, settings: Mapping[str, Any]) -> list[str]:
    """The fields of an objective that have no row, and are not said to be ours alone."""
    known = [*(row.name for row in page.rows), *page.alone]
    return [leaf for leaf in leaves(settings) if not any(f"{leaf}.".startswith(f"{name}.") for name in known)]


def verdict(objective: str, page: Page, row: Row, settings: Mapping[str, Any]) -> str:
    """Whether ours is theirs, and why not; raises FlowmapError where that has no reason."""
    ours, reference = _plain(value_at(settings, row.name)), row.reference()
    told = [_plain(said.value) == ours for said in (row.released, row.published) if said not in _EMPTY]
    if not row.why and not (told and all(told)):
        raise FlowmapError(f"'{objective}', {row.name}: ours is {_text(ours)}, and no reason is given")
    if reference is not None and _plain(reference.value) == ours:
        return "same" + (f": {row.why}" if row.why else "")
    if reference is None:
        return f"not compared: {row.why}"
    if page.preset and _plain(value_at(page.preset.settings(), row.preset or row.name)) == _plain(reference.value):
        return f"same in the preset: {row.why}"
    return f"**differs**: {row.why}"


def differing(pages: Mapping[str, Page], objectives: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The fields by objective of which neither default nor preset is what they are compared with."""
    found = {
        name: [row.name for row in page.rows if verdict(name, page, row, objectives[name]).startswith("**")]
        for name, page in pages.items()
    }
    return {name: rows for name, rows in found.items() if rows}


def as_released(name: str, page: Page, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The objective's table of a recipe that says every released value which a field can say and a default does not."""
    table: dict[str, Any] = {"type": name}
    for row in page.rows:
        if row.released.value is _OTHER or _plain(value_at(settings, row.name)) == _plain(row.released.value):
            continue
        *path, last = row.name.split(".")
        here, ours = table, settings
        for part in path:
            ours = ours[part]
            # Another component is named by its type; a table of fields has none.
            here = here.setdefault(part, {"type": ours["type"]} if "type" in ours else {})
        value = row.released.value
        # Another objective inside this one is as released itself.
        inner = row.preset == f"{row.name}.type"
        here[last] = as_released(value, PAGES[value], load()[value]) if inner else value
    return table


def _inline(value: Any) -> str:
    """`value` as TOML writes it in one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_inline(each)}" for key, each in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def whole(pages: Mapping[str, Page], objectives: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page; raises FlowmapError for what differs without a reason, or is missing."""
    rows = [
        f"| [`{name}`](#{name}) | {', '.join(f'`{each}`' for each in names)} |"
        for name, names in differing(pages, objectives).items()
    ]
    summary = [
        "## Where neither a default nor a preset has the released value\n",
        *_table(("objective", "fields"), rows),
    ]
    sections = [_section(name, page, objectives[name]) for name, page in pages.items()]
    return "\n".join([HEADER, *summary, *sections])


def _section(name: str, page: Page, settings: Mapping[str, Any]) -> str:
    lost = missing(page, settings)
    if lost:
        raise FlowmapError(f"'{name}': no row for {', '.join(lost)}")
    lines = [f"## {name}\n", _wrapped(page.sources)]
    if page.preset:
        lines.append(f"Preset: stage `{page.preset.stage}` of `recipes/{page.preset.recipe}.toml`.\n")
    released = as_released(name, page, settings)
    said = f"`objective = {_inline(released)}`" if len(released) > 1 else f'`objective = "{name}"`, the defaults'
    unsaid = [row.name for row in page.rows if row.released.value is _OTHER and row.released not in _EMPTY]
    but = f"; not of {', '.join(f'`{each}`' for each in unsaid)}" if unsaid else ""
    lines.append(f"As released, as far as fields can say it: {said}{but}.\n")
    lines += _table(
        ("field", "published", "released", "ours", "why"), [_line(name, page, r, settings) for r in page.rows]
    )
    matters = [f"| {m.what} | {m.released} ({m.where}) | {m.ours} | {m.why} |" for m in page.matters]
    lines += _table(("what no field says", "released", "ours", "why"), matters)
    lines += _table(
        ("recipe's setting", "released"), [f"| {s.what} | {s.released} ({s.where}) |" for s in page.settings]
    )
    if page.alone:
        lines += ["Ours alone:\n", *(f"- `{each}`: {what}" for each, what in page.alone.items()), ""]
    return "\n".join(lines)


def _line(name: str, page: Page, row: Row, settings: Mapping[str, Any]) -> str:
    said, ours = verdict(name, page, row, settings), _text(value_at(settings, row.name))
    if said.startswith("same in the preset"):
        ours += f", preset {_text(row.released.value)}"
    return f"| `{row.name}` | {row.published.text()} | {row.released.text()} | {ours} | {said} |"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def _table(head: Sequence[str], rows: Sequence[str]) -> list[str]:
    if not rows:
        return []
    return [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *rows, ""]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    Path(__file__).with_name("objectives.md").write_text(whole(PAGES, load()))
