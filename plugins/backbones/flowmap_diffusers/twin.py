"""A tiny random pipeline of any family in diffusers' layout: transformer, text encoders, tokenizers, autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from flowmap.workshop.exporting import write_index
from flowmap.workshop.twin import WORDS, made_once, tokenizer
from flowmap_diffusers.family import Family
from flowmap_diffusers.schedulers import scheduler_of

_TOKENS = 512
# Without the message of the system, after which few tokens would be left of a rehearsal's few.
_FRAME = """{% for said in messages if said.role == 'user' %}<|user|>
{{ said.content if said.content is string else said.content[0].text }}<|end|>
{% endfor %}"""


def make_twin(folder: Path, family: Family) -> Path:
    """Make the pipeline in `folder` unless it is there; returns it. Random weights, the same every time.

    All names of parameters, the factors of the autoencoder and the channels between the parts are those of real ones.
    """
    return made_once(folder, partial(_write, family))


def _write(family: Family, folder: Path) -> None:
    sizes = {key: list(value) if isinstance(value, tuple) else value for key, value in family.small.items()}
    getattr(diffusers, family.model)(**sizes).save_pretrained(folder / "transformer")
    _VAES[family.vae](family.channels(family.small)).save_pretrained(folder / "vae")
    for part, kind in family.parts.items():
        if part.startswith("tokenizer"):
            _TOKENIZERS[kind]().save_pretrained(folder / part)
        else:
            _ENCODERS[kind](int(family.small[family.width])).save_pretrained(folder / part)
    scheduler = scheduler_of(family, family.usual.shift)
    scheduler.save_pretrained(folder / "scheduler")
    classes = {
        part: ["transformers", "PreTrainedTokenizerFast" if part.startswith("tokenizer") else kind]
        for part, kind in family.parts.items()
    }
    write_index(
        folder,
        family.pipeline,
        classes
        | {
            "transformer": ["diffusers", family.model],
            "vae": ["diffusers", family.vae],
            "scheduler": ["diffusers", type(scheduler).__name__],
        },
    )


def _clip(width: int) -> Any:
    return transformers.CLIPTextModel(_clip_config(width))


def _clip_config(width: int) -> Any:
    return transformers.CLIPTextConfig(
        vocab_size=_TOKENS, hidden_size=width, intermediate_size=width, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip


def _clip_projected(width: int) -> Any:
    # Two of them stand side by side in a text of `width` dimensions.
    return transformers.CLIPTextModelWithProjection(_clip_config(width // 2))


def _decoder(kind: str, width: int) -> Any:
    """A language model without its head, of the class of transformers called `kind`."""
    config = getattr(transformers, kind.replace("Model", "Config"))(
        vocab_size=_TOKENS, hidden_size=width, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=2048, pad_token_id=0,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def _mistral(width: int) -> Any:
    # Three of its layers, the 30th the last of them, stand side by side in a text of `width` dimensions.
    side = width // 3
    config = transformers.Mistral3Config(
        text_config={
            "model_type": "mistral", "vocab_size": _TOKENS, "hidden_size": side, "intermediate_size": side,
            "num_hidden_layers": 30, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
        },
        vision_config={
            "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "head_dim": 8, "image_size": 32, "patch_size": 16,
        },
    )  # fmt: skip
    return transformers.Mistral3ForConditionalGeneration(config)


def _qwen_vl(width: int) -> Any:
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": _TOKENS, "hidden_size": width, "intermediate_size": width, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1,
            "rope_parameters": {"mrope_section": [width // 8, width // 16, width // 16], "rope_type": "default"},
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width,
            "fullatt_block_indexes": [0],
        },
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _t5(width: int) -> Any:
    config = transformers.T5Config(
        vocab_size=_TOKENS, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return transformers.T5EncoderModel(config)


def _dc(channels: int) -> Any:
    return diffusers.AutoencoderDC(
        latent_channels=channels, attention_head_dim=2, scaling_factor=0.8, decoder_act_fns="silu",
        encoder_block_out_channels=(8,) * 6, decoder_block_out_channels=(8,) * 6, encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6, encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6,
    )  # fmt: skip


def _kl(channels: int) -> Any:
    levels = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    return diffusers.AutoencoderKL(
        down_block_types=levels[0], up_block_types=levels[1], block_out_channels=(4, 4, 4, 4), norm_num_groups=2,
        latent_channels=channels, shift_factor=0.1, scaling_factor=0.8,
    )  # fmt: skip


def _kl_flux2(channels: int) -> Any:
    made = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, layers_per_block=1, latent_channels=channels // 4
    )
    made.bn.running_mean.normal_()
    made.bn.running_var.uniform_(0.5, 2.0)
    return made


def _kl_qwen(channels: int) -> Any:
    return diffusers.AutoencoderKLQwenImage(base_dim=8, z_dim=channels, dim_mult=[1] * 4, num_res_blocks=1)


_ENCODERS: Mapping[str, Callable[[int], Any]] = {
    "CLIPTextModel": _clip,
    "CLIPTextModelWithProjection": _clip_projected,
    "Gemma2Model": partial(_decoder, "Gemma2Model"),
    "Mistral3ForConditionalGeneration": _mistral,
    "Qwen2_5_VLForConditionalGeneration": _qwen_vl,
    "Qwen3Model": partial(_decoder, "Qwen3Model"),
    "T5EncoderModel": _t5,
}
_VAES: Mapping[str, Callable[[int], Any]] = {
    "AutoencoderDC": _dc,
    "AutoencoderKL": _kl,
    "AutoencoderKLFlux2": _kl_flux2,
    "AutoencoderKLQwenImage": _kl_qwen,
}


def _sentences(length: int) -> Any:
    """One for plain texts of at most `length` tokens. Every text ends with a token: none is empty."""
    made = tokenizer()
    end = made.eos_token, made.eos_token_id
    made.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    made.model_max_length = length
    return made


def _chats() -> Any:
    """One for texts in the frame of a chat, a token a word, a sign or a line: of Qwen-Image's frame that is 34, too."""
    known = ["<pad>", "</s>", "<unk>", *dict.fromkeys(WORDS.split())]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\|\w+\|>|\w+|[^\w ]"), "removed", invert=True)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=1024,
        chat_template=_FRAME,
    )  # fmt: skip


_TOKENIZERS: Mapping[str, Callable[[], Any]] = {
    "CLIPTokenizer": partial(_sentences, 77),
    "GemmaTokenizerFast": partial(_sentences, 512),
    "PixtralProcessor": _chats,
    "Qwen2Tokenizer": _chats,
    "T5Tokenizer": partial(_sentences, 512),
    "T5TokenizerFast": partial(_sentences, 512),
}
