"""Which kernels of attention training may take.

On Hopper GPUs torch prefers cuDNN's, which are the fastest. Their gradients have been wrong: NaN where keys do not fill
a tile and all scores are low (pytorch/pytorch#196678, NVIDIA/cudnn-frontend#1072), and, seen on an H200 with torch
2.11, for a small FLUX. So they are taken where somebody has checked them, or asks for them.
"""

from __future__ import annotations

from typing import Literal

import torch


def choose_attention(asked: Literal["auto", "yes", "no"], checked: bool) -> None:
    """From now on this process may, or may not, take cuDNN's kernels; `checked` is the answer to "auto"."""
    torch.backends.cuda.enable_cudnn_sdp(checked if asked == "auto" else asked == "yes")
