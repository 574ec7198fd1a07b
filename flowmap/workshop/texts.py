"""Texts through an encoder at their own length, those of about one length together."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import ftfy
import torch
from torch import Tensor
from torch.nn.functional import pad

from flowmap.phases import each

_log = logging.getLogger("flowmap.prompts")
_SHOWN = 60
_TOKENS_TOGETHER = 2048
_MOST_PADDED = 1.25  # times the shortest text of a group, the longest one


def cleaned(prompt: str) -> str:
    """Mended encoding, no HTML entities, single spaces: what encoders saw in training (`prompt_clean` of diffusers)."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


def say_cut(lengths: Mapping[str, int], most: int) -> None:
    """Warn of texts, given with their tokens, of which only the first `most` tokens are read, if there are any."""
    cut = {text: length for text, length in lengths.items() if length > most}
    if cut:
        first, length = next(iter(cut.items()))
        which = "a prompt is" if len(cut) == 1 else f"{len(cut):,} prompts are"
        shown = first if len(first) <= _SHOWN else f"{first[:_SHOWN]}..."
        _log.warning("%s cut: '%s' has %s tokens, and %s are read", which, shown, f"{length:,}", f"{most:,}")


def embeddings(
    tokens: Sequence[Sequence[int]], encode: Callable[[Tensor, Tensor], Tensor], most: int, width: int
) -> list[Tensor]:
    """The embedding `[most, width]` of each text, given as its tokens, zero behind the last of them; on the CPU.

    `encode(ids, mask)`, both `[B, L]` int64, mask 1 where there is a token, gives `[B, L, width]`. Only the tokens that
    there are go through it: an encoder that takes no notice of what is masked makes the numbers of `most` padded
    tokens, up to rounding.
    """
    found = [torch.zeros(most, width)] * len(tokens)
    groups = list(_by_length([len(row) for row in tokens]))
    for group in each(groups, f"encoding {len(tokens)} texts", "groups"):
        longest = max(len(tokens[index]) for index in group)
        mask = torch.tensor([[n < len(tokens[i]) for n in range(longest)] for i in group]).long()
        ids = torch.tensor([[*tokens[i], *[0] * (longest - len(tokens[i]))] for i in group])
        states = encode(ids, mask).float().cpu()
        for index, row in zip(group, pad(states * mask[..., None], (0, 0, 0, most - longest)), strict=True):
            found[index] = row
    return found


def _by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The places of texts of about the same length, several at a time; empty ones are in none."""
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        length = lengths[place]
        full = (len(group) + 1) * length > _TOKENS_TOGETHER
        if group and (full or length > _MOST_PADDED * lengths[group[0]]):
            yield group
            group = []
        if length:
            group.append(place)
    if group:
        yield group
