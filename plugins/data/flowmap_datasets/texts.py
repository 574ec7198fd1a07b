"""Classes as texts of one token that is embedded already."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from flowmap.interfaces import EncodedText


def embedded(labels: Tensor, width: int) -> EncodedText:
    """One-hot tokens `[B, 1, width]`, with components of about unit size, as networks expect them; null is zeros."""
    tokens = F.one_hot(labels, width)[:, None] * math.sqrt(width)
    return EncodedText(tokens, torch.zeros(1, width, device=labels.device))
