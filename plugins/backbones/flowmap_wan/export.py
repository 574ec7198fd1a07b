"""Write a role as a folder that diffusers' AnyFlow pipelines load, or NVIDIA's released ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import FlowMapEulerDiscreteScheduler, UniPCMultistepScheduler, WanTransformer3DModel
from diffusers.models.transformers.transformer_anyflow import AnyFlowTransformer3DModel
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowFARTransformer3DModel

from flowmap.errors import FlowmapError
from flowmap.plugin import NetworkKind
from flowmap.weights.fields import CONFIG
from flowmap.weights.pipeline import ADAPTER
from flowmap.workshop.adapter_files import write_adapter
from flowmap.workshop.adapters import merged as weights_of
from flowmap.workshop.adapters import own_of
from flowmap.workshop.exporting import copy_encoders, dtype_words, loading, write_config, write_index, write_scheduler
from flowmap.workshop.writing import write_model
from flowmap_wan.asked import Asked
from flowmap_wan.checkpoint import FAR, FIRST_RELEASE, Checkpoint
from flowmap_wan.configs import FarWan21Config
from flowmap_wan.other_tools import OTHER_FORMS, of_one_time, on_a_list, write_for_others
from flowmap_wan.telling import about, jumping
from flowmap_wan.transformer import WanConfig, kept, shell, stored

_RELEASED_MODEL = "far.models.transformer_far_wan_model"
_RELEASED_SCHEDULER = ("far.schedulers.scheduling_flowmap_euler_discrete", "FlowMapDiscreteScheduler")
_RELEASED_PIPELINES = {
    False: ("far.pipelines.pipeline_wan_anyflow", "WanAnyFlowPipeline"),
    True: ("far.pipelines.pipeline_far_wan_anyflow", "FARWanAnyFlowPipeline"),
}
_PIPELINES: Mapping[type[Any], str] = {
    WanTransformer3DModel: "WanPipeline",
    AnyFlowTransformer3DModel: "AnyFlowPipeline",
    AnyFlowFARTransformer3DModel: "AnyFlowFARPipeline",
}


def write_pipeline(asked: Asked, source: Checkpoint | None, folder: Path) -> str:
    """Write what is `asked` for, and the encoders of `source`, into `folder`; returns how to load them.

    Forms are `diffusers`, `released` (the classes of NVlabs/AnyFlow), and those of flowmap_wan.other_tools. A flow map
    becomes an AnyFlow model, a velocity the plain Wan model that it is. One that begins with a picture, of which
    diffusers has no class of two times, becomes plain too, on the list of times of its grid (flowmap_wan.one_time).
    Adapters are merged into the weights, or written beside the base in the form of diffusers' LoRA files (the patches
    of compressed frames, which are trained whole, are always in the weights). Raises FlowmapError for a velocity that
    plain Wan is not, and for a form that cannot be.
    """
    if asked.form in OTHER_FORMS:
        return write_for_others(asked, folder)
    config, transformer, adapter, form = asked.config, asked.transformer, asked.adapter, asked.form
    shift, apart, kind = asked.grid.shift, asked.apart, asked.kind
    if apart and form == "released":
        raise FlowmapError("--keep-lora: AnyFlow's released classes take whole weights only; leave it out")
    if kind == "velocity" and form == "released":
        raise FlowmapError(
            "--format released: AnyFlow's own classes are flow maps, and this stage trains a velocity; leave it out"
        )
    listed = kind == "flow_map" and config.pictures
    if listed and (apart or jumping(kind, asked.grid)):
        raise FlowmapError(
            "--keep-lora: a flow map of pictures is written whole for diffusers; leave it out, or take comfyui"
            if apart
            else "--format diffusers: this student jumps to data, and diffusers' pipeline for pictures takes steps; "
            "take original or comfyui"
        )
    makes = weights_of(transformer, None if apart else adapter)
    if apart:
        makes |= {k: make for k, make in weights_of(transformer, adapter).items() if k.startswith(FAR)}
    if kind == "velocity":
        makes = of_one_time(makes)
    if listed:
        makes = on_a_list(transformer, makes, asked.grid)
    plain = shell(config, transformer.config, single_time=kind == "velocity" or listed)
    said = about(config, asked.spec, kind, asked.grid, plain.config.attention_head_dim) if listed else None
    write_model(plain, makes, partial(stored, config), folder / "transformer", about=said)
    dtype = dtype_words(config.base_precision, source and source.pipeline)
    rest = "" if config.base_precision == "float32" else "; its time embedders, norms and tables in float32"
    loads = [f"# the transformer's weights are in {config.base_precision}{rest}", "import torch"]
    if source is not None:
        copy_encoders(source.pipeline, folder)
    if form == "released":
        return "\n".join([*loads, *_as_released(config, plain, source, folder, shift, f"torch_{dtype}")])
    loads.insert(1, "# dtype is called torch_dtype in diffusers before 0.42")
    name = type(plain).__name__
    pipeline = "WanImageToVideoPipeline" if config.pictures else _PIPELINES[type(plain)]
    if source is not None:
        scheduler = _scheduler(kind, shift)
        write_scheduler(scheduler, folder)
        own = {"transformer": ["diffusers", name], "scheduler": ["diffusers", type(scheduler).__name__]}
        write_index(folder, pipeline, source.classes() | own)
    loads += loading(f"diffusers.{name}", f"diffusers.{pipeline}" if source else None, dtype)
    if listed:
        how = f"num_inference_steps={asked.grid.calls}, guidance_scale=1"
        loads.append(f"# it is a flow map on one list of times, and on no other: pipe(..., {how})")
    if apart:
        assert adapter is not None
        loads.append(_write_lora(config, transformer, adapter, folder / ADAPTER))
    return "\n".join(loads)


def _scheduler(kind: NetworkKind, shift: float) -> Any:
    """What walks along the grid: the flow map's own steps, or Wan's UniPC."""
    if kind == "flow_map":
        return FlowMapEulerDiscreteScheduler(shift=shift)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def _write_lora(config: WanConfig, transformer: Any, adapter: str, folder: Path) -> str:
    """Write the adapter as diffusers' and PEFT's files; returns how to load it."""
    assert config.lora is not None
    written = write_adapter(own_of(transformer, adapter), config.lora.rank, config.lora.alpha, folder)
    return (
        "# diffusers reads adapters with PEFT: pip install peft\n"
        + f'transformer.load_lora_adapter("FOLDER/{ADAPTER}", weight_name="{written.name}", prefix=None)'
    )


def _as_released(
    config: WanConfig, plain: Any, source: Checkpoint | None, folder: Path, shift: float, dtype: str
) -> list[str]:
    """Describe the weights of `plain`, whose names are the released class's too, as AnyFlow's pipelines do.

    Returns the lines that load them.
    """
    causal = config.type == "far_wan21"
    about = kept(plain.config)
    about |= {"qk_norm": "rms_norm_across_heads", "image_dim": None, "added_kv_proj_dim": None}
    # Without these two the class leaves out what AnyFlow adds to Wan, with no more than a warning.
    about |= {"init_flowmap_model": True, "init_far_model": causal}
    # Those of the class's defaults where nothing is compressed.
    about |= {"chunk_partition": None, "full_chunk_limit": 3, "compressed_patch_size": [1, 4, 4]}
    if isinstance(config, FarWan21Config):
        about["chunk_partition"] = list(config.chunks)
        about["full_chunk_limit"] = config.full_chunks
        about["compressed_patch_size"] = list(config.compressed_patch_size)
    write_config(folder / "transformer" / CONFIG, FIRST_RELEASE, about)
    module, pipeline = _RELEASED_PIPELINES[causal]
    if source is not None:
        (folder / "scheduler").mkdir()
        told = {"num_train_timesteps": 1000, "shift": shift, "weight_type": "gaussian"}
        write_config(folder / "scheduler" / "scheduler_config.json", _RELEASED_SCHEDULER[1], told)
        own = {"transformer": [_RELEASED_MODEL, FIRST_RELEASE], "scheduler": list(_RELEASED_SCHEDULER)}
        write_index(folder, pipeline, source.classes() | own)
    made = f"from {module} import {pipeline}" if source else f"from {_RELEASED_MODEL} import {FIRST_RELEASE}"
    how = loading(FIRST_RELEASE, pipeline if source else None, dtype)
    return ["# with the code of https://github.com/NVlabs/AnyFlow on the path", made, *how]
