"""The files of a causal student of others: where its transformers and its encoders are, what is missing or wrong.

Torch-free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowmap.errors import FlowmapError
from flowmap.plugin import Finding, Origin, Pretrained
from flowmap.recipe.run_weights import run_as_base
from flowmap.weights import pipeline
from flowmap.weights.fields import CONFIG
from flowmap.weights.fingerprints import of_tensors
from flowmap.weights.headers import read_json
from flowmap.weights.names import Published, absence, find
from flowmap.weights.runs import origin, run_in
from flowmap_wan.architecture import PUBLISHED_SIZES
from flowmap_wan.checkpoint import PUBLISHED, PUBLISHED_IMAGE, Checkpoint
from flowmap_wan.foreign import HEAD_DIM, Foreign, transformer_in
from flowmap_wan.image_checkpoint import PARTS
from flowmap_wan.image_layout import IMAGE_CHANNELS
from flowmap_wan.layout import LATENT_CHANNELS, TransformerFields
from flowmap_wan.plain import OF_WAN, clip, velocity_of
from flowmap_wan.refusals import unread
from flowmap_wan.released import Release, release_of
from flowmap_wan.settings import ArchitectureConfig
from flowmap_wan.told import told_by, told_findings

if TYPE_CHECKING:
    from flowmap_wan.causal_configs import CausalConfig
    from flowmap_wan.files_config import FilesConfig

_PARTS = ("text_encoder", "tokenizer", "vae")
_ENCODERS = Published(PUBLISHED.owners, _PARTS)
_ENCODERS_IMAGE = Published(PUBLISHED_IMAGE.owners, (*_PARTS, *PARTS))
_WITH_PICTURES = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
_PLAIN = {"1.3B": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "14B": "Wan-AI/Wan2.1-T2V-14B-Diffusers"}
"""What plain Wan2.1 makes."""


def head_dim_of(config: FilesConfig) -> int:
    """Dimensions of a head; raises FlowmapError for a damaged configuration beside the weights."""
    folder, told = find(config.weights), told_by(config.weights)
    file = None if folder is None else folder / "transformer" / CONFIG
    if config.head_dim is None and told is not None:
        config = told.config(config.weights, type(config)) or config
    if config.head_dim is not None or file is None or not file.is_file():
        return config.head_dim or HEAD_DIM
    told = read_json(file).get("attention_head_dim", HEAD_DIM)
    if not isinstance(told, int) or isinstance(told, bool) or not 0 < told <= 4096:
        raise FlowmapError(f"{file}: attention_head_dim is {str(told)[:60]}; fetch it again")
    return told


def sizes_of(config: FilesConfig) -> Mapping[str, Any] | None:
    """A diffusers configuration: the recipe's own, by the weights' shapes, or by their name; None if unknown."""
    if config.architecture is not None:
        return config.architecture.diffusers()
    base, run = origin(config.weights)
    if base is None:
        return None
    there = config.model_copy(update={"weights": base, "head_dim": run.get("head_dim", config.head_dim)})
    with suppress(FlowmapError, ValueError):
        if isinstance(run.get("architecture"), Mapping):
            return ArchitectureConfig.model_validate(run["architecture"]).diffusers()
        transformer = transformer_in(base, "transformer", config.pictures)
        if transformer is not None:
            return transformer.sizes(head_dim_of(there))
    release = release_of(base)
    if release is None:
        return None
    return TransformerFields.model_validate({"_class_name": "", **PUBLISHED_SIZES[release.size]}).model_dump()


def encoders_named(config: FilesConfig) -> str:
    """The folder or hub id with the text encoder and the VAE."""
    if config.encoders_from is not None:
        return config.encoders_from
    base, _ = origin(config.weights)
    folder = None if base is None else find(base)
    if base is not None and folder is not None and (folder / "text_encoder").is_dir():
        return base
    release = None if base is None else release_of(base)
    if release is not None:
        return _PLAIN[release.size]
    if config.pictures:
        return _WITH_PICTURES
    return _PLAIN["14B" if (sizes_of(config) or {}).get("num_layers", 0) > 30 else "1.3B"]


def encoders_folder(config: FilesConfig) -> Checkpoint:
    """The same, whole; raises FlowmapError with what is missing, and how to get it."""
    return Checkpoint(pipeline.opened(encoders_named(config), _encoders(config)))


def _encoders(config: FilesConfig) -> Published:
    return _ENCODERS_IMAGE if config.pictures else _ENCODERS


def opened_encoders(config: FilesConfig) -> Checkpoint:
    """The same, with no flaw that headers tell."""
    found = encoders_folder(config)
    if (flaw := found.encoders_flaw(sizes_of(config))) is not None:
        raise FlowmapError(flaw)
    return found


def absences(config: FilesConfig) -> Iterator[Finding]:
    """What is not on this machine."""
    if run_in(config.weights) is None:
        yield from (Finding("error", ("weights",), why) for why in _absent(config))
    what = "text encoder, image encoder and VAE" if config.pictures else "text encoder and VAE"
    for why in pipeline.missing(encoders_named(config), _encoders(config)):
        yield Finding("error", ("encoders_from",), f"{what}: {why}")


def _absent(config: FilesConfig) -> Iterator[str]:
    weights, folder = config.weights, find(config.weights)
    release = release_of(weights)
    get = "" if release is None else f".\n  Get them: hf download {release.repository}"
    if folder is None and not os.path.isfile(os.path.expanduser(weights)):
        yield f"{absence(weights)}{get}"
        return
    for part in config.parts():
        with suppress(FlowmapError):  # what is damaged, or one of several files, is `flaws` to say
            if transformer_in(weights, part, config.pictures) is None:
                yield _without(Path(os.path.expanduser(weights)) if folder is None else folder, part, get)


def _without(place: Path, part: str, get: str) -> str:
    """Say that there is no `part` in `place`, and what there is."""
    there = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
    if (why := next((why for file in there if file.is_file() and (why := unread(file))), None)) is not None:
        return why
    if part == "transformer_2":
        return f"{place} is half of a pair: it has no {part}/, the network for times below the boundary{get}"
    return f"{place} has no .safetensors file, and no {part}/ with one{get}"


def flaws(config: FilesConfig) -> Iterator[Finding]:
    """What is wrong with the transformers, by headers and shapes; nothing of what is not here, or of a run of ours."""
    if run_in(config.weights) is not None:
        return
    own = list(told_findings(config))
    yield from own
    if any(finding.level == "error" for finding in own):
        return
    try:
        found = [transformer_in(config.weights, part, config.pictures) for part in config.parts()]
        wrong = next((why for one in found if one is not None and (why := one.flaw(head_dim_of(config)))), None)
        wrong = wrong or _unlike([one for one in found if one is not None], head_dim_of(config))
    except FlowmapError as error:
        wrong = str(error)
    if wrong is not None:
        yield Finding("error", ("weights",), wrong)
        return
    release = release_of(config.weights)
    if release is not None and config.head_dim not in (None, HEAD_DIM):
        why = f"heads of these weights ({release.repository}) have {HEAD_DIM} dimensions, as no shape tells"
        yield Finding("error", ("head_dim",), f"{why}; leave this out, or rename weights that are others")
    with suppress(FlowmapError):  # what is not here, is `absences` to say
        folder = encoders_folder(config)
        if (flaw := folder.encoders_flaw(sizes_of(config))) is not None:
            yield Finding("error", ("encoders_from",), flaw)


def misfits(config: FilesConfig) -> Iterator[Finding]:
    """The same, and whether the transformers are for the latents of Wan2.1's VAE."""
    found = list(flaws(config))
    yield from found
    channels = None if found else (sizes_of(config) or {}).get("in_channels")
    wanted = LATENT_CHANNELS + (IMAGE_CHANNELS if config.pictures else 0)
    if channels not in (None, wanted):
        why = f"{config.weights} takes latents of {channels} channels, and Wan2.1's VAE makes {wanted}"
        yield Finding("error", ("weights",), f"{why}; take weights of Wan2.1")


def _unlike(found: list[Foreign], head_dim: int) -> str | None:
    """Why the networks of a pair do not belong together."""
    if len(found) == 2 and found[0].sizes(head_dim) != found[1].sizes(head_dim):
        return f"{found[0].place} and {found[1].place} are networks of different sizes; they are no pair"
    if len(found) == 2 and of_tensors(found[0].files) == of_tensors(found[1].files):
        return f"{found[0].place} and {found[1].place} hold the same network twice; they are no pair"
    return None


def origin_of(weights: str) -> Origin:
    """Where published weights come from."""
    base, _ = origin(weights)
    release = None if base is None else release_of(base)
    return Origin(None, "unknown") if release is None else Origin(release.repository, release.licence)


def pretrained(config: CausalConfig) -> Pretrained | None:
    """What the weights of `config` are as they stand; None if they are not here whole.

    They jump to data (of two networks the first to its boundary) and know no velocity. What was not published is
    sampled as Self-Forcing is. Raises FlowmapError for what is here and cannot be read.
    """
    run = run_in(config.weights)
    if run is not None:
        return run_as_base(run)
    if any(absences(config)):
        return None
    for finding in flaws(config):
        if finding.level == "error":
            raise FlowmapError(finding.message)
    told, files = told_by(config.weights), tuple(files_of(config))
    if told is not None:
        return told.pretrained(files, causal=True)
    if getattr(config, "one_time_weights", "jump") == "velocity":
        # All frames together: it is plain Wan, which never saw a chunk.
        return velocity_of(files, OF_WAN, None)
    known = release_of(config.weights)
    release = known or _like(config)
    spec = clip(*release.shape)
    own = config.sampler_fields()
    how = {**release.told, "sampler_fields": {**release.sampler, **own}, "bound": tuple(own)}
    if known is None:
        how |= {"published": None, "also": ()}
    return Pretrained("flow_map", "forced", files, spec, release.shift, "lcm", diagonal=False, to_data=True, **how)


def _like(config: CausalConfig) -> Release:
    from flowmap_wan.released import RELEASES

    name = "SFWan2.2-I2V-A14B-Preview-Diffusers" if config.type == "causal_wan22" else "self_forcing_dmd"
    return RELEASES[name]


def files_of(config: FilesConfig) -> Iterator[Path]:
    """The files that decide what is computed."""
    for part in config.parts():
        transformer = transformer_in(config.weights, part, config.pictures)
        yield from () if transformer is None else transformer.files
    yield from pipeline.Pipeline(encoders_folder(config).folder, _encoders(config)).everything()
