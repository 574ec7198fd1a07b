"""One forward pass for Wan2.1, bidirectional and causal, over the layers of diffusers' AnyFlow models.

A pass goes over pieces of video: noised frames, clean context, compressed context. Bidirectional, teacher-forced
and cached inference differ only in their pieces, in who sees whom, and in what is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from flowmap.interfaces import Cond, Shared, SharesTokens, TokenGroup
from flowmap.plugin import Recomputation
from flowmap.training.compiled import is_compiled
from flowmap.workshop.adapters import Chosen, Copied
from flowmap.workshop.memo import Text
from flowmap.workshop.precision import exactly, is_mixed
from flowmap.workshop.recompute import recompute
from flowmap_wan.attention import CrossAttention, SelfAttention, Slot, Slots
from flowmap_wan.block import Modulation, modulate_by_frame
from flowmap_wan.condition import as_video
from flowmap_wan.pieces import Passes, Past, Piece, Told
from flowmap_wan.rotary import box, joined, turn
from flowmap_wan.sight import AttentionKernel, Mask, Runs, Sight


@final
class WanModule(nn.Module, Passes, SharesTokens):
    """A diffusers AnyFlow transformer with our attention; what moves to a device and is sharded."""

    def __init__(self, transformer: Any, kernel: AttentionKernel, recomputation: Recomputation, chosen: Chosen) -> None:
        super().__init__()
        self.transformer = transformer
        self._chosen = chosen
        self._kernel = kernel
        self._group: TokenGroup | None = None
        for block in transformer.blocks:
            block.attn1.set_processor(SelfAttention())
            block.attn2.set_processor(CrossAttention())
            modulate_by_frame(block)
        recompute(transformer.blocks, recomputation, chosen)

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        """The velocity of `x` `[B, F, C, H, W]` at times `[B]` or `[B, F]`, as `cond` (a VideoCond) shows it."""
        video = as_video(cond)
        # Only beside adapters is the rest frozen for good, and what it makes of a text worth remembering.
        text = Text(video.text, None if self._chosen.role is None else video.memo)
        return video.view.run(self, text, x, t, t if r is None else r)

    def share(self, tokens: TokenGroup) -> None:
        """See SharesTokens.share."""
        self._group = tokens

    def layers(self) -> int:
        """See Passes.layers."""
        return len(self.transformer.blocks)

    def over(
        self, pieces: Sequence[Piece], text: Told, past: Past | None = None, causal: bool = False, slots: Slots = None
    ) -> Tensor:
        """See Passes.over."""
        model = self.transformer
        config = model.config
        head_dim = config.attention_head_dim
        tokens = [self._tokens(piece) for piece in pieces]
        grids = [(piece.x.shape[1], self.tokens_per_frame(piece)) for piece in pieces]
        lengths = [frames * per_frame for frames, per_frame in grids]
        hidden = torch.cat(tokens, dim=1)
        device = hidden.device
        rotation = joined([turn(self._positions(piece), head_dim, device) for piece in pieces])
        mask = self._mask(pieces, lengths, past, device) if causal else None
        shared = None if self._group is None else Shared(self._group, tuple(grids))
        if shared is not None:
            hidden, rotation = shared.mine(hidden), shared.mine(rotation.flatten(1)).unflatten(1, rotation.shape[1:])
            lengths = shared.lengths()
        embs, modulations = self._times(pieces, lengths, hidden)
        prompt, picture = text if isinstance(text, tuple) else (text, None)
        prompt = self._text(prompt, hidden.dtype)
        picture = None if picture is None else self._image(picture, hidden.dtype)
        if slots is None and past is not None:
            slots = [Slot(layer) for layer in past.layers]
        for index, block in enumerate(model.blocks):
            slot = None if slots is None else slots[index]
            hidden = block(hidden, prompt, modulations, rotation, mask, slot, shared, picture)
        wanted = next((i for i, piece in enumerate(pieces) if piece.noised), len(pieces) - 1)
        begin = sum(lengths[:wanted])
        part = slice(begin, begin + lengths[wanted])
        hidden = hidden[:, part].unflatten(1, (embs[wanted].shape[1], -1))
        shift, scale = (model.scale_shift_table[:, None] + embs[wanted].unsqueeze(2)).unsqueeze(3).unbind(2)
        normed = (model.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden).flatten(1, 2)
        patches = model.proj_out(normed)
        if shared is not None:
            patches = shared.whole(patches, wanted)
        return self._frames(patches, pieces[wanted].x)

    def _text(self, prompt: Text, precision: torch.dtype) -> Text:
        """The embedded tokens of a prompt."""
        embedder = self.transformer.condition_embedder.text_embedder
        raw = Text(prompt.tokens.to(precision), prompt.memo)
        return Text(raw.through(embedder, (embedder.linear_1, embedder.linear_2), embedder), prompt.memo)

    def _image(self, picture: Text, precision: torch.dtype) -> Text:
        """The embedded features of a picture."""
        embedder = self.transformer.condition_embedder.image_embedder
        raw = Text(picture.tokens.to(precision), picture.memo)
        parts = (embedder.norm1, embedder.ff.net[0].proj, embedder.ff.net[2], embedder.norm2)
        return Text(raw.through(embedder, parts, embedder), picture.memo)

    def tokens_per_frame(self, piece: Piece) -> int:
        """Tokens of each frame of `piece`."""
        rows, columns = self._cells(piece)
        return rows * columns

    def _tokens(self, piece: Piece) -> Tensor:
        """The patches of a piece `[B, L, D]`, frames outermost."""
        model = self.transformer
        embed = model.far_patch_embedding if piece.coarse else model.patch_embedding
        embed = embed.current if isinstance(embed, Copied) else embed
        # Patches of compressed frames are trained in float32 beside a base in bfloat16.
        x = piece.x if self._group is None else self._group.entering(piece.x)
        patches = embed(x.to(embed.weight.dtype).transpose(1, 2)).flatten(2).transpose(1, 2)
        mixed = is_mixed(piece.x.device)
        return patches if mixed else patches.to(model.patch_embedding.weight.dtype)

    def _cells(self, piece: Piece) -> tuple[int, int]:
        """Rows and columns of tokens in a frame of `piece`."""
        _, down, across = self.transformer.config[_PATCH[piece.coarse]]
        return piece.x.shape[-2] // down, piece.x.shape[-1] // across

    def _positions(self, piece: Piece) -> Any:
        fine, own = (self.transformer.config[_PATCH[coarse]] for coarse in (False, piece.coarse))
        coarse = (own[1] // fine[1], own[2] // fine[2])
        return box(piece.first, piece.x.shape[1], *self._cells(piece), coarse)

    def _times(
        self, pieces: Sequence[Piece], lengths: Sequence[int], like: Tensor
    ) -> tuple[list[Tensor], list[Modulation]]:
        """The embedding of both times of every piece `[B, f, D]`, and its six modulations; f = 1 for all frames.

        In float32, whatever the precision of the rest.
        """
        embedder = self.transformer.condition_embedder
        with exactly(like.device):
            embs = [_both(embedder, piece.t, piece.r).unflatten(0, piece.t.shape) for piece in pieces]
        sixes = [embedder.time_proj(embedder.act_fn(emb).to(like.dtype)).unflatten(2, (6, -1)) for emb in embs]
        return embs, list(zip(sixes, lengths, strict=True))

    def _mask(self, pieces: Sequence[Piece], lengths: Sequence[int], past: Past | None, device: torch.device) -> Mask:
        """Which token of the pieces, and of the past before them, each of their own sees."""
        own: Runs = ()
        for piece, length in zip(pieces, lengths, strict=True):
            own += piece.runs(length // len(piece.chunks))
        sight = Sight(own, (*past.runs, *own) if past else own)
        compiled = is_compiled(self.transformer.blocks[0])
        return sight.mask(self._kernel, self.transformer.config.attention_head_dim, device, compiled)

    def _frames(self, patches: Tensor, like: Tensor) -> Tensor:
        """Patches `[B, L, p p C]` as frames of the shape of `like`."""
        _, down, across = self.transformer.config.patch_size
        batch, frames, _, height, width = like.shape
        grid = patches.reshape(batch, frames, height // down, width // across, down, across, -1)
        return grid.permute(0, 1, 6, 2, 4, 3, 5).reshape(batch, frames, -1, height, width)


_PATCH = {False: "patch_size", True: "compressed_patch_size"}


def _both(embedder: Any, t: Tensor, r: Tensor) -> Tensor:
    """The embedding of two times, by AnyFlow (1 - g) time(t) + g delta(r); of a network of one time that of `t`."""
    t, r = 1000 * t.float(), 1000 * r.float()
    first = _embedded(embedder, embedder.time_embedder, t)
    if not hasattr(embedder, "delta_embedder"):
        return first
    gate = embedder.delta_emb_gate.float()
    delta = r if embedder.deltatime_type == "r" else t - r
    return (1 - gate) * first + gate * _embedded(embedder, embedder.delta_embedder, delta)


def _embedded(embedder: Any, layers: nn.Module, times: Tensor) -> Tensor:
    return layers(embedder.timesteps_proj(times.flatten()))
