"""Words that stand in recipes and in code alike, and how a sentence shows what somebody has written. Torch-free."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

NetworkKind = Literal["velocity", "flow_map"]
"""`velocity`: u(x, t), one time. `flow_map`: u(x, t, r), two times; it serves as a velocity at r = t."""

_SHOWN = 32  # of a list, in a sentence

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What a run, a stage and a component may be called: each becomes part of a file's name."""

Precision = Literal["no", "bf16"]
"""Mixed precision of the network calls: none, or bfloat16 where autocast takes it."""

Shard = Literal["auto", "all", "node"]
"""Who shares one copy of a network: all processes, those of each node, or whichever is faster and fits."""

Base = Literal["auto", "sharded", "replicated"]
"""Where parameters are that nobody trains: shared out among processes, whole in each, or as is faster and fits."""

Reduction = Literal["auto", "turn", "loss"]
"""When processes average their gradients: once a turn, after each loss of each micro-batch, or as fits."""

FrameView = Literal["forced", "whole"]
"""How a causal model is shown the frames of a video: `forced` is chunk by chunk, each given the clean ones before it
(teacher forcing), as it will generate them; `whole` is all frames as one chunk, in which every frame sees every other.
To a model of all frames at once both are the same."""

Recomputation = Literal["none", "block", "selective", "offload"]
"""What backward computes again instead of keeping: nothing, whole blocks, or blocks but for their matrix products and
attention, which cost most of the time and little of the memory; or whole blocks, from inputs that wait in the memory of
the CPU."""

FrameChoice = Literal["nearest", "rate"]
"""Which frames of a clip are taken: those nearest in time, or those that counting by declared rates comes to."""

Fit = Literal["crop", "stretch"]
"""How a frame comes to its size: scaled to cover it, with the middle kept, or squashed."""

Better = Literal["lower", "higher"]
"""Which scores of a metric are the better ones."""

Weights = Literal["ema", "raw"]
"""Which weights of a finished stage: their moving average or the raw trained ones."""


def unknown_word(what: str, word: str, allowed: Iterable[str]) -> str:
    """Say that `word` is no `what`, what is allowed, and the nearest allowed word if one is near."""
    allowed = list(allowed)
    near = difflib.get_close_matches(str(word), allowed, n=1, cutoff=0.5)
    allowed = [*allowed[:_SHOWN], "..."] if len(allowed) > _SHOWN else allowed
    listed = f"allowed: {', '.join(allowed)}" if allowed else "none is allowed here"
    hint = f". Did you mean '{near[0]}'?" if near else ""
    return f"unknown {what} '{plain(str(word))}'; {listed}{hint}"


def plain(word: str, most: int = 60) -> str:
    """`word` as one line shows it: at most so many characters of it, and what no terminal shows as an escape."""
    text = word if word.isprintable() else repr(word)[1:-1]
    return text if len(text) <= most else f"{text[:most]}..."


def shown(text: str) -> str:
    """The whole of `text`, with nothing in it that a terminal obeys."""
    return plain(text, len(repr(text)))


def listed(numbers: Sequence[int]) -> str:
    """`numbers` between commas; of many, the first ones and the last."""
    some = map(str, numbers if len(numbers) <= _SHOWN else numbers[: _SHOWN // 2])
    return ", ".join(some) + (f", ..., {numbers[-1]}" if len(numbers) > _SHOWN else "")


def needed(contexts: Mapping[int, int]) -> int:
    """How many frames have to be given where `contexts` (BackboneConfig.contexts) says so; 0 if nothing has to be."""
    return min((frames for frames, kept in contexts.items() if not kept), default=0)


def needs_frames(frames: int) -> str:
    """Say of a model that it makes nothing unless it is given so many frames."""
    first = "a picture, the first frame" if frames == 1 else f"the first {frames} frames"
    return f"this model makes videos from {first}, and cannot do without"


def context_refusal(possible: Iterable[int], frames: int, hint: str = "") -> str:
    """Say that `frames` are none of the `possible` numbers of context frames, which are nearest, and what helps."""
    possible = list(possible)
    if not possible:
        return "this backbone generates whole samples; no frames can be given to it"
    near = sorted(sorted(possible, key=lambda n: abs(n - frames))[:2])
    return (
        f"{frames} context frames cannot be given: possible are {listed(possible)}; "
        f"nearest: {' or '.join(map(str, near))}{hint and f'; or {hint}'}"
    )
