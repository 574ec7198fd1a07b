"""Every way in which a recipe can be wrong, and the exact words that say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from flowmap.errors import FlowmapError
from flowmap.plugin import DataConfig, ObjectiveConfig, RoleSpec, SampleSpec
from flowmap.recipe.read import read

from .conftest import TINY, edited

Problem = Callable[..., str]

OBJECTIVES = (
    "backward_simulation, causvid, consistency, consistency_training, discrete_flow_map, dmd2, eulerian, flow_map, "
    "flow_matching, lagrangian, mean_flow, rcm, scm, self_forcing, semigroup, shortcut, tcm, trajectory, transition"
)
METRICS = (
    "class_accuracy, clip_score, fid, frechet, frechet_features, frechet_pixels, frechet_teacher, kid, nearest_train, "
    "precision, recall, semigroup, sliced_wasserstein"
)
RECIPE_FIELDS = "name, seeds, data, backbone, stages, evaluation, compute, checkpoints, watchdog"
STAGE_FIELDS = "name, steps, batch, objective, optimizer, ema, roles, data, clip"
FLOW_MAP_FIELDS = (
    "type, velocity, branches, shift, weight, cfg_scale, drop_condition, rebalance, bidirectional, tangent"
)
BACKBONES = (
    "causal_wan21, causal_wan22, dit, far_wan21, flux, flux2, gaussian, lumina2, mlp, pixart, qwen_image, sana, sd3, "
    "wan21, wan21_i2v, z_image"
)
DATA_SOURCES = "checkerboard, digits, gaussian, images, mnist, moving_digits, video_shards"
RULE = "use letters, digits, '.', '_' and '-', beginning with a letter or digit"

NAME = 'name = "tiny"'
DATA = '[data]\ntype = "digits"'
FLOW_MAP = '{ type = "flow_map" }'
FROM = '{ from = "teacher" }'


def flow_map(fields: str) -> tuple[str, str]:
    return FLOW_MAP, f'{{ type = "flow_map", {fields} }}'


def after(line: str, more: str) -> tuple[str, str]:
    return line, f"{line}\n{more}"


def test_the_recipe_that_these_tests_change_is_right(here: Path) -> None:
    (here / "r.toml").write_text(TINY)
    assert read(Path("r.toml"))[1] == []


UNKNOWN_COMPONENTS = {
    "objective": (
        ('"flow_matching"', '"flow_maching"'),
        f"r.toml:13: stages.teacher.objective: unknown objective 'flow_maching'; allowed: {OBJECTIVES}. "
        "Did you mean 'flow_matching'?",
    ),
    "objective in a table": (
        (FLOW_MAP, '{ type = "flowmap" }'),
        f"r.toml:19: stages.student.objective.type: unknown objective 'flowmap'; allowed: {OBJECTIVES}. "
        "Did you mean 'flow_map'?",
    ),
    "backbone": (
        ('"mlp"', '"mpl"'),
        f"r.toml:7: backbone.type: unknown backbone 'mpl'; allowed: {BACKBONES}. Did you mean 'mlp'?",
    ),
    "data": (
        ('"digits"', '"digit"'),
        f"r.toml:4: data.type: unknown data 'digit'; allowed: {DATA_SOURCES}. Did you mean 'digits'?",
    ),
    "metric": (
        ('"semigroup"', '"semi_group"'),
        f"r.toml:24: evaluation.metrics.1: unknown metric 'semi_group'; allowed: {METRICS}. Did you mean 'semigroup'?",
    ),
    "sampler": (
        ('["flow_map"]', '["flowmap"]'),
        "r.toml:28: evaluation.contests.0.samplers.0: unknown sampler 'flowmap'; "
        "allowed: consistency, dpm_solver, euler, flow_map, gamma, heun, lcm, unipc. Did you mean 'flow_map'?",
    ),
    "nothing near": (
        ('"mlp"', '"transformer"'),
        f"r.toml:7: backbone.type: unknown backbone 'transformer'; allowed: {BACKBONES}",
    ),
    "no name": (
        ('type = "mlp"', "width = 8"),
        f"r.toml:6: backbone: the field 'type' must name what it is; allowed: {BACKBONES}",
    ),
    "a name that is no text": (
        ('type = "mlp"', "type = 3"),
        f"r.toml:6: backbone: the field 'type' must name what it is; allowed: {BACKBONES}",
    ),
    "not a component": (
        (DATA, "data = 3"),
        f"r.toml:3: data: must be a name, or a table with a 'type'; allowed: {DATA_SOURCES}",
    ),
    "an array of tables": (
        (DATA, '[[data]]\ntype = "digits"'),
        f"r.toml:3: data: must be a name, or a table with a 'type'; allowed: {DATA_SOURCES}",
    ),
    "a component inside a component": (
        (FLOW_MAP, '{ type = "backward_simulation", forward = "flow_mapp" }'),
        f"r.toml:19: stages.student.objective.forward: unknown objective 'flow_mapp'; allowed: {OBJECTIVES}. "
        "Did you mean 'flow_map'?",
    ),
}

UNKNOWN_FIELDS = {
    "recipe": (
        after(NAME, "sed = [0]"),
        f"r.toml:2: sed: unknown field 'sed'; allowed: {RECIPE_FIELDS}. Did you mean 'seeds'?",
    ),
    "table": (
        ("[evaluation]", "[evalution]"),
        f"r.toml:22: evalution: unknown field 'evalution'; allowed: {RECIPE_FIELDS}. Did you mean 'evaluation'?",
    ),
    "stage": (
        ("steps", "stepz"),
        f"r.toml:11: stages.teacher.stepz: unknown field 'stepz'; allowed: {STAGE_FIELDS}. Did you mean 'steps'?",
    ),
    "objective": (
        flow_map("cfg = 2.0"),
        f"r.toml:19: stages.student.objective.cfg: unknown field 'cfg'; allowed: {FLOW_MAP_FIELDS}. "
        "Did you mean 'cfg_scale'?",
    ),
    "table in an objective": (
        flow_map("branches.diffusio = 0.5"),
        "r.toml:19: stages.student.objective.branches."
        "diffusio: unknown field 'diffusio'; allowed: diffusion, consistency. Did you mean 'diffusion'?",
    ),
    "component in an objective": (
        (FLOW_MAP, '{ type = "backward_simulation", forward = { type = "flow_map", rebalnce = false } }'),
        "r.toml:19: stages.student.objective.forward.rebalnce: unknown field 'rebalnce'; "
        f"allowed: {FLOW_MAP_FIELDS}. Did you mean 'rebalance'?",
    ),
    "role's field": (
        (FROM, '{ form = "teacher" }'),
        "r.toml:20: stages.student.roles.student.form: unknown field "
        "'form'; allowed: from, weights, optimizer. Did you mean 'from'?",
    ),
    "python's name of a field": (
        (FROM, '{ from_ = "teacher" }'),
        "r.toml:20: stages.student.roles.student.from_: "
        "unknown field 'from_'; allowed: from, weights, optimizer. Did you mean 'from'?",
    ),
    "optimizer": (
        after("batch = 8", "optimizer = { learning_rate = 1e-3 }"),
        "r.toml:13: stages.teacher.optimizer.learning_rate: unknown field 'learning_rate'; "
        "allowed: lr, betas, eps, weight_decay, warmup, warmup_zero, decay",
    ),
    "ema": (
        after("batch = 8", "ema.decai = 0.9"),
        "r.toml:13: stages.teacher.ema.decai: unknown field 'decai'; allowed: decay, start. Did you mean 'decay'?",
    ),
    "contest": (
        after('stage = "student"', 'weight = "raw"'),
        "r.toml:28: evaluation.contests.0.weight: unknown field "
        "'weight'; allowed: stage, samplers, weights, against, context, cfg_scale. Did you mean 'weights'?",
    ),
    "metric": (
        ('"semigroup"', '{ type = "semigroup", space = "pixels" }'),
        "r.toml:24: evaluation.metrics.1.space: unknown field 'space'; allowed: type",
    ),
}

WRONG_VALUES = {
    "whole number": (
        ("steps = 10", 'steps = "ten"'),
        "r.toml:11: stages.teacher.steps: must be a whole number, not 'ten'",
    ),
    "a number in quotes": (
        ("steps = 10", 'steps = "10"'),
        "r.toml:11: stages.teacher.steps: must be a whole number, not '10'",
    ),
    "part of a step": (
        ("steps = 10", "steps = 10.5"),
        "r.toml:11: stages.teacher.steps: must be a whole number, not 10.5",
    ),
    "true as a number": (
        ("steps = 10", "steps = true"),
        "r.toml:11: stages.teacher.steps: must be a whole number, not true",
    ),
    "array as a number": (
        ("steps = 10", "steps = [10]"),
        "r.toml:11: stages.teacher.steps: must be a whole number, not an array",
    ),
    "number": (flow_map('shift = "wan"'), "r.toml:19: stages.student.objective.shift: must be a number, not 'wan'"),
    "finite number": (
        flow_map("shift = inf"),
        "r.toml:19: stages.student.objective.shift: must be a finite number, not inf",
    ),
    "true or false": (
        flow_map("rebalance = 1"),
        "r.toml:19: stages.student.objective.rebalance: must be true or false, not 1",
    ),
    "text": (('name = "teacher"', "name = 3"), "r.toml:10: stages.0.name: must be text, not 3"),
    "date": (('name = "teacher"', "name = 2024-02-03"), "r.toml:10: stages.0.name: must be text, not 2024-02-03"),
    "array": (after(NAME, "seeds = 3"), "r.toml:2: seeds: must be an array, not 3; write [3]"),
    "array of names": (
        ('["flow_map"]', '"flow_map"'),
        "r.toml:28: evaluation.contests.0.samplers: must be an array, not 'flow_map'; write ['flow_map']",
    ),
    "table for an array": (
        (TINY[TINY.index("[[evaluation") :], '[evaluation.contests]\nstage = "student"'),
        "r.toml:26: evaluation.contests: must be an array, not a table",
    ),
    "table": (flow_map("tangent = 3"), "r.toml:19: stages.student.objective.tangent: must be a table, not 3"),
    "role": ((FROM, '"teacher"'), "r.toml:20: stages.student.roles.student: must be a table, not 'teacher'"),
    "element": (after(NAME, 'seeds = [\n  0, # zero\n  "a",\n]'), "r.toml:4: seeds.1: must be a whole number, not 'a'"),
    "long value": (
        ("steps = 10", f"steps = '{'x' * 99}'"),
        f"r.toml:11: stages.teacher.steps: must be a whole number, not '{'x' * 56}...",
    ),
    "above": (("steps = 10", "steps = 0"), "r.toml:11: stages.teacher.steps: must be above 0, not 0"),
    "at least": (
        flow_map("cfg_scale = 0.5"),
        "r.toml:19: stages.student.objective.cfg_scale: must be at least 1, not 0.5",
    ),
    "below": (after("batch = 8", "ema = { decay = 1 }"), "r.toml:13: stages.teacher.ema.decay: must be below 1, not 1"),
    "at most": (
        flow_map("tangent = { step = 0.2 }"),
        "r.toml:19: stages.student.objective.tangent.step: must be at most 0.1, not 0.2",
    ),
    "element out of bounds": (
        after("batch = 8", "optimizer.betas = [0.9, 1.0]"),
        "r.toml:13: stages.teacher.optimizer.betas.1: must be below 1, not 1.0",
    ),
    "empty array": (after(NAME, "seeds = []"), "r.toml:2: seeds: must not be empty"),
    "array too short": (
        after("batch = 8", "optimizer.betas = [0.9]"),
        "r.toml:13: stages.teacher.optimizer.betas: must have 2 elements, not 1",
    ),
    "nothing in an array of two": (
        after("batch = 8", "optimizer.betas = []"),
        "r.toml:13: stages.teacher.optimizer.betas: must have 2 elements, not 0",
    ),
    "array too long": (
        after("batch = 8", "optimizer.betas = [0.9, 0.9, 0.9]"),
        "r.toml:13: stages.teacher.optimizer.betas: must have at most 2 elements, not 3",
    ),
    "word": (
        flow_map('tangent.method = "centrl"'),
        "r.toml:19: stages.student.objective.tangent.method: 'centrl' is "
        "not allowed; allowed: central, jvp. Did you mean 'central'?",
    ),
    "word with nothing near": (
        flow_map('velocity = "both"'),
        "r.toml:19: stages.student.objective.velocity: 'both' is not allowed; allowed: data, teacher",
    ),
    "number for a word": (
        flow_map("velocity = 3"),
        "r.toml:19: stages.student.objective.velocity: 3 is not allowed; allowed: data, teacher",
    ),
    "word in an array": (
        ("[evaluation]", '[compute]\ntrackers = ["wandb"]\n\n[evaluation]'),
        "r.toml:23: compute.trackers.0: 'wandb' is not allowed; allowed: tensorboard",
    ),
    "run's name": ((NAME, 'name = "a/b"'), f"r.toml:1: name: 'a/b' is not a name; {RULE}"),
    "stage's name": (
        ('name = "teacher"', 'name = "my teacher"'),
        f"r.toml:10: stages.my teacher.name: 'my teacher' is not a name; {RULE}",
    ),
    "missing field": (("steps = 10\n", ""), "r.toml:9: stages.teacher.steps: this field is required"),
    "missing table": ((DATA, ""), "r.toml:1: data: this field is required"),
    "missing in a table": (('teacher = "teacher"', ""), "r.toml:22: evaluation.teacher: this field is required"),
    "branches": (
        flow_map("branches = { diffusion = 0.8, consistency = 0.3 }"),
        "r.toml:19: stages.student.objective.branches: diffusion + consistency is 1.1; it must not exceed 1",
    ),
    "mixture": (
        (DATA, '[data]\ntype = "gaussian"\nmixture.means = [0, 1]'),
        "r.toml:5: data.mixture: means, stds and weights must have the same length",
    ),
}

CONTRADICTIONS = {
    "data of another kind, of a stage": (
        after('objective = "flow_matching"', 'data = "checkerboard"'),
        "r.toml:14: stages.teacher.data: samples of 'checkerboard' are not of the same kind as the recipe's data",
    ),
    "data of another kind, of the evaluation": (
        after('teacher = "teacher"', 'data = { type = "digits", conditional = true }'),
        "r.toml:24: evaluation.data: samples of 'digits' are not of the same kind as the recipe's data",
    ),
    "seed twice": (
        after(NAME, "seeds = [1, 1]"),
        "r.toml:2: seeds: a seed is listed twice; every seed is one training run",
    ),
    "stage twice": (
        ('name = "student"', 'name = "teacher"'),
        ('stage = "student"', 'stage = "teacher"'),
        "r.toml:16: stages.teacher.name: two stages are called 'teacher'; give each its own name",
    ),
    # Whom a name means that two have cannot be said: neither of the contest nor of the role is anything told.
    "stage twice, and what names it": (
        ('name = "student"', 'name = "teacher"'),
        ('roles.student = { from = "teacher" }', 'roles.student = { from = "student" }'),
        "r.toml:16: stages.teacher.name: two stages are called 'teacher'; give each its own name",
    ),
    "reserved name": (
        ('name = "student"', 'name = "base"'),
        ('stage = "student"', 'stage = "base"'),
        "r.toml:16: stages.base.name: 'base' has a meaning of its own; choose another name\n"
        "r.toml:27: evaluation.contests.0.stage: the base weights of this backbone are random; name a stage, or "
        "weights, with a '/' in them",
    ),
    "the name of a seed's folder": (
        ('name = "student"', 'name = "seed-0"'),
        ('stage = "student"', 'stage = "seed-0"'),
        "r.toml:16: stages.seed-0.name: 'seed-0' has a meaning of its own; choose another name",
    ),
    "dot in a stage's name": (
        ('name = "student"', 'name = "v1.5"'),
        ('stage = "student"', 'stage = "v1.5"'),
        "r.toml:16: stages.v1.5.name: a stage's name has no '.', which stands between fields in --set",
    ),
    "role from a later stage": (
        after('objective = "flow_matching"', 'roles.student.from = "student"'),
        "r.toml:14: "
        "stages.teacher.roles.student.from: stage 'student' does not come before 'teacher'; move it up, or start from "
        "base",
    ),
    "role from its own stage": (
        (FROM, '{ from = "student" }'),
        "r.toml:20: stages.student.roles.student.from: stage "
        "'student' does not come before 'student'; move it up, or start from base or teacher",
    ),
    "role from no stage": (
        (FROM, '{ from = "teachr" }'),
        "r.toml:20: stages.student.roles.student.from: unknown stage "
        "'teachr'; allowed: base, teacher. Did you mean 'teacher'?",
    ),
    "role the objective has not": (
        ("roles.student", "roles.studnt"),
        "r.toml:20: stages.student.roles.studnt: unknown role 'studnt'; allowed: student. Did you mean 'student'?",
    ),
    "optimizer of a frozen role": (
        (FLOW_MAP, '"consistency"\nroles.teacher = { from = "teacher", optimizer = { lr = 1e-3 } }'),
        "r.toml:20: stages.student.roles.teacher.optimizer: role 'teacher' is frozen; it takes no optimizer",
    ),
    "velocity from a flow map": (
        (
            "[evaluation]",
            '[[stages]]\nname = "third"\nsteps = 1\nbatch = 8\nobjective = "consistency"\n'
            'roles.teacher = { from = "student" }\n\n[evaluation]',
        ),
        "r.toml:27: stages.third.roles.teacher.from: role 'teacher' is a single-time velocity, but stage 'student' "
        "trains a two-time flow map",
    ),
    "rebalance deadlock": (
        flow_map('velocity = "teacher", rebalance = true'),
        "r.toml:19: stages.student.objective."
        "rebalance: rebalance with velocity = 'teacher' deadlocks: the student starts equal to the teacher at r = t, "
        "so the r = t loss is 0, every other loss is scaled to it, and nothing moves; set rebalance = false",
    ),
    "no diffusion sample": (
        flow_map("branches.diffusion = 0.1"),
        "r.toml:19: stages.student.objective.branches."
        "diffusion: a global batch of 8 with a diffusion share of 0.1 can have no r = t sample, and rebalancing needs "
        "one; raise the stage's batch or the share, or set rebalance = false",
    ),
    "guidance without a condition": (
        flow_map("cfg_scale = 3.0"),
        "r.toml:19: stages.student.objective.cfg_scale: guidance needs a condition, and these data have none; use 1",
    ),
    "guidance inside": (
        (FLOW_MAP, '{ type = "backward_simulation", forward = { type = "flow_map", cfg_scale = 2.0 } }'),
        "r.toml:19: stages.student.objective.forward.cfg_scale: guidance needs a condition, and these data have none; "
        "use 1",
    ),
    "rollout of no step": (
        (FLOW_MAP, '{ type = "backward_simulation", forward = "flow_map", rollout_steps = [0, 1] }'),
        "r.toml:19: stages.student.objective.rollout_steps.0: must be above 0, not 0",
    ),
    "rollout with a velocity sampler": (
        (FLOW_MAP, '{ type = "backward_simulation", forward = "flow_map", sampler = "euler" }'),
        "r.toml:19: stages.student.objective.sampler: the student is a flow map; 'euler' samples a velocity",
    ),
    "co-training a velocity": (
        (FLOW_MAP, '{ type = "backward_simulation", forward = "flow_matching" }'),
        "r.toml:19: "
        "stages.student.objective.forward: 'flow_matching' cannot be co-trained: it must train the student's flow map "
        "and nothing else",
    ),
    "reference stage": (
        ('teacher = "teacher"', 'teacher = "teachr"'),
        "r.toml:23: evaluation.teacher: unknown stage 'teachr'; allowed: teacher, student. Did you mean 'teacher'?",
    ),
    "reference sampler": (
        after('teacher = "teacher"', 'teacher_sampler = "flow_map"'),
        "r.toml:24: evaluation."
        "teacher_sampler: sampler 'flow_map' needs a flow map, but stage 'teacher' trains a velocity; use a velocity "
        "sampler such as euler or heun",
    ),
    "reference calls": (
        after('teacher = "teacher"', "teacher_calls = 3"),
        "r.toml:24: evaluation.teacher_calls: 'heun' takes 2 calls a step; give a multiple of it",
    ),
    "no call": (
        after('teacher = "teacher"', "calls = [1, 0]"),
        "r.toml:24: evaluation.calls.1: must be above 0, not 0",
    ),
    "metric twice": (
        ('"frechet_pixels", "semigroup"', '"semigroup", "semigroup"'),
        "r.toml:24: evaluation.metrics.1: metric 'semigroup' is listed twice",
    ),
    "metric without labels": (
        ('type = "digits"', 'type = "checkerboard"'),
        ('"frechet_pixels"', '"frechet_features"'),
        "r.toml:24: evaluation.metrics.0.type: classifier features need labelled data, and these have no labels",
    ),
    "metric's space without labels": (
        ('type = "digits"', 'type = "checkerboard"'),
        ('"frechet_pixels"', '{ type = "frechet_teacher", space = "features" }'),
        "r.toml:24: evaluation.metrics.0.space: classifier features need labelled data, and these have no labels",
    ),
    "contest on no stage": (
        ('stage = "student"', 'stage = "studet"'),
        "r.toml:27: evaluation.contests.0.stage: unknown "
        "stage 'studet'; allowed: teacher, student. Did you mean 'student'?",
    ),
    "map sampler on a velocity": (
        ('stage = "student"', 'stage = "teacher"'),
        "r.toml:28: evaluation.contests.0."
        "samplers.0: sampler 'flow_map' needs a flow map, but stage 'teacher' trains a velocity; use a velocity "
        "sampler such as euler or heun",
    ),
    "no sampler of a stage": (
        ('samplers = ["flow_map"]', "samplers = []"),
        "r.toml:28: evaluation.contests.0.samplers: how its samples are drawn is said here, such as ['flow_map']; "
        "weights from outside bring a sampler",
    ),
    "contest twice": (
        ('["flow_map"]', '["flow_map", "flow_map"]'),
        "r.toml:28: evaluation.contests.0.samplers.1: 'flow_map' on stage 'student' is listed twice",
    ),
    "a control that no contest measures": (
        ('stage = "student"', 'against = "teacher"\nstage = "student"'),
        "r.toml:27: evaluation.contests.0.against: no contest measures stage 'teacher'; add one with the same samplers",
    ),
    "an unknown control": (
        ('stage = "student"', 'against = "techer"\nstage = "student"'),
        after('["flow_map"]', '[[evaluation.contests]]\nstage = "teacher"\nsamplers = ["euler"]'),
        "r.toml:27: evaluation.contests.0.against: unknown stage 'techer'; allowed: teacher. Did you mean 'teacher'?",
    ),
    "its own control": (
        ('stage = "student"', 'against = "student"\nstage = "student"'),
        "r.toml:27: evaluation.contests.0.against: stage 'student' is not its own control; name the stage of another "
        "contest",
    ),
    "a control under another sampler": (
        ('stage = "student"', 'against = "teacher"\nstage = "student"'),
        after('["flow_map"]', '[[evaluation.contests]]\nstage = "teacher"\nsamplers = ["euler"]'),
        "r.toml:27: evaluation.contests.0.against: nothing is measured alike: give the contests of 'student' and "
        "'teacher' a sampler in common, with the same weights, context and cfg_scale",
    ),
    "a control with other weights": (
        ('stage = "student"', 'against = "teacher"\nstage = "student"'),
        (
            '["flow_map"]',
            '["euler"]\n[[evaluation.contests]]\nstage = "teacher"\nsamplers = ["euler"]\nweights = "raw"',
        ),
        "r.toml:27: evaluation.contests.0.against: nothing is measured alike: give the contests of 'student' and "
        "'teacher' a sampler in common, with the same weights, context and cfg_scale",
    ),
    "a guided map": (
        ('stage = "student"', 'cfg_scale = 2.0\nstage = "student"'),
        "r.toml:27: evaluation.contests.0.cfg_scale: 'flow_map' follows the flow map, which has its guidance in it; "
        "use 1",
    ),
    "a guided teacher of data without a condition": (
        after('teacher = "teacher"', "teacher_cfg_scale = 2.0"),
        "r.toml:24: evaluation.teacher_cfg_scale: guidance needs a condition, and these data have none; use 1",
    ),
    "a guided contest on data without a condition": (
        ('stage = "student"', 'cfg_scale = 2.0\nstage = "student"'),
        ('["flow_map"]', '["euler"]'),
        "r.toml:27: evaluation.contests.0.cfg_scale: guidance needs a condition, and these data have none; use 1",
    ),
    "frames for images": (
        ('stage = "student"', 'context = 1\nstage = "student"'),
        "r.toml:27: evaluation.contests.0.context: this backbone generates whole samples; no frames can be given to it",
    ),
}

TEACHER_TOO = ('roles.student = { from = "teacher" }', 'roles = { student.from = "teacher", teacher.from = "teacher" }')

WARNINGS = {
    "rollout without one step": (
        TEACHER_TOO,
        (FLOW_MAP, '{ type = "backward_simulation", forward = "flow_map", rollout_steps = [2, 4] }'),
        "r.toml:19: stages.student.objective.rollout_steps: warning: without 1 the jump from noise to data is never "
        "trained on-policy; expect poor one-step samples",
    ),
    "no forward objective": (
        TEACHER_TOO,
        (FLOW_MAP, '"backward_simulation"'),
        "r.toml:19: stages.student.objective.forward: warning: without a forward objective, distribution matching is "
        "known to ruin sampling in many steps",
    ),
    "sampler that fits no call count": (
        after('teacher = "teacher"', "calls = [1, 3]"),
        ('["flow_map"]', '["flow_map", "heun"]'),
        "r.toml:29: evaluation.contests.0.samplers.1: warning: 'heun' takes 2 calls a step; none of 'calls' fits, "
        "so it is not measured",
    ),
    "nothing to drop": (
        ('"flow_matching"', '{ type = "flow_matching", drop_condition = 0.1 }'),
        "r.toml:13: stages.teacher.objective.drop_condition: warning: has no effect: these data have no condition",
    ),
}

EVERY = {
    **UNKNOWN_COMPONENTS,
    **{f"unknown field: {k}": v for k, v in UNKNOWN_FIELDS.items()},
    **WRONG_VALUES,
    **CONTRADICTIONS,
}


@pytest.mark.parametrize("scale", ["0.5", "-1", "true", '"4"', "[]", "{}"])
def test_a_wrong_guidance_of_rcm_is_told_once(scale: str, problem: Problem) -> None:
    """Its consistency objective has the same one unless it says otherwise."""
    told = problem(edited(TEACHER_TOO, (FLOW_MAP, f'{{ type = "rcm", cfg_scale = {scale} }}')))
    assert [line for line in told.splitlines() if "cfg_scale" in line] == [told]
    assert "forward" not in told


def test_a_guidance_of_rcm_that_the_data_have_no_use_for_is_told_once(problem: Problem) -> None:
    told = problem(edited(TEACHER_TOO, ('"digits"', '"checkerboard"'), (FLOW_MAP, '{ type = "rcm", cfg_scale = 4.0 }')))
    assert [line.split(": ")[1] for line in told.splitlines() if "cfg_scale" in line] == [
        "stages.student.objective.cfg_scale"
    ]


@pytest.mark.parametrize("case", EVERY.values(), ids=EVERY.keys())
def test_error(case: tuple[Any, ...], problem: Problem) -> None:
    *changes, message = case
    assert problem(edited(*changes)) == message


@pytest.mark.parametrize("case", WARNINGS.values(), ids=WARNINGS.keys())
def test_warning(case: tuple[Any, ...], here: Path) -> None:
    *changes, message = case
    (here / "r.toml").write_text(edited(*changes))
    assert read(Path("r.toml"))[1] == [message]


def test_warnings_are_not_told_of_a_recipe_that_is_refused(problem: Problem) -> None:
    text = edited(WARNINGS["nothing to drop"][0], after(NAME, "seeds = [1, 1]"))
    assert problem(text) == "r.toml:2: seeds: a seed is listed twice; every seed is one training run"


SYNTAX = {
    "no value": (("steps = 10", "steps ="), "r.toml:11: invalid TOML: invalid value (column 8)"),
    "no quote": (('"tiny"', '"tiny'), "r.toml:1: invalid TOML: illegal character '\\n' (column 13)"),
    "table twice": (("[backbone]", "[data]"), "r.toml:6: invalid TOML: cannot declare 'data' twice (column 6)"),
    "nested table twice": (
        (TINY, "[a.b]\n[a.b]\n"),
        "r.toml:2: invalid TOML: cannot declare 'a.b' twice (column 5)",
    ),
    "field twice": (("batch = 8", "steps = 8"), "r.toml:12: invalid TOML: cannot overwrite a value (column 10)"),
    "no end": (
        (TINY, 'name = "tiny"\nseeds = [1,\n'),
        "r.toml:2: invalid TOML: invalid value (column the end)",
    ),
}


@pytest.mark.parametrize("case", SYNTAX.values(), ids=SYNTAX.keys())
def test_what_is_not_toml(case: tuple[tuple[str, str], str], problem: Problem) -> None:
    change, message = case
    assert problem(edited(change)) == message


def refusal(path: str) -> str:
    with pytest.raises(FlowmapError) as caught:
        read(Path(path))
    return str(caught.value)


def test_missing_file(here: Path) -> None:
    assert refusal("recipes/quick.toml") == "recipes/quick.toml: there is no such recipe"
    (here / "recipes").mkdir()
    for name in ("quickstart.toml", "ablation.toml", "notes.md"):
        (here / "recipes" / name).touch()
    there = "there is no such recipe; recipes/ has: ablation.toml, quickstart.toml"
    assert refusal("recipes/quick.toml") == f"recipes/quick.toml: {there}. Did you mean 'recipes/quickstart.toml'?"
    assert refusal("nowhere/xyz") == f"nowhere/xyz: {there}"


def test_folder(here: Path) -> None:
    (here / "recipes").mkdir()
    assert refusal("recipes") == "recipes: is a folder, not a recipe"
    (here / "recipes" / "quickstart.toml").touch()
    assert refusal("recipes") == "recipes: is a folder, not a recipe; recipes/ has: quickstart.toml"


def test_a_path_through_a_file(here: Path) -> None:
    (here / "a").touch()
    assert refusal("a/b.toml") == "a/b.toml: cannot be read: Not a directory"


def test_not_utf8(here: Path) -> None:
    (here / "r.toml").write_bytes('name = "é"'.encode("latin-1"))
    assert refusal("r.toml") == "r.toml: is not UTF-8 text (byte 9)"


@pytest.mark.parametrize("text", ["", "\n# nothing yet\n"])
def test_empty(text: str, problem: Problem) -> None:
    assert problem(text) == "r.toml: nothing is set; a recipe has at least name, data, backbone, and mostly stages"


def test_all_problems_are_told_in_the_order_of_the_file(problem: Problem) -> None:
    text = edited(
        ('"mlp"', '"mlp"\nwidth = 1\ndepth = "3"'),
        ("steps = 10\nbatch = 8\nobjective = {", "steps = 0\nobjective = {"),
        ('"semigroup"', '"semigrup"'),
    )
    assert problem(text).splitlines() == [
        "r.toml:8: backbone.width: must be at least 8, not 1",
        "r.toml:9: backbone.depth: must be a whole number, not '3'",
        "r.toml:17: stages.student.batch: this field is required",
        "r.toml:19: stages.student.steps: must be above 0, not 0",
        f"r.toml:25: evaluation.metrics.1: unknown metric 'semigrup'; allowed: {METRICS}. Did you mean 'semigroup'?",
    ]


def test_all_contradictions_are_told_in_the_order_of_the_file(problem: Problem) -> None:
    text = edited(
        after('teacher = "teacher"', 'data = "checkerboard"\nteacher_calls = 3'),
        flow_map("cfg_scale = 2.0"),
        ("[backbone]", "[checkpoints]\n\n[backbone]"),
        after(NAME, "seeds = [0, 0]"),
    )
    assert [line.split(": ")[0] for line in problem(text).splitlines()] == [
        "r.toml:2",
        "r.toml:22",
        "r.toml:27",
        "r.toml:28",
    ]


def test_lines_in_every_way_of_writing(problem: Problem) -> None:
    text = """\
# A comment, [not.a.table]
name = "tiny"   # and another
data.type = "digits"
"backbone".type = "mlp"
'backbone'.width = 1

[["stages"]]
name = "one"
steps = 10
batch = 8
objective = { type = "flow_matching", times = { std = 0 } }

  [stages.optimizer]  # of stage one
  betas = [
    0.9,  # first
    2.0,
  ]

[[stages]]
name = "two"
steps = 10
batch = -8
[stages.objective]
type = "flow_map"
branches.diffusion = 0.5
branches.consistency = -0.5
[stages.roles.student]
from = "one"
optimizer.lr = 0
"""
    expected = [
        "r.toml:5: backbone.width: must be at least 8, not 1",
        "r.toml:11: stages.one.objective.times.std: must be at least 0.001, not 0",
        "r.toml:16: stages.one.optimizer.betas.1: must be below 1, not 2.0",
        "r.toml:22: stages.two.batch: must be above 0, not -8",
        "r.toml:26: stages.two.objective.branches.consistency: must be at least 0, not -0.5",
        "r.toml:29: stages.two.roles.student.optimizer.lr: must be at least 1e-12, not 0",
    ]
    assert problem(text).splitlines() == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lines_of_a_file_from_windows(encoding: str, here: Path) -> None:
    text = edited(("steps = 10", "steps = 0")).replace("\n", "\r\n")
    (here / "r.toml").write_bytes(text.encode(encoding))
    assert refusal("r.toml") == "r.toml:11: stages.teacher.steps: must be above 0, not 0"


SETTINGS = {
    "no value": ("steps", "--set steps: must look like field.of.the.recipe=value"),
    "no field": ("=3", "--set =3: must look like field.of.the.recipe=value"),
    "nothing between dots": ("stages..steps=3", "--set stages..steps=3: must look like field.of.the.recipe=value"),
    "unknown stage": (
        "stages.teachr.steps=3",
        "--set stages.teachr.steps=3: unknown element 'teachr'; allowed: teacher, student. Did you mean 'teacher'?",
    ),
    "beyond the end": (
        "evaluation.metrics.2=semigroup",
        "--set evaluation.metrics.2=semigroup: unknown element '2'; allowed: frechet_pixels, semigroup",
    ),
    "field of a number": (
        "stages.teacher.steps.x=3",
        "--set stages.teacher.steps.x=3: 'stages.teacher.steps' is a single value; it has no field 'x'",
    ),
    "field of a field of a number": (
        "stages.teacher.steps.x.y=3",
        "--set stages.teacher.steps.x.y=3: 'x' is asked of a single value; it has no fields",
    ),
    "field of text": ("name.x.y=3", "--set name.x.y=3: name: must be text, not a table"),
    "unknown field": (
        "stages.teacher.step=3",
        "--set stages.teacher.step=3: stages.teacher.step: unknown field 'step'; "
        f"allowed: {STAGE_FIELDS}. Did you mean 'steps'?",
    ),
    "unknown table": (
        "evalution.samples=3",
        f"--set evalution.samples=3: evalution: unknown field 'evalution'; allowed: {RECIPE_FIELDS}. "
        "Did you mean 'evaluation'?",
    ),
    "wrong type": (
        "stages.teacher.steps=many",
        "--set stages.teacher.steps=many: stages.teacher.steps: must be a whole number, not 'many'",
    ),
    "nothing": (
        "stages.teacher.steps=",
        "--set stages.teacher.steps=: stages.teacher.steps: must be a whole number, not ''",
    ),
    "sum over 1": (
        "stages.student.objective.branches={diffusion=0.9}",
        "--set stages.student.objective.branches={diffusion=0.9}: stages.student.objective.branches: "
        "diffusion + consistency is 1.15; it must not exceed 1",
    ),
    "one of a sum over 1": (
        "stages.student.objective.branches.diffusion=0.9",
        "--set stages.student.objective.branches.diffusion=0.9: stages.student.objective.branches: "
        "diffusion + consistency is 1.15; it must not exceed 1",
    ),
    "contradiction": (
        "stages.student.objective.cfg_scale=3",
        "--set stages.student.objective.cfg_scale=3: stages.student.objective.cfg_scale: guidance needs a condition, "
        "and these data have none; use 1",
    ),
}


@pytest.mark.parametrize(("setting", "message"), SETTINGS.values(), ids=SETTINGS.keys())
def test_set(setting: str, message: str, problem: Problem) -> None:
    assert problem(TINY, setting) == message


@pytest.mark.parametrize(
    "settings",
    [
        ("stages.teacher.steps=3", "stages.0.steps=4"),
        ("stages.teacher.optimizer.lr=1", "stages.0.optimizer={}"),
        ("checkpoints.keep=3", "checkpoints={every = 3}"),
    ],
)
def test_a_set_does_not_undo_another(settings: tuple[str, str], problem: Problem) -> None:
    first, second = settings
    assert problem(TINY, first, second) == (
        f"--set {second}: undoes --set {first}, which sets the same field or one in it; give one of them"
    )


def test_a_set_goes_on_in_a_table_that_another_has_set(here: Path) -> None:
    (here / "r.toml").write_text(TINY)
    settings = ["checkpoints={every = 3}", "checkpoints.keep=4", "checkpoints.keep=4"]
    found = read(Path("r.toml"), settings)[0].checkpoints
    assert (found.every, found.keep) == (3, 4)


def test_what_the_file_got_wrong_is_not_blamed_on_a_set_beside_it(problem: Problem) -> None:
    text = edited(("steps = 10", "steps = 0"))
    assert problem(text, "stages.teacher.batch=3").startswith("r.toml:11: stages.teacher.steps: ")


class VideoConfig(DataConfig):
    """Several frames."""

    type: Literal["video"] = "video"

    def spec(self) -> SampleSpec:
        return SampleSpec((5, 1, 8, 8), classes=0)

    def build(self) -> Any: ...


class NobodyConfig(ObjectiveConfig):
    """Trains no student."""

    type: Literal["nobody"] = "nobody"

    def roles(self) -> dict[str, RoleSpec]:
        return {"critic": RoleSpec("velocity", True, "trained")}

    def findings(self, facts: Any) -> list[Any]:
        return []

    def build(self) -> Any: ...


def test_a_backbone_that_does_not_fit_the_data(install: Callable[..., None], problem: Problem) -> None:
    install(VideoConfig)
    message = "r.toml:7: backbone.type: 'mlp' takes single frames; these data have 5"
    assert problem(edited(('"digits"', '"video"'))) == message


def test_an_objective_without_a_student(install: Callable[..., None], problem: Problem) -> None:
    install(NobodyConfig)
    assert problem(edited(('"flow_matching"', '"nobody"'))).splitlines()[0] == (
        "r.toml:13: stages.teacher.objective: the objective declares no role 'student'"
    )
