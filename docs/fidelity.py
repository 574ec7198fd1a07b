"""Write docs/fidelity.md, the published runs beside our recipes, field by field: `python docs/fidelity.py`.

The released values stand here, typed in from NVIDIA's code, with the place where it says so; ours are read from the
recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from flowmap.errors import FlowmapError
from flowmap.recipe.read import read
from flowmap.recipe.tables import RoleConfig

ROOT = Path(__file__).parents[1]
RECIPES = ("anyflow_wan_1.3b", "anyflow_wan_14b", "anyflow_far_1.3b", "anyflow_far_14b")
_LONGEST = 24
_ONLY = {"": "", "wan": " (bidirectional)", "far": " (FAR)"}

HEADER = """# The published runs, field by field

AnyFlow's authors have released their trainers (github.com/NVlabs/AnyFlow, commit 549236a). This page sets what they do
beside what `recipes/anyflow_*.toml` do. `python docs/fidelity.py` writes it: the released values stand in that script,
ours are read from the recipes, defaults included. It refuses a row that differs without a reason, and a test fails when
the page is out of date, or when a recipe states a field that is missing here.

That losses, rollouts and gradients of all stages are the same to 1e-5, given the same weights, noise and times, is
tested against numbers of the released code (`tests/wan/test_golden.py`, `tests/maths/test_golden.py`). This page is
about everything around them.

- One value stands for all four recipes; otherwise the size is named. Rows marked FAR are about the causal models
  alone.
- *Where* it stands in the released code: `yml` is the stage's file under `options/train/anyflow/` (`wan_teacher` is
  stage 1, `pretrain` stage 2, `onpolicy` stage 3); other files are under `far/`. `_pretrain` and `_onpolicy` are the
  trainers `trainers/trainer_wan_anyflow_*.py` and `trainer_far_wan_anyflow_*.py`.
- Times are in [0, 1] here, with 1 = noise, and times 1000 in the released code.
"""


@final
@dataclass(frozen=True)
class Sized:
    """A value that depends on the size of the model."""

    small: Any
    large: Any


@final
@dataclass(frozen=True)
class Row:
    """One matter: what the released code does at `where`, and what we do.

    Ours is the value of all `fields` of a recipe, which is to equal `terms(published)`, or the text `ours`. `note` is
    the reason where they differ, and may say more where they do not. `only` names the recipes that the row is about.
    """

    what: str
    published: Any
    where: str
    fields: tuple[str, ...] = ()
    ours: Any = None
    terms: Callable[[Any], Any] = lambda value: value
    note: str = ""
    only: Literal["", "wan", "far"] = ""

    def recipes(self) -> tuple[str, ...]:
        """The recipes that the row is about."""
        return tuple(name for name in RECIPES if f"_{self.only}" in name)

    def released(self, name: str) -> Any:
        """The published value of the run that the recipe `name` repeats."""
        if isinstance(self.published, Sized):
            return self.published.large if name.endswith("14b") else self.published.small
        return self.published

    def found(self, name: str, recipe: Mapping[str, Any]) -> Any:
        """Our value; raises FlowmapError if the row's fields have different ones, or there is no such field."""
        if not self.fields:
            return self.ours
        values = [value_at(recipe, field) for field in self.fields]
        if any(value != values[0] for value in values):
            raise FlowmapError(f"{name}: {self.what}: {', '.join(self.fields)} are {values}; give each a row")
        return values[0]

    def same(self, recipes: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether ours is the published value in every recipe of the row."""
        return all(
            _plain(self.terms(self.released(name))) == _plain(self.found(name, recipes[name]))
            for name in self.recipes()
        )


def fields(what: str, paths: Iterable[str], published: Any, where: str, **more: Any) -> Row:
    """A row about fields of the recipes."""
    return Row(what, published, where, tuple(paths), **more)


def alike(what: str, does: str, where: str, note: str = "", **more: Any) -> Row:
    """A row about what no field says and both do."""
    return Row(what, does, where, ours=does, note=note, **more)


def differs(what: str, published: str, ours: str, where: str, why: str, **more: Any) -> Row:
    """A row about what no field says and we do in another way."""
    return Row(what, published, where, ours=ours, note=why, **more)


def _of(stages: Sequence[str], *names: str) -> list[str]:
    return [f"stages.{stage}.{name}" for stage in stages for name in names]


# What stands where in the released code.
_DATASET, _READER = "`data/t2v_tar_dataset.py`", "`utils/video_util.py`"
_TEACHER, _PRETRAIN, _ONPOLICY = "`trainers/trainer_wan_teacher.py`", "`_pretrain`", "`_onpolicy`"
_LOOP, _FSDP, _SAMPLER = "`main.py`", "`utils/dist_util.py`, `fsdp2_wrap`", "`data/sampler.py`"
_SCHEDULER, _MODEL = "`schedulers/scheduling_flowmap_euler_discrete.py`", "`models/transformer_far_wan_model.py`"

# Our stages.
_FIRST_TWO = ("teacher", "forward")
_ALL = (*_FIRST_TWO, "on_policy")
_STAGE_2 = ("stages.forward.objective", "stages.on_policy.objective.forward")

_DATA = (
    fields("frames", ["data.frames"], 81, "yml `datasets.train.num_frames`"),
    fields("height", ["data.height"], 480, f"{_DATASET}, `Resize((480, 832))`"),
    fields("width", ["data.width"], 832, f"{_DATASET}, `Resize((480, 832))`"),
    fields("frames per second", ["data.fps"], 16.0, f"{_DATASET}, `target_fps=16`"),
    fields(
        "choice of frames",
        ["data.frame_choice"],
        "counted by the clip's rate",
        f"{_READER}, `select_frame_indices`",
        terms={"counted by the clip's rate": "rate"}.__getitem__,
        note="24 fps give frames 0, 2, 4, 5, 7, 8, 10 ...; slower clips come as they are, so that they move too fast",
    ),
    differs(
        "the rate that is counted by",
        "as FFmpeg prints it, two decimals; where it says none the reader divides by 0",
        "exact; a clip that says none is a fault",
        f"{_READER}, `get_fps`",
        "the first 81 frames of 23.976, 29.97, 47.95, 59.94 and 119.88 fps are the same ones",
    ),
    fields(
        "fit",
        ["data.fit"],
        "squashed, bilinear, antialiased",
        f"{_DATASET}, `Resize` of float frames",
        terms={"squashed, bilinear, antialiased": "stretch"}.__getitem__,
    ),
    differs(
        "rounding after the resize",
        "to bf16, for the VAE: up to 1/4 of a grey level",
        "to 8 bits: up to 1/2",
        f"{_DATASET}; {_PRETRAIN}, `train_step`",
        "a clip is one uint8 tensor however it was made; measured on three clips against the released reader: 0.50 of "
        "a grey level at most",
    ),
    fields("captions", ["data.caption"], "captions", f"{_DATASET}, `annotation['captions']`"),
    fields("choice of a caption", ["data.caption_choice"], "first", f"{_DATASET}, `annotation['captions'][0]`"),
    differs(
        "a blank caption",
        "trained on as it is",
        "skipped; a sample without any other is a fault",
        _DATASET,
        "a sample without a text should be drawn as such, by drop_condition",
    ),
    differs(
        "a clip that is damaged or too short",
        "loaded three times; what follows is not released",
        "named, counted, and the next one in its place, up to data.faults",
        f"{_DATASET}, `retry_load_error`",
        "one bad file of a million should not end a run, nor go unseen",
    ),
    fields(
        "share kept from training",
        ["data.held_out"],
        0.0,
        _SAMPLER,
        note="evaluation compares with clips that were not trained on; it costs 1 % of the data",
    ),
    differs(
        "order of samples",
        "each rank its own part of the data, in random order, without replacement",
        "drawn with replacement, by the address of the draw",
        f"{_SAMPLER}; yml `shuffle_chunk_size`",
        "a batch then depends neither on the number of processes nor on where a run was stopped; it costs that of N "
        "samples 63 % are seen in the first N draws",
    ),
    alike("latents", "the mode of the VAE's posterior, not a sample", f"{_PRETRAIN}, `encode_latents(sample=False)`"),
    differs(
        "precision of the VAE",
        "bf16",
        "float32",
        f"{_PRETRAIN}, `__init__`",
        "clips are encoded once, ahead of training, where time matters less than 8 bits of mantissa",
    ),
    fields("tokens of a prompt", ["backbone.text_length"], 512, f"{_PRETRAIN}, `encode_text_embedding`"),
    alike(
        "text embedding",
        "UMT5's last states, in bf16 on a GPU, 0 beyond the last token",
        f"{_PRETRAIN}, `encode_text_embedding`",
    ),
    differs(
        "cleaning of captions",
        "none in training; ftfy, HTML entities and spaces when sampling",
        "the same cleaning in both",
        f"{_PRETRAIN}, `encode_text_embedding`; `pipelines/`, `prompt_clean`",
        "a prompt should mean in sampling what it meant in training; plain ASCII with single spaces stays as it is",
    ),
    differs(
        "tokeniser",
        "transformers 4.50's slow one",
        "the default of transformers 5",
        f"{_PRETRAIN}, `use_fast=False`",
        "the same vocabulary file; the two have not been compared on real prompts",
    ),
)

_NULL = (
    fields(
        "words of the null condition",
        ["backbone.negative_prompt"],
        "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
        "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
        "杂乱的背景，三条腿，背景人很多，倒着走",
        "yml `val.sample_cfg.negative_prompt`; Wan2.1's own `sample_neg_prompt`",
    ),
    differs(
        "what stands between the words",
        "a comma and a space",
        "a comma",
        "`../scripts/extract_negative_embedding.py`",
        "the ymls and Wan's own code have full-width commas, which ftfy turns into plain ones, there and here. But "
        "training reads the null from `wan_negemb_cn.pth`, which is not in the repository; the script for such files "
        'has the same words with ", " between (and, as released, encodes the English ones). Who has the embedding can '
        "name it: `backbone.null_embedding`",
    ),
)

_NETWORK = (
    fields(
        "base weights",
        ["backbone.weights"],
        Sized(
            "experiments/pretrained_models/Wan2.1-T2V-1.3B-Diffusers",
            "experiments/pretrained_models/Wan2.1-T2V-14B-Diffusers",
        ),
        "yml `models.transformer_cfg.model_name`",
        terms=lambda folder: f"Wan-AI/{Path(folder).name}",
    ),
    fields("gate of the r-embedding", ["backbone.gate"], 0.25, "yml `models.flowmap_cfg.gate_value`"),
    alike("second time", "r itself, not t - r", "yml `models.flowmap_cfg.deltatime_type: r`"),
    alike("embedder of r", "starts as a copy of that of t", f"{_MODEL}, `setup_flowmap_model`"),
    fields("rank of adapters", ["backbone.lora.rank"], 256, "yml `lora_config.lora_rank`"),
    fields("their alpha", ["backbone.lora.alpha"], 256.0, "yml `lora_config.lora_alpha`"),
    fields(
        "adapted layers of a block",
        ["backbone.lora.layers"],
        ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ffn.net.0.proj", "ffn.net.2"),
        "yml `lora_config.target_module_name`",
    ),
    alike(
        "adapted besides",
        "the student's time_embedder and delta_embedder; nothing of teacher and critic",
        "yml `lora_config.target_module_name`",
    ),
    alike("dropout and bias of adapters", "none", f"{_PRETRAIN}, `LoraConfig`"),
    alike(
        "patches of compressed frames",
        "far_patch_embedding, trained whole, from the trilinear interpolation of patch_embedding",
        f"yml `param_names_to_optimize`; {_MODEL}, `setup_far_model`",
        "stage 1, which sees videos whole, has one here too, that no frame goes through",
        only="far",
    ),
    fields(
        "chunks",
        ["backbone.chunks"],
        (1, 3, 3, 3, 3, 3, 3, 2),
        "yml `models.transformer_cfg.far_config.chunk_partition`",
        only="far",
    ),
    fields(
        "chunks at full resolution",
        ["backbone.full_chunks"],
        3,
        "yml `models.transformer_cfg.far_config.full_chunk_limit`",
        only="far",
    ),
    fields(
        "patch of compressed frames",
        ["backbone.compressed_patch_size"],
        (1, 4, 4),
        "yml `models.transformer_cfg.far_config.compressed_patch_size`",
        only="far",
    ),
    fields(
        "share of steps over 3 to 8 chunks",
        ["backbone.long_share"],
        0.5,
        "yml `models.transformer_cfg.far_config.long_context_training_ratio`",
        only="far",
    ),
    fields(
        "share of steps given the first frame",
        ["backbone.first_frame"],
        0.0,
        "yml `models.transformer_cfg.i2v_prob`",
        only="wan",
    ),
)

_PRECISION = (
    fields(
        "gradient checkpointing",
        ["backbone.gradient_checkpointing"],
        "block",
        "yml `models.transformer_cfg.enable_gradient_checkpoint`",
    ),
    fields(
        "network calls",
        ["compute.precision"],
        "bf16",
        f"yml `mixed_precision: true`; {_FSDP}",
    ),
    alike(
        "adapters, their gradients, optimiser and average",
        "float32, cast to bf16 in calls",
        f"{_FSDP}; `utils/ema_util.py`",
        "but for the time embedders', see below",
    ),
    fields(
        "frozen base",
        ["backbone.base_precision"],
        "float32",
        f"{_FSDP}, `param_dtype`",
        note="it is cast to bf16 in every call there; holding it so gives the same numbers in half the memory",
    ),
    differs(
        "time embedders, modulation tables",
        "bf16",
        "float32",
        f"{_FSDP}, `param_dtype`; {_MODEL}, `forward_timestep`",
        "du/dt lives on small differences of times; it costs little, as there is one embedding a frame, not a token",
    ),
    differs(
        "times t and r of stage 2's loss",
        "drawn, shifted and shown to the network in bf16",
        "float32",
        f"{_PRETRAIN}, `sample_timestep(dtype=self.config.dtype)`",
        "bf16 has steps of 4/1000 above 0.512, where 97 % of the shifted t lie: x moves by 5/1000 and t by 4/1000, so "
        "that the part of du/dt in t is 0.8 of what it is",
    ),
    differs(
        "times of stage 1, scores and critic",
        "float32, but samples are noised at the time rounded to bf16",
        "float32",
        f"{_SCHEDULER}, `scale_noise`",
        "the network is told the time at which the sample was noised; there it is off by up to 4/1000",
    ),
    differs(
        "noised samples, targets, states between the calls of a rollout",
        "bf16",
        "float32",
        f"{_PRETRAIN}, `train_step`; {_SCHEDULER}",
        "no rounding adds up from call to call; they are small beside the activations of one call",
    ),
    alike(
        "squared errors",
        "float32; that of distribution matching float64",
        f"{_PRETRAIN}; {_ONPOLICY}, `generator_loss`",
    ),
)

_OPTIMISER = (
    fields(
        "steps, stages 1 and 2",
        _of(_FIRST_TWO, "steps"),
        Sized(6000, 4000),
        "yml `train.total_iter`",
        note="the released loop makes one update more, after the last checkpoint is written",
    ),
    fields("steps, stage 3", _of(["on_policy"], "steps"), 1200, "yml `train.total_iter`"),
    fields(
        "global batch",
        _of(_ALL, "batch"),
        Sized(32, 16),
        "names of the ymls (`b32`, `b16`); `batch_size_per_gpu` times GPUs",
    ),
    fields(
        "samples of a GPU at once",
        ["compute.micro_batch"],
        Sized(2, 1),
        "yml `batch_size_per_gpu`",
        note="the rest of the batch is accumulated, so that any number of GPUs trains the same; only rounding changes",
    ),
    fields("learning rate, stages 1 and 2", _of(_FIRST_TWO, "optimizer.lr"), 5e-5, "yml `train.optim_g.lr`"),
    fields("learning rate, stage 3", _of(["on_policy"], "optimizer.lr"), 2e-6, "yml `train.optim_g.lr`, `optim_d.lr`"),
    fields("betas, stages 1 and 2", _of(_FIRST_TWO, "optimizer.betas"), (0.9, 0.95), "yml `train.optim_g.betas`"),
    fields(
        "betas, stage 3",
        _of(["on_policy"], "optimizer.betas"),
        (0.0, 0.999),
        "yml `train.optim_g.betas`, `optim_d.betas`",
    ),
    fields("AdamW's eps", _of(_ALL, "optimizer.eps"), 1e-8, f"{_LOOP}, `setup_optimizer`: torch's default"),
    fields("weight decay", _of(_ALL, "optimizer.weight_decay"), 0.0, "yml `train.optim_g.weight_decay`"),
    fields("gradient clipping", _of(_ALL, "clip"), 1.0, "yml `train.max_grad_norm`"),
    fields("warm-up, stages 1 and 2", _of(_FIRST_TWO, "optimizer.warmup"), 1000, "yml `train.warmup_iter`"),
    fields("warm-up, stage 3", _of(["on_policy"], "optimizer.warmup"), 0, "yml `train.warmup_iter`"),
    fields(
        "learning rate of the first update is 0",
        _of(_FIRST_TWO, "optimizer.warmup_zero"),
        True,
        f"{_LOOP}, `get_constant_schedule_with_warmup`",
    ),
    fields("decay of the learning rate", _of(_ALL, "optimizer.decay"), 0.0, "yml `train.lr_scheduler`"),
    fields("moving average, stages 1 and 2", _of(_FIRST_TWO, "ema.decay"), 0.999, "yml `train.ema_decay`"),
    fields("its start, stages 1 and 2", _of(_FIRST_TWO, "ema.start"), 1000, "yml `train.ema_warmup_step`"),
    fields("moving average, stage 3", _of(["on_policy"], "ema.decay"), 0.99, "yml `train.ema_decay`"),
    fields("its start, stage 3", _of(["on_policy"], "ema.start"), 200, "yml `train.ema_warmup_step`"),
    alike("before its start", "the average is the weights", "`utils/ema_util.py`, `get_decay`"),
)

_STAGE_1 = (
    fields("starts from", ["stages.teacher.roles.student.from"], "base", f"{_TEACHER}, `__init__`"),
    fields("objective", ["stages.teacher.objective.type"], "flow_matching", f"{_TEACHER}, `train_bidirection`"),
    fields(
        "times", ["stages.teacher.objective.times.distribution"], "logit_normal", f"{_TEACHER}, `train_bidirection`"
    ),
    fields("mean of the logit", ["stages.teacher.objective.times.mean"], 0.0, f"{_TEACHER}, `logit_mean`"),
    fields("its deviation", ["stages.teacher.objective.times.std"], 1.0, f"{_TEACHER}, `logit_std`"),
    fields("shift", ["stages.teacher.objective.times.shift"], 5.0, "yml `models.scheduler_cfg.shift`"),
    alike("weights of the loss", "none", f"{_TEACHER}, `train_bidirection`"),
    fields(
        "text drop",
        ["stages.teacher.objective.drop_condition"],
        0.1,
        "yml `models.text_encoder_cfg.drop_text_ratio`",
    ),
    fields(
        "how it sees frames",
        ["stages.teacher.objective.view"],
        "all noised, as one chunk",
        f"{_TEACHER}, `is_causal=False`",
        terms={"all noised, as one chunk": "whole"}.__getitem__,
        note="the published FAR runs take stage 1 of the bidirectional runs",
        only="far",
    ),
)

_STAGE_2_ROWS = (
    fields("starts from", ["stages.forward.roles.student.from"], "base", f"{_PRETRAIN}, `__init__`"),
    fields(
        "objective",
        [f"{at}.type" for at in _STAGE_2],
        "flow_map",
        f"{_PRETRAIN}, `train_bidirection`, `train_causal`; {_ONPOLICY}, `cotrain_forward_kl`",
        note="stage 3 goes on with the whole of it",
    ),
    fields("velocity", [f"{at}.velocity" for at in _STAGE_2], "data", f"{_PRETRAIN}, `noise - latents`"),
    alike("times", "the larger and the smaller of two uniform numbers", f"{_PRETRAIN}, `sample_timestep`"),
    fields("shift", [f"{at}.shift" for at in _STAGE_2], 5.0, "yml `models.scheduler_cfg.shift`"),
    fields(
        "share with r = t",
        [f"{at}.branches.diffusion" for at in _STAGE_2],
        0.5,
        "yml `models.flowmap_cfg.diffusion_ratio`",
    ),
    fields(
        "share with r = 0",
        [f"{at}.branches.consistency" for at in _STAGE_2],
        0.25,
        "yml `models.flowmap_cfg.consistency_ratio`",
    ),
    differs(
        "who is in which branch",
        "the first half of the ranks r = t, the next quarter r = 0, always",
        "a random permutation of the global batch at every step",
        f"{_PRETRAIN}, `sample_timestep`",
        "tied to ranks, a clip is trained in one branch only, as each rank has its own part of the data; one GPU with "
        "a batch of 1 has no r = t sample, and its loss is NaN",
    ),
    fields(
        "weights of the loss", [f"{at}.weight" for at in _STAGE_2], "beta08", "yml `models.scheduler_cfg.weight_type`"
    ),
    fields(
        "fused guidance",
        [f"{at}.cfg_scale" for at in _STAGE_2],
        3.0,
        "yml `models.text_encoder_cfg.fuse_guidance_scale`",
    ),
    fields(
        "text drop",
        [f"{at}.drop_condition" for at in _STAGE_2],
        0.1,
        "yml `models.text_encoder_cfg.drop_text_ratio`",
        note="without it gradients are 34 to 49 % off, and the null that guidance leads away from drifts",
    ),
    fields(
        "rebalance",
        [f"{at}.rebalance" for at in _STAGE_2],
        True,
        f"{_PRETRAIN}, `scale_weight`",
    ),
    fields(
        "du/dt",
        [f"{at}.tangent.method" for at in _STAGE_2],
        "central",
        f"{_PRETRAIN}, `compute_central_difference`",
    ),
    fields(
        "its step",
        [f"{at}.tangent.step" for at in _STAGE_2],
        5,
        "yml `models.flowmap_cfg.epsilon`, of 1000",
        terms=lambda epsilon: epsilon / 1000,
        note="5 radians of Wan's fastest time feature, so `check` warns: a derivative averaged over 0.01 of time "
        "([derivatives.md](derivatives.md)); in bf16 a shorter step would be rounding",
    ),
    differs(
        "steps that leave [0, 1]",
        "are taken",
        "are cut off: the difference is one-sided",
        f"{_PRETRAIN}, `compute_central_difference`",
        "the network has never seen times beyond 0 and 1",
    ),
    differs(
        "du/dt where r = t",
        "computed, and multiplied by t - r = 0",
        "not computed",
        f"{_PRETRAIN}, `train_bidirection`, `train_causal`",
        "the same loss; it saves two calls without gradient for half of the samples",
    ),
    fields(
        "share of steps with a bidirectional part, stage 2",
        ["stages.forward.objective.bidirectional"],
        0.1,
        "yml `models.transformer_cfg.bidirectional_modeling_prob`",
        note="with the same guidance and dropped texts; unguided, its gradient is 211 % off",
        only="far",
    ),
    fields(
        "the same, stage 3",
        ["stages.on_policy.objective.forward.bidirectional"],
        0.0,
        "yml `models.transformer_cfg.bidirectional_modeling_prob`",
        only="far",
    ),
)

_STAGE_3 = (
    fields(
        "student",
        ["stages.on_policy.roles.student.from"],
        "stage 2",
        "yml `transformer_cfg.pretrained_path`",
        terms={"stage 2": "forward"}.__getitem__,
    ),
    fields(
        "teacher and critic",
        ["stages.on_policy.roles.teacher.from", "stages.on_policy.roles.critic.from"],
        "stage 1",
        "yml `real_cfg.pretrained_path`, `discriminator_cfg.pretrained_path`",
        terms={"stage 1": "teacher"}.__getitem__,
    ),
    fields(
        "which weights of these stages",
        [f"stages.on_policy.roles.{role}.weights" for role in ("student", "teacher", "critic")],
        "ema",
        "yml `pretrained_weight`",
    ),
    fields("objective", ["stages.on_policy.objective.type"], "backward_simulation", f"{_ONPOLICY}, `generator_loss`"),
    fields(
        "steps of the grid",
        ["stages.on_policy.objective.rollout_steps"],
        (2, 4, 8, 16, 50),
        "yml `models.rollout_cfg.num_inference_steps_list`",
        note="without 1 the jump from noise to data is never trained on-policy: `check` warns",
    ),
    fields(
        "calls of a rollout",
        ["stages.on_policy.objective.unroll"],
        "at most three segments",
        "`pipelines/`, `training_rollout`",
        terms={"at most three segments": "segments"}.__getitem__,
    ),
    fields("sampler of rollouts", ["stages.on_policy.objective.sampler.type"], "flow_map", "`pipelines/`, `inference`"),
    fields(
        "shift of grid and score times",
        ["stages.on_policy.objective.shift"],
        5.0,
        "yml `models.dmd_scheduler_cfg.shift`",
    ),
    fields(
        "guidance of the real score",
        ["stages.on_policy.objective.cfg_scale"],
        3.0,
        "yml `models.dmd_cfg.real_guidance_scale`",
        terms=lambda scale: scale + 1,
        note="cond + w (cond - null) there, null + w (cond - null) here",
    ),
    alike("times of the scores", "uniform on [0, 1], shifted, one a sample", f"{_ONPOLICY}, `generator_loss`"),
    fields(
        "how scores see a rollout",
        ["stages.on_policy.objective.score"],
        "all frames as one chunk",
        f"{_ONPOLICY}, `is_causal=False`",
        terms={"all frames as one chunk": "whole"}.__getitem__,
        note="`score = \"forced\"` is 15 % off in the student's gradient and 83 % in the critic's",
        only="far",
    ),
    alike(
        "frames with a gradient",
        "all 21 latent frames, none across chunks",
        "`pipelines/pipeline_far_wan_anyflow.py`, `training_rollout`",
        only="far",
    ),
    fields(
        "times of the critic",
        ["stages.on_policy.objective.critic_times.distribution"],
        "logit_normal",
        f"{_ONPOLICY}, `discriminator_loss`",
    ),
    fields("mean of the logit", ["stages.on_policy.objective.critic_times.mean"], 0.0, f"{_ONPOLICY}, `logit_mean`"),
    fields("its deviation", ["stages.on_policy.objective.critic_times.std"], 1.0, f"{_ONPOLICY}, `logit_std`"),
    fields(
        "their shift", ["stages.on_policy.objective.critic_times.shift"], 5.0, "yml `models.dmd_scheduler_cfg.shift`"
    ),
    alike(
        "order of updates",
        "student, then critic, one each, every one on a batch and a rollout of its own",
        f"{_LOOP}, `train`; yml `train.discriminator_update_ratio: 1`",
    ),
    alike(
        "samples that are rolled out",
        "all of the batch",
        "yml `models.dmd_cfg.dmd_batch_size`, as large as `batch_size_per_gpu`",
    ),
    alike("text drop in rollouts, scores and the critic's loss", "none", f"{_ONPOLICY}, `train_step`"),
    fields(
        "weight of stage 2's loss beside that of distribution matching",
        ["stages.on_policy.objective.forward_weight"],
        1.0,
        "yml `models.dmd_cfg.dmd_weight`",
        terms=lambda weight: 1 / weight,
    ),
    differs(
        "memory of finished chunks",
        "one cache, written in place; under gradient checkpointing backward reads what came later",
        "never written in place; chunks are made again in backward, one graph at a time (`replay`)",
        f"`pipelines/pipeline_far_wan_anyflow.py`, `encode_kv_cache`; {_MODEL}",
        "in the published setting their gradients are 6 to 8 % off by norm; ours are those of a graph that is kept "
        "whole, and cost each chunk's calls once more without gradient",
        only="far",
    ),
)

_RANDOMNESS = (
    differs(
        "where random numbers come from",
        "torch's, numpy's and Python's generators, seeded by manual_seed + rank",
        "Philox, by the address seed, stage, step, name, sample",
        f"{_LOOP}, `setup_seed`; yml `manual_seed: 0`",
        "a resumed run, or one on another number of GPUs, draws the same; neither run can repeat the other's numbers",
    ),
    alike(
        "drawn once for all ranks",
        "N and the fine step of a rollout, the number of chunks, the bidirectional part",
        f"{_PRETRAIN}, {_ONPOLICY}, `broadcast`",
    ),
    differs(
        "sharding",
        "FSDP2 within a machine, replicated over machines",
        "FSDP2 over all devices",
        _FSDP,
        "one way for any number of devices; only rounding changes",
    ),
)

_SAMPLING = (
    fields(
        "guidance of the student",
        ["evaluation.contests.1.cfg_scale", "evaluation.contests.2.cfg_scale"],
        1.0,
        "yml `val.sample_cfg.guidance_scale`",
        note="it is fused",
    ),
    fields(
        "network calls",
        ["evaluation.calls"],
        (4, 24),
        "yml `val.sample_cfg.num_inference_steps`; the demo takes 4",
        note="the claim is quality at any number of calls, 1 included; `flowmap sample --nfe` takes any",
    ),
    fields(
        "shift of the grid",
        [*(f"{at}.shift" for at in _STAGE_2), "stages.on_policy.objective.shift"],
        5.0,
        "yml `models.scheduler_cfg.shift`",
        note="`evaluation.shift` is left out: each stage is sampled on the grid of its training",
    ),
    fields("the teacher's sampler", ["evaluation.teacher_sampler.type"], "euler", f"{_SCHEDULER}, `step`"),
    fields(
        "its calls",
        ["evaluation.teacher_calls"],
        24,
        "yml (stage 1) `val.sample_cfg.num_inference_steps`",
        note="a reference should be nearer to the end of the teacher's trajectories than what is compared with it",
    ),
    fields(
        "its guidance",
        ["evaluation.teacher_cfg_scale", "evaluation.contests.0.cfg_scale"],
        3.0,
        "yml (stage 1) `val.sample_cfg.guidance_scale`",
        note="the reference is what stage 3 is drawn to: its real score has 4 in this convention",
    ),
    fields(
        "frames given, image-to-video",
        ["evaluation.contests.3.context"],
        1,
        "`../demo.py`; yml `datasets.sample_i2v`",
        note="video-to-video gives 25 there; 1, 13, 25 ... 73 can be given here",
        only="far",
    ),
    differs(
        "given images",
        "squashed by Pillow, 8 bits",
        "squashed as the run's clips were",
        "`data/prompt_dataset.py`; `../demo.py`",
        "one way for all frames; at most one grey level apart",
    ),
    differs(
        "measured by",
        "VBench and VBench-I2V, 5 videos a prompt",
        "sliced Wasserstein distance to the teacher's samples, 8 of them",
        "yml `val.eval_cfg`; `metrics/`",
        "it tells a broken run from a good one, without VBench's own environment and networks; to compare models, "
        "export them and run a benchmark for video",
    ),
)

SECTIONS: Mapping[str, tuple[Row, ...]] = {
    "Data": _DATA,
    "The null condition": _NULL,
    "Network": _NETWORK,
    "Precision": _PRECISION,
    "Length, optimiser, average": _OPTIMISER,
    "Stage 1: the teacher": _STAGE_1,
    "Stage 2, and its loss in stage 3": _STAGE_2_ROWS,
    "Stage 3": _STAGE_3,
    "Randomness and processes": _RANDOMNESS,
    "Sampling and evaluation": _SAMPLING,
}


def load() -> dict[str, dict[str, Any]]:
    """Our recipes by name, complete with defaults, as plain tables."""
    return {name: read(ROOT / "recipes" / f"{name}.toml")[0].model_dump(mode="json", by_alias=True) for name in RECIPES}


def value_at(recipe: Mapping[str, Any], field: str) -> Any:
    """The value of a dotted `field`; stages go by name, other lists by number. Raises FlowmapError if there is none."""
    found: Any = recipe
    names = field.split(".")
    for index, name in enumerate(names):
        if isinstance(found, list):
            by_name = {str(each.get("name", number)): each for number, each in enumerate(found)}
            found = by_name.get(name)
        elif names[index - 1] == "roles":
            found = found.get(name, RoleConfig().model_dump(mode="json", by_alias=True))
        else:
            found = found.get(name) if isinstance(found, Mapping) else None
        if found is None:
            raise FlowmapError(f"{recipe['name']} has no field {field}")
    return found


def page(sections: Mapping[str, tuple[Row, ...]], recipes: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page; raises FlowmapError for a row that differs without a reason."""
    parts = [HEADER]
    for title, rows in sections.items():
        lines = [_line(row, recipes) for row in rows]
        head = ["| what | published | ours | | where |", "| --- | --- | --- | --- | --- |"]
        parts.append("\n".join([f"## {title}\n", *head, *lines, ""]))
    return "\n".join(parts)


def _line(row: Row, recipes: Mapping[str, Mapping[str, Any]]) -> str:
    same = row.same(recipes)
    if not same and not row.note:
        raise FlowmapError(f"'{row.what}' differs, and no reason is given: {', '.join(row.fields) or row.ours}")
    names = "<br>".join(f"`{field}`" for field in row.fields)
    what = row.what + _ONLY[row.only] + (f"<br>{names}" if names else "")
    published = _cell({name: row.released(name) for name in row.recipes()})
    ours = _cell({name: row.found(name, recipes[name]) for name in row.recipes()})
    verdict = ("same" if same else "**differs**") + (f": {row.note}" if row.note else "")
    return f"| {what} | {published} | {ours} | {verdict} | {row.where} |".replace("||", "| |")


def _cell(values: Mapping[str, Any]) -> str:
    """One value for all recipes, or one for each size."""
    sizes = {size: [v for name, v in values.items() if name.endswith(size)] for size in ("1.3b", "14b")}
    if any(_plain(each) != _plain(several[0]) for several in sizes.values() for each in several):
        raise FlowmapError(f"recipes of one size have different values, and the page has no words for that: {values}")
    small, large = (several[0] for several in sizes.values())
    return _text(small) if _plain(small) == _plain(large) else f"1.3B: {_text(small)}; 14B: {_text(large)}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if len(text) < _LONGEST or " " in text or "/" in text else f"{text[:_LONGEST]}..."


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    Path(__file__).with_name("fidelity.md").write_text(page(SECTIONS, load()))
