"""Write a role as a folder that diffusers loads: a velocity as its plain model, a flow map with both times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.plugin import NetworkKind, SampleSpec
from flowmap.weights.fields import CONFIG
from flowmap.weights.headers import read_json
from flowmap.weights.pipeline import ADAPTER
from flowmap.workshop.adapter_files import write_adapter
from flowmap.workshop.adapters import merged as weights_of
from flowmap.workshop.adapters import own_of
from flowmap.workshop.exporting import copy_encoders, dtype_words, loading, write_config, write_index, write_scheduler
from flowmap.workshop.writing import write_model
from flowmap_diffusers.checkpoint import TWO_TIMES, Checkpoint
from flowmap_diffusers.exported import together
from flowmap_diffusers.family import Family, Sizes
from flowmap_diffusers.schedulers import scheduler_of
from flowmap_diffusers.starting import held, new
from flowmap_diffusers.student import Student
from flowmap_diffusers.two_times import DELTA, delta_of

if TYPE_CHECKING:
    from flowmap_diffusers.image_config import ImageConfig

_CODE = "two_times"
_NEEDED = "# two_times.py in the folder is the code of the second time: read it, it is short; without it nothing loads"


def write_image_pipeline(
    config: ImageConfig,
    spec: SampleSpec,
    sizes: Sizes,
    transformer: Any,
    adapter: str | None,
    source: Checkpoint | None,
    folder: Path,
    merged: bool,
    shift: float,
    kind: NetworkKind,
) -> str:
    """Write `transformer` under `adapter`, and the encoders of `source`, into `folder`; returns how to load them.

    A flow map is written as a class of two times with its code beside it; diffusers' class of one time refuses those
    weights. Adapters are merged, or written beside the base. Raises FlowmapError for a form that cannot be.
    """
    family, apart = config.family, adapter is not None and not merged
    if apart and kind == "flow_map":
        raise FlowmapError("--keep-lora: a network of two times has code of its own, which takes whole weights only")
    if kind == "flow_map" and not family.is_velocity:
        raise FlowmapError(
            f"diffusers' {family.pipeline} asks for noise, and this student makes a velocity: there is no form that "
            "others load; its weights are in the run's checkpoints"
        )
    makes = weights_of(transformer, None if apart else adapter)
    embedders = family.embedders(sizes)
    makes = together(makes, embedders) if kind == "flow_map" else _of_one_time(makes, embedders)
    with init_empty_weights(include_buffers=False):
        plain: Any = new(config, sizes)
    precision = partial(held, config)
    if kind == "flow_map":
        plain = _paired(plain, embedders)
    write_model(plain, makes, precision, folder / "transformer")
    dtype = dtype_words(config.base_precision, source and source.pipeline)
    if source is not None:
        copy_encoders(source.pipeline, folder)
    if kind == "flow_map":
        # One for all parts: what encoders make goes into the transformer as it is.
        return _as_two_times(config, spec, sizes, folder, source, shift, f"dtype=torch.{config.base_precision}")
    scheduler = scheduler_of(family, shift)
    own = {"transformer": ["diffusers", family.model], "scheduler": ["diffusers", type(scheduler).__name__]}
    if source is not None:
        write_scheduler(scheduler, folder)
        write_index(folder, family.pipeline, _classes(source) | own)
    lines = loading(f"diffusers.{family.model}", f"diffusers.{family.pipeline}" if source else None, dtype)
    if apart:
        assert adapter is not None
        assert config.lora is not None
        file = write_adapter(own_of(transformer, adapter), config.lora.rank, config.lora.alpha, folder / ADAPTER)
        lines.append(f'transformer.load_lora_adapter("FOLDER/{ADAPTER}", weight_name="{file.name}", prefix=None)')
    return "\n".join(["import torch", *lines])


def _as_two_times(
    config: ImageConfig,
    spec: SampleSpec,
    sizes: Sizes,
    folder: Path,
    source: Checkpoint | None,
    shift: float,
    dtype: str,
) -> str:
    """Write what loads the transformer with both times, and the pipeline around it; returns the lines that do."""
    family, part = config.family, folder / "transformer"
    told = {key: value for key, value in read_json(part / CONFIG).items() if not key.startswith("_")}
    if source is None:
        told["auto_map"] = {"AutoModel": f"{_CODE}.TwoTimes"}
    write_config(part / CONFIG, TWO_TIMES + family.model, told)
    asked = family.unguided.format(told=config.told())
    height, width = spec.shape[2:]
    Student(
        height=height,
        width=width,
        text_length=config.text_length,
        negative_prompt=config.negative_prompt,
        gate=config.share(),
        guidance=config.told(),
    ).write(folder)
    code = _code(family, family.embedders(sizes), config.share()).replace(Family.unguided, asked)
    (part / f"{_CODE}.py").write_text(code)
    if source is None:
        load = f'diffusers.AutoModel.from_pretrained("FOLDER/transformer", trust_remote_code=True, {dtype})'
        follow = f"transformer.follow(scheduler)   # a FlowMapEulerDiscreteScheduler(shift={shift:g})"
        return "\n".join(["import torch", _NEEDED, f"transformer = {load}", follow])
    (folder / f"{_CODE}.py").write_text(code)
    (folder / "scheduler").mkdir()
    write_config(folder / "scheduler" / "scheduler_config.json", "FlowMapScheduler", {"shift": shift})
    (folder / "scheduler" / f"{_CODE}.py").write_text(code)
    own = {"transformer": [_CODE, "TwoTimes"], "scheduler": [_CODE, "FlowMapScheduler"]}
    write_config(folder / "model_index.json", [_CODE, "FlowMapPipeline"], _classes(source) | own)
    load = f'pipe = diffusers.DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True, {dtype})'
    # As it was trained: a pipeline's own defaults are others.
    size = f"height={height}, width={width}, max_sequence_length={config.text_length}"
    call = f'image = pipe("a red fox", num_inference_steps=4, {asked}, {size}).images[0]  # 1, 2, 4, ... calls'
    return "\n".join(["import torch", _NEEDED, load, call])


def _code(family: Family, embedders: tuple[str, ...], gate: float) -> str:
    """The code of two times for this family."""
    lines = (Path(__file__).parent / "two_times_code.py").read_text("utf-8").splitlines()
    own = {
        "MODEL, PIPELINE = ": (family.model, family.pipeline),
        "EMBEDDERS, GATE = ": (embedders, gate),
        "SCALE, BACKWARDS = ": (family.scale, family.backwards),
    }
    for start, values in own.items():
        (place,) = [number for number, line in enumerate(lines) if line.startswith(start)]
        lines[place] = f"{start}{', '.join(map(repr, values))}"
    return "\n".join(lines) + "\n"


def _classes(source: Checkpoint) -> dict[str, list[str]]:
    """Which library and class the encoders are of: as the index beside them has it, or as the family does."""
    family = source.family
    usual = {part: ["transformers", kind] for part, kind in family.parts.items()} | {"vae": ["diffusers", family.vae]}
    return source.pipeline.classes(usual)


def _of_one_time(
    makes: Mapping[str, Callable[[], Tensor]], embedders: tuple[str, ...]
) -> dict[str, Callable[[], Tensor]]:
    """The weights of a one-time network among those of a two-time one, which at r = t must be that."""
    for path in embedders:
        start = f"{delta_of(path)}."
        for key in makes:
            if key.startswith(start) and not torch.equal(makes[key](), makes[key.replace(start, f"{path}.", 1)]()):
                raise FlowmapError(
                    "this stage trains a velocity whose two embedders of time differ: no class of one time computes "
                    "it; export a stage that trains a flow map"
                )
    return {key: make for key, make in makes.items() if f".{DELTA}." not in f".{key}"}


def _paired(plain: Any, embedders: tuple[str, ...]) -> Any:
    """`plain`, which has no data, with the weights of its embedders in pairs."""
    for path in embedders:
        for layer in plain.get_submodule(path).modules():
            for name, one in list(layer.named_parameters(recurse=False)):
                shape = (2, *one.shape)
                layer.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device="meta")))
    return plain
