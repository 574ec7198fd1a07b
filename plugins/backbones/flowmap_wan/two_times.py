"""What the configurations of Wan backbones have that make a second time from plain Wan's one. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from flowmap.plugin import Finding, Origin, Precision, Pretrained, SampleSpec
from flowmap.schema.bounds import PathText, Share
from flowmap.weights.runs import run_in
from flowmap_wan.files_config import FilesConfig
from flowmap_wan.findings import checkpoint_findings
from flowmap_wan.places import is_single
from flowmap_wan.settings import LoraConfig

if TYPE_CHECKING:
    from flowmap.plugin.footprint import Footprint


class TwoTimesConfig(FilesConfig):
    """What backbones have that make a second time from plain Wan's one."""

    weights: PathText = Field(
        description="a folder or a hub id with a Wan2.1 or AnyFlow checkpoint in diffusers' layout, a safetensors file "
        "of another project with the original names, or a folder with one, the folder of a flowmap run, or 'random'"
    )
    gate: Share = Field(0.25, description="share of the r-embedding, for weights that have none yet")
    one_time_weights: Literal["velocity", "jump"] = Field(
        "velocity",
        description="what weights of one time compute: a 'velocity', as plain Wan, or the 'jump' to data, as few-step "
        "students (rCM, CausVid, Self-Forcing)",
    )

    def cudnn_attention(self) -> bool:
        """At its own shapes on an H200 they are those of flash attention (docs/benchmarks.md).

        Neither masks nor attention to pictures were tried.
        """
        return self.attention in ("auto", "parts") and not self.pictures

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """What does not fit."""
        from flowmap_wan.single import one_time_findings

        yield from super().findings(spec)
        if not self.random_base:
            yield from one_time_findings(self)

    def missing(self) -> Iterable[Finding]:
        """The weights and the encoders, unless weights are random."""
        if not is_single(self.weights):
            yield from super().missing()
            return
        from flowmap_wan.causal_files import absences

        yield from absences(self)

    def origin(self) -> Origin:
        """The checkpoint's own name and licence, or as published."""
        from flowmap_wan.causal_files import origin_of
        from flowmap_wan.released import release_of

        if not is_single(self.weights) and release_of(self.weights) is None:
            return super().origin()

        return origin_of(self.weights)

    def pretrained(self) -> Pretrained | None:
        """The network of the weights, or the student of the run that they are.

        One that jumps, and that nobody published under its name, is sampled as consistency models are.
        """
        from flowmap_wan.single import pretrained

        found = pretrained(self) if is_single(self.weights) else super().pretrained()
        jumps = self.one_time_weights == "jump" and run_in(self.weights) is None
        if found is None or found.kind == "flow_map" or not jumps:
            return found
        told: dict[str, Any] = {"sampler": "consistency", "calls": 4, "cfg_scale": 1.0}
        return replace(found, kind="flow_map", diagonal=False, to_data=True, **told)

    def rehearsed(self, folder: Path) -> Self:
        """The same with a tiny random checkpoint in diffusers' layout, made in `folder` if it is not there yet.

        Of a file of one time, what is made of it is the same.
        """
        if self.random_base:
            return self
        from flowmap_wan.twin import make_null, make_twin

        small = {
            "weights": str(make_twin(folder / ("wan-i2v-twin" if self.pictures else "wan-twin"), self.pictures)),
            "encoders_from": None,
            "head_dim": None,
            "lora": self.lora and LoraConfig(rank=4, alpha=4.0),
            "text_length": 64,  # Wan's own negative prompt fits
            "null_embedding": self.null_embedding and str(make_null(folder / "null.safetensors")),
        }
        return self.model_copy(update=small)

    def _encoders_in(self) -> str:
        if not is_single(self.weights):
            return super()._encoders_in()
        from flowmap_wan.causal_files import encoders_named

        return encoders_named(self)

    def _sizes(self) -> Mapping[str, Any] | None:
        if not is_single(self.weights):
            return super()._sizes()
        from flowmap_wan.causal_files import sizes_of

        return sizes_of(self)

    def _weights_findings(self) -> Iterable[Finding]:
        if is_single(self.weights):
            from flowmap_wan.causal_files import misfits

            return misfits(self)
        from flowmap_wan.told import told_findings

        gate = self.gate if "gate" in self.model_fields_set else None
        own = checkpoint_findings(self.weights, super()._sizes(), gate, self.pictures)
        return (*told_findings(self), *own)

    def _measured(self, spec: SampleSpec, sizes: Mapping[str, Any], precision: Precision) -> Footprint:
        from flowmap_wan.footprint import wan_footprint

        return wan_footprint(self, spec, sizes, precision)  # type: ignore[arg-type]
