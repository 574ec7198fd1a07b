"""What is measured beside a recipe's own weights reads prompts as these do; a context is for who learned to use it."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.twin import make_twin

from flowmap.plugin import SampleSpec
from flowmap.recipe.outside import find_weights
from flowmap.recipe.outside_weights import findings
from flowmap.recipe.tables import EvaluationConfig

SPEC = SampleSpec((9, 3, 32, 32), text=True, fps=16.0)
NAME = "./twin"


@pytest.fixture
def twin(here: Path) -> Path:
    return make_twin(here / "twin")


def test_prompts_are_read_as_the_recipe_s(twin: Path) -> None:
    own = FarWan21Config(weights="./other", text_length=33, negative_prompt="blurred", chunks=(1, 2))
    found = find_weights(NAME, own)
    assert isinstance(found.backbone, Wan21Config)
    assert (found.backbone.weights, found.backbone.text_length, found.backbone.negative_prompt) == (NAME, 33, "blurred")
    given = find_weights(NAME, Wan21Config(weights="./other", null_embedding="null.safetensors"))
    assert isinstance(given.backbone, Wan21Config)
    assert given.backbone.null_embedding == "null.safetensors"
    # One without a text encoder reads none.
    random = find_weights(NAME, Wan21Config(weights="random", text_length=3))
    assert isinstance(random.backbone, Wan21Config)
    assert random.backbone.text_length == 512


@pytest.mark.parametrize(("context", "number"), [(0, 0), (1, 1)])
def test_given_frames_are_for_who_learned_to_go_on_from_them(context: int, number: int, twin: Path) -> None:
    contest = {"stage": NAME, "samplers": ("euler",), "context": context}
    metric = {"type": "sliced_wasserstein", "to": "teacher", "cells": 4}
    told = {"teacher": NAME, "contests": (contest,), "metrics": (metric,), "shift": 3.0}
    evaluation = EvaluationConfig.model_validate(told)
    own = Wan21Config(weights=NAME)
    said = list(findings(evaluation, {NAME: find_weights(NAME, own)}, SPEC))
    assert [(f.level, f.field) for f in said] == [("warning", ("evaluation", "contests", 0, "context"))] * number
    assert all("never learned to go on from given frames" in f.message for f in said)
    assert (own.goes_on(), Wan21Config(weights=NAME, first_frame=0.1).goes_on()) == (False, True)
    assert FarWan21Config(weights=NAME).goes_on()


@pytest.mark.parametrize(
    ("gate", "words"), [(0.25, []), (0.5, ["has no effect: the weights have a gate of their own, 0.25"])]
)
def test_a_gate_of_weights_that_have_one(gate: float, words: list[str], twin: Path) -> None:
    from diffusers.models.transformers.transformer_anyflow import AnyFlowTransformer3DModel

    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 16, "freq_dim": 32, "ffn_dim": 32}
    AnyFlowTransformer3DModel(**sizes, num_layers=2).save_pretrained(twin / "transformer")
    said = [f.message for f in Wan21Config(weights=NAME, gate=gate).findings(SPEC)]
    assert said == words
