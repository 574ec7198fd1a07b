"""A tiny random CLIP in transformers' layout, which rehearsals use in the place of a real one: always the same."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel

from flowmap.weights.fields import CONFIG
from flowmap.workshop.twin import made_once, tokenizer
from flowmap_metrics.vision_files import PREPROCESSING

_WIDTH, _SIDE = 16, 32


def write_clip(folder: Path) -> Path:
    """Write it into `folder`, unless it is there; returns the folder."""
    return made_once(folder, _write, CONFIG)


def _write(folder: Path) -> None:
    words = tokenizer()
    # CLIP's embedding of a text is that of its end: without one it reads the first token alone.
    end = (str(words.eos_token), int(words.eos_token_id))
    words.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    layers = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_attention_heads": 2, "num_hidden_layers": 1}
    special = {f"{name}_token_id": words.eos_token_id for name in ("bos", "eos", "pad")}
    text = {**layers, "vocab_size": len(words), **special, "max_position_embeddings": 77}
    config = CLIPConfig(
        text_config=text,
        vision_config={**layers, "image_size": _SIDE, "patch_size": 16},
        projection_dim=_WIDTH,
    )
    CLIPModel(config).save_pretrained(folder)
    resized = {"size": {"shortest_edge": _SIDE}, "crop_size": {"height": _SIDE, "width": _SIDE}}
    about = {"image_processor_type": "CLIPImageProcessor", **resized}
    (folder / PREPROCESSING).write_text(json.dumps(about), "utf-8")
    words.save_pretrained(folder)
