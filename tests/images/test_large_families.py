"""What holds of families that are too large for anything but adapters on half a precision, some told a guidance."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flowmap.plugin.footprint import CallShape
from flowmap.weights.names import RANDOM

from .support import KINDS, SIDE, call, conds, draw, spec_of

pytestmark = pytest.mark.usefixtures("one_thread")
LORA: dict[str, Any] = {"lora": {"rank": 2, "alpha": 4.0}}


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if "guidance_embeds" in kind.family.small])
def test_guidance_is_told_to_those_that_embed_it(name: str) -> None:
    """As `guidance` says; one that embeds none takes no notice."""
    kind, spec = KINDS[name], spec_of(KINDS[name])
    for embeds in (True, False):
        said = []
        for guidance in (2.0, 5.0):
            fields: dict[str, Any] = {"guidance": guidance, "architecture": {"guidance_embeds": embeds}}
            backbone = kind(weights=RANDOM, **fields).build(spec)
            teacher: Any = backbone.role("teacher", "velocity", None, draw())
            (x, t, _), cond = call(kind), conds(kind, backbone)
            said.append(teacher.network.velocity(x, t, cond))
        assert torch.equal(*said) != embeds


@pytest.mark.parametrize("name", ["flux2", pytest.param("qwen_image", marks=pytest.mark.slow)])
def test_a_plan_knows_a_base_that_is_held_in_half(name: str) -> None:
    """Adapters on bfloat16 in mixed precision: as much arithmetic as on float32, and less memory."""
    found = []
    for base, precision in (("bfloat16", "bf16"), ("float32", "no")):
        config = KINDS[name](weights=RANDOM, base_precision=base, **LORA)  # type: ignore[arg-type]
        footprint = config.footprint(spec_of(KINDS[name]), precision)  # type: ignore[arg-type]
        assert footprint is not None
        shape = CallShape("whole", 1)
        taken = footprint.base().bytes, footprint.held("flow_map", shape, 1)
        found.append((footprint.flops("flow_map", shape, True), *taken))
    half, full = found
    assert half[0] == full[0]
    assert half[1] < full[1]
    assert 0 < half[2] < full[2]


def test_adapters_of_flux2_are_on_what_comes_out_of_either_kind_of_block() -> None:
    """Of which one has a layer where the other has a list of them."""
    backbone = KINDS["flux2"](weights=RANDOM, **LORA).build(spec_of(KINDS["flux2"]))
    own = backbone.role("student", "velocity", None, draw()).own
    ends = ("single_transformer_blocks.1.attn.to_out.lora_B", "transformer_blocks.0.attn.to_out.0.lora_B")
    assert all(any(name.startswith(end) for name in own) for end in ends)


def test_the_plan_of_flux_counts_the_products_that_one_counts_by_hand() -> None:
    """A multiply-add is 2; a double block has 12 d^2 of weights for a token of either kind, as a single one has."""
    kind, text = KINDS["flux"], 256
    d, given, cells = 16, 32, 64
    image = (SIDE // 2) ** 2
    tokens = image + text
    blocks = 3 * (12 * d * d * tokens + 2 * d * tokens**2)
    modulations = 2 * 6 * d * d + 2 * 3 * d * d
    # The model embeds a time that it may have rounded, and we embed it again; the guidance, the pooled text.
    embedded = 2 * (256 * d + d * d) + (256 * d + d * d) + (given * d + d * d)
    ends = given * d * text + cells * d * image + 2 * d * d + cells * d * image
    footprint = kind(weights=RANDOM).footprint(spec_of(kind), "no")
    assert footprint is not None
    by_hand = 2 * (blocks + modulations + embedded + ends)
    assert footprint.flops("velocity", CallShape("whole", 1), False) == by_hand
