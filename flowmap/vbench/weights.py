"""The weights that dimensions are scored with: which files, where the package looks for them, where they are from.

flowmap fetches none. The package fetches what it misses by `wget`, `unzip` and torch.hub, and goes on after some
failures; so a dimension is started only when its files are there, unless that is wanted (`--download`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import final

_HUB = "torch.hub"
_CLIP = "clip"
_CACHE = "vbench"


@final
@dataclass(frozen=True)
class Weight:
    """A file: below which of the caches, at which path, and from where."""

    cache: str
    path: str
    source: str

    @property
    def place(self) -> Path:
        """Where the package looks for it."""
        return _cache(self.cache) / self.path


def _cache(name: str) -> Path:
    """As the package, torch and openai-clip choose theirs."""
    home = Path.home() / ".cache"
    if name == _HUB:
        torch = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or home) / "torch"
        return Path(torch) / "hub"
    if name == _CLIP:
        return home / "clip"
    return Path(os.environ.get("VBENCH_CACHE_DIR") or home / "vbench")


_DINO = (
    Weight(_HUB, "facebookresearch_dino_main/hubconf.py", "the repository facebookresearch/dino, branch main"),
    Weight(_HUB, "checkpoints/dino_vitbase16_pretrain.pth", "DINO's release (dl.fbaipublicfiles.com/dino)"),
)
_CLIP_B = Weight(_CLIP, "ViT-B-32.pt", "OpenAI CLIP's release (the TorchScript archive)")
_MODELS = "Hugging Face: OpenGVLab/VBench_Used_Models"
_VICLIP = (Weight(_CACHE, "ViCLIP/ViClip-InternVid-10M-FLT.pth", _MODELS),)
_GRIT = (Weight(_CACHE, "grit_model/grit_b_densecap_objectdet.pth", f"{_MODELS} (the address in the package is dead)"),)

WEIGHTS: dict[str, tuple[Weight, ...]] = {
    "temporal_flickering": (),
    "subject_consistency": _DINO,
    "i2v_subject": _DINO,
    "background_consistency": (_CLIP_B,),
    "appearance_style": (_CLIP_B,),
    "aesthetic_quality": (
        Weight(_CLIP, "ViT-L-14.pt", "OpenAI CLIP's release (the TorchScript archive)"),
        Weight(
            _CACHE,
            "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
            "the repository LAION-AI/aesthetic-predictor",
        ),
    ),
    "imaging_quality": (
        Weight(_CACHE, "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth", "chaofengc/IQA-PyTorch, release v0.1-weights"),
    ),
    "motion_smoothness": (Weight(_CACHE, "amt_model/amt-s.pth", "Hugging Face: lalala125/AMT"),),
    "dynamic_degree": (
        Weight(
            _CACHE, "raft_model/models/raft-things.pth", "RAFT's models.zip (princeton-vl/RAFT, download_models.sh)"
        ),
    ),
    "human_action": (Weight(_CACHE, "umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth", _MODELS),),
    "temporal_style": _VICLIP,
    "overall_consistency": _VICLIP,
    "object_class": _GRIT,
    "multiple_objects": _GRIT,
    "color": _GRIT,
    "spatial_relationship": _GRIT,
    "scene": (
        Weight(
            _CACHE,
            "caption_model/tag2text_swin_14m.pth",
            "Hugging Face space: xinyu1205/recognize-anything; and bert-base-uncased in the hub's cache",
        ),
    ),
    "i2v_background": (),
    "camera_motion": (Weight(_HUB, "facebookresearch_co-tracker_main/hubconf.py", "facebookresearch/co-tracker"),),
}
"""By dimension. dreamsim (i2v_background) and co-tracker's model fetch their own. One bundle of nearly all of them is
on Hugging Face: dc-ai/vbench_pretrained_models."""


def absent(dimension: str) -> list[Weight]:
    """The files that a dimension needs and that are not where the package looks for them."""
    return [weight for weight in WEIGHTS[dimension] if not _has_content(weight.place)]


def _has_content(path: Path) -> bool:
    """Whether a file is there; a download that has failed leaves an empty one."""
    return path.is_file() and path.stat().st_size > 0
