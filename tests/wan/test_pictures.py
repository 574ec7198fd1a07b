"""Wan2.1-I2V: network, encoders and a whole guided sample are diffusers' own, and a student is its teacher at r = t."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from flowmap_samplers.multistep import unipc
from flowmap_wan.checkpoint import PUBLISHED_IMAGE
from flowmap_wan.configs import Wan21Config
from flowmap_wan.image_config import Wan21I2VConfig
from flowmap_wan.image_layout import ImageEncoderFields, image_encoder_shapes, with_short_names
from flowmap_wan.layout import TransformerFields, transformer_shapes
from flowmap_wan.opening import claimed
from flowmap_wan.twin import make_twin
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Samples, as_flow_map
from flowmap.maths.path import grid
from flowmap.networks.guidance import Guided, GuidedCond
from flowmap.plugin import SampleSpec
from flowmap.testing import check_backbone
from flowmap.workshop.backbone import ModuleBackbone

from .support import draw, error, gradients, lora, noise

SPEC = SampleSpec((9, 3, 48, 32), text=True, fps=16.0)
TEXTS = ["a red ball rolls", "two dogs, and a cat"]
NEGATIVE = "blurry and still"
# diffusers' attention to pictures takes 512 tokens of text for granted.
LENGTH = 512


@pytest.fixture(scope="session")
def i2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in the layout of Wan2.1-I2V whose weights are nothing special."""
    folder = make_twin(tmp_path_factory.mktemp("wan") / "i2v", pictures=True)
    model = WanTransformer3DModel.from_pretrained(folder / "transformer")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def other(i2v: Path, tmp_path: Path) -> Path:
    """A copy of that checkpoint to change."""
    return Path(shutil.copytree(i2v, tmp_path / "other"))


def configured(folder: Path, **fields: Any) -> Wan21I2VConfig:
    return Wan21I2VConfig(weights=str(folder), **{"text_length": LENGTH, "negative_prompt": NEGATIVE, **fields})


def built(folder: Path, **fields: Any) -> ModuleBackbone:
    config = configured(folder, **fields)
    assert not [*config.missing(), *config.findings(SPEC)]
    made = config.build(SPEC)
    assert isinstance(made, ModuleBackbone)
    return made


def clips(count: int = 2) -> Tensor:
    bits = torch.randint(0, 256, (count, *SPEC.shape), generator=torch.Generator().manual_seed(9))
    return bits / 127.5 - 1


def encoded(backbone: ModuleBackbone) -> Batch:
    return backbone.encode(Samples(clips(), prompts=TEXTS), draw(2))


def pipeline(folder: Path) -> Any:
    found = WanImageToVideoPipeline.from_pretrained(folder)
    found.set_progress_bar_config(disable=True)
    return found


def picture(row: int) -> Image.Image:
    return Image.fromarray(((clips()[row, 0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("adapted", [False, True])
@torch.no_grad()
def test_the_velocity_is_that_of_diffusers(adapted: bool, i2v: Path) -> None:
    backbone, pipe = built(i2v, lora=lora() if adapted else None), pipeline(i2v)
    batch, beside = encoded(backbone), []
    for row in (0, 1):
        ready = pipe.video_processor.preprocess(picture(row), height=48, width=32)
        beside.append(pipe.prepare_latents(ready, 1, 16, 48, 32, 9, torch.float32, torch.device("cpu"))[1])
    features = pipe.encode_image([picture(0), picture(1)])
    text, null = pipe.encode_prompt(TEXTS, NEGATIVE, max_sequence_length=LENGTH)
    for name, kind in (("teacher", "velocity"), ("student", "flow_map")):
        network = backbone.role(name, kind, None, draw()).network  # type: ignore[arg-type]
        for t in (torch.tensor([1.0, 0.02]), torch.tensor([0.83, 0.31])):
            x = noise(2, 3, 16, 6, 4)
            for cond, tokens in ((batch.cond, text), (batch.null, null)):
                seen = torch.cat([x.transpose(1, 2), torch.cat(beside)], 1)
                theirs = pipe.transformer(seen, 1000 * t, tokens, features, return_dict=False)[0].transpose(1, 2)
                assert error(network.velocity(x, t, cond), theirs) < 1e-5
    two_times = as_flow_map(backbone.role("student", "flow_map", None, draw()).network)
    assert error(two_times.mean_velocity(x, t, 0.5 * t, batch.cond), network.velocity(x, t, batch.cond)) > 1e-3


class OnOurGrid(UniPCMultistepScheduler):
    """diffusers' scheduler, whose own grid ends before 0 and counts time in whole thousandths."""

    def set_timesteps(self, count: int, device: Any = None) -> None:
        super().set_timesteps(count, device=device)
        times = grid(count, self.config.flow_shift)
        self.timesteps, self.sigmas = 1000 * times[:-1], times.double().clamp(max=1 - 1e-6)
        self.set_begin_index(0)


@torch.no_grad()
def test_a_guided_sample_is_that_of_the_pipeline(i2v: Path) -> None:
    backbone, pipe = built(i2v), pipeline(i2v)
    assert isinstance(pipe.scheduler, UniPCMultistepScheduler)
    start, times = noise(2, 3, 16, 6, 4), grid(4, 3.0)
    pipe.scheduler = OnOurGrid.from_config(pipe.scheduler.config)
    cond, null = backbone.condition(TEXTS, 2, torch.device("cpu"))
    cond, null = backbone.pictured(cond, null, clips()[:, :1])
    network = Guided(backbone.role("teacher", "velocity", None, draw()).network, 5.0)
    ours = unipc().sample(network, start, times, GuidedCond(cond, null), draw(2))
    for row in (0, 1):
        theirs = pipe(
            picture(row),
            TEXTS[row],
            NEGATIVE,
            height=48,
            width=32,
            num_frames=9,
            num_inference_steps=4,
            latents=start[row : row + 1].transpose(1, 2),
            output_type="latent",
        ).frames.transpose(1, 2)
        assert error(ours[row : row + 1], theirs) < 2e-5


# What torch loads for its first forward-mode derivative uses torch.jit, which it deprecates itself.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_backbone_keeps_the_contract(i2v: Path) -> None:
    check_backbone(configured(i2v, lora=lora(), text_length=8), SPEC)


def test_encoded_samples_are_the_same_batch(i2v: Path) -> None:
    backbone = built(i2v, text_length=8)
    raw = Samples(clips(), prompts=TEXTS)
    ready = backbone.precompute(raw, draw(2))
    assert ready.encoded
    batch, other = backbone.encode(raw, draw(2)), backbone.encode(ready, draw(2))
    network, t = backbone.role("teacher", "velocity", None, draw()).network, torch.tensor([0.7, 0.2])
    assert torch.equal(batch.x0, other.x0)
    with torch.no_grad():
        for mine, theirs in ((batch.cond, other.cond), (batch.null, other.null)):
            assert torch.equal(network.velocity(batch.x0, t, mine), network.velocity(batch.x0, t, theirs))
    # The captions of one clip are beside one picture.
    both = backbone.precompute(Samples(clips()[:1], prompts=TEXTS), draw(1)).prompts
    assert [len(x) for x in both.tensors().values()] == [2, 2, 2]


def test_without_a_picture_nothing_is_made(i2v: Path) -> None:
    backbone = built(i2v, text_length=8)
    cond, _ = backbone.condition(TEXTS, 2, torch.device("cpu"))
    network = backbone.role("teacher", "velocity", None, draw()).network
    with pytest.raises(FlowmapError, match="makes videos from a picture, and was given none"):
        network.velocity(noise(2, 3, 16, 6, 4), torch.ones(2), cond)


def test_gradients_reach_the_keys_of_pictures(i2v: Path) -> None:
    layers = ("attn2.to_q", "attn2.add_k_proj", "attn2.add_v_proj")
    adapters = lora().model_copy(update={"layers": layers})
    batch = encoded(backbone := built(i2v, lora=adapters, text_length=8))
    role = backbone.role("student", "flow_map", None, draw())
    network, times = as_flow_map(role.network), torch.tensor([0.8, 0.4])
    with torch.no_grad():
        for key, parameter in role.own.items():
            parameter.add_(0.1 * noise(*parameter.shape, seed=len(key)))
    loss: Callable[[], Tensor] = lambda: network.mean_velocity(batch.x0, times, 0.5 * times, batch.cond).square().mean()  # noqa: E731
    loss().backward()
    found = gradients(role)
    key = next(name for name in found if "add_k_proj" in name and "lora_B" in name)
    with torch.no_grad():
        parameter, slope = role.own[key], float((found[key] ** 2).sum())
        step = 1e-3 / slope**0.5
        values = []
        for sign in (1, -1):
            parameter.add_(sign * step * found[key])
            values.append(float(loss()))
            parameter.sub_(sign * step * found[key])
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=2e-2)


# What a checkpoint is


def changed(folder: Path, **fields: object) -> None:
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def told(config: Any) -> list[str]:
    return [finding.message for finding in (*config.missing(), *config.findings(SPEC)) if finding.level == "error"]


def test_a_checkpoint_is_claimed_by_one_backbone(i2v: Path, wan: Path) -> None:
    assert claimed(str(i2v)) == "i2v"
    assert Wan21I2VConfig.of_weights(str(i2v)) is not None
    assert Wan21Config.of_weights(str(i2v)) is None
    assert Wan21I2VConfig.of_weights(str(wan)) is None
    assert all(Wan21I2VConfig.of_weights(f"{owner}/{name}") for name, owner in PUBLISHED_IMAGE.owners.items())


@pytest.mark.parametrize(("name", "size"), [("a", (480, 832)), ("Wan2.1-I2V-14B-720P-Diffusers", (720, 1280))])
def test_it_is_sampled_as_its_authors_do(name: str, size: tuple[int, int], other: Path) -> None:
    folder = other.rename(other.parent / name)
    found = configured(folder).pretrained()
    assert found is not None
    assert (found.sampler, found.calls, found.cfg_scale, found.shift, found.kind) == ("unipc", 50, 5.0, 3.0, "velocity")
    assert found.spec is not None
    assert found.spec.shape == (81, 3, *size)


def test_weights_of_another_task_are_refused_by_name(other: Path, wan: Path) -> None:
    (message,) = told(Wan21Config(weights=str(other)))
    assert "use backbone type 'wan21_i2v'" in message
    (message,) = told(configured(wan))
    assert message.endswith("makes videos from text alone; use backbone type 'wan21' or 'far_wan21' for it")
    (message,) = told(Wan21I2VConfig(weights="random"))
    assert message.startswith("'random' has no image encoder")
    changed(other, pos_embed_seq_len=514)
    for config in (configured(other), Wan21Config(weights=str(other))):
        (message,) = told(config)
        assert "makes videos between a first and a last picture (Wan2.1-FLF2V)" in message
    changed(other, pos_embed_seq_len=None, image_dim=None, added_kv_proj_dim=None)
    for part in ("image_encoder", "image_processor"):
        shutil.rmtree(other / part)
    for config in (configured(other), Wan21Config(weights=str(other))):
        (message,) = told(config)
        assert "without an image encoder, as Wan2.2's, which have two experts" in message
        assert "\n" not in message


def of_part(part: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = next((folder / part).glob("*.safetensors"))
        state = load_file(file)
        change(state)
        save_file(state, file, metadata={"format": "pt"})

    return apply


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no processor": (lambda f: shutil.rmtree(f / "image_processor"), "missing: image_processor/preprocessor_config"),
    "no encoder": (lambda f: (f / "image_encoder" / "config.json").unlink(), "missing: image_encoder/config.json"),
    "a key of the encoder": (
        of_part("image_encoder", lambda s: s.pop("encoder.layers.1.mlp.fc1.bias")),
        "1 parameters differ, first encoder.layers.1.mlp.fc1.bias is missing",
    ),
    "keys of pictures": (
        of_part("transformer", lambda s: s.pop("blocks.1.attn2.add_k_proj.weight")),
        "1 parameters differ, first blocks.1.attn2.add_k_proj.weight is missing",
    ),
    "an embedder": (
        of_part("transformer", lambda s: s.pop("condition_embedder.image_embedder.ff.net.2.bias")),
        "first condition_embedder.image_embedder.ff.net.2.bias is missing",
    ),
    "channels": (lambda f: changed(f, in_channels=40), "in_channels|differ"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_damaged_is_said_in_one_sentence(change: Callable[[Path], object], message: str, other: Path) -> None:
    change(other)
    found = told(configured(other))
    assert len(found) == 1
    assert any(word in found[0] for word in message.split("|"))


@torch.no_grad()
def test_older_names_and_what_nobody_reads(other: Path, i2v: Path) -> None:
    def rename(state: dict[str, Tensor]) -> None:
        old = dict(state)
        state.clear()
        state.update({f"vision_model.{key}": value for key, value in old.items()})

    of_part("image_encoder", rename)(other)
    of_part("transformer", lambda s: s.update({"blocks.0.attn2.norm_added_q.weight": torch.ones(24)}))(other)
    mine, theirs = encoded(built(i2v)), encoded(built(other))
    t = torch.tensor([0.7, 0.2])
    networks = [built(folder).role("teacher", "velocity", None, draw()).network for folder in (i2v, other)]
    one, two = (n.velocity(mine.x0, t, b.cond) for n, b in zip(networks, (mine, theirs), strict=True))
    assert torch.equal(one, two)


PUBLISHED = {"in_channels": 36, "out_channels": 16, "image_dim": 1280, "added_kv_proj_dim": 5120}
"""What config.json of Wan-AI/Wan2.1-I2V-14B-480P-Diffusers has besides diffusers' defaults."""


def test_a_plan_knows_the_published_sizes_unread() -> None:
    config = Wan21I2VConfig(weights="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", lora=lora())
    spec = SampleSpec((81, 3, 480, 832), text=True, fps=16.0)
    footprint = config.footprint(spec, "no")
    assert footprint is not None
    with torch.device("meta"):
        model = WanTransformer3DModel(**PUBLISHED)
        clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14
            )
        )
    second_time = sum(p.numel() for p in model.condition_embedder.time_embedder.parameters())
    base = sum(p.numel() for p in model.parameters()) + second_time
    assert footprint.base().count == base
    assert config.encoders("cpu")["image encoder"] == 4 * sum(p.numel() for p in clip.parameters())


@pytest.mark.parametrize("layers", [1, 3])
def test_shapes_are_those_of_the_libraries(layers: int) -> None:
    fields = {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 8, "freq_dim": 16, "ffn_dim": 20}
    fields |= {"num_layers": layers, "in_channels": 36, "out_channels": 16, "image_dim": 10, "added_kv_proj_dim": 24}
    with torch.device("meta"):
        model = WanTransformer3DModel(**fields)
        clip = CLIPVisionModel(CLIPVisionConfig(num_hidden_layers=layers, hidden_size=24, image_size=28, patch_size=7))
    found = transformer_shapes(TransformerFields(_class_name="", **fields), False, False)
    assert found == {key: tuple(value.shape) for key, value in model.state_dict().items()}
    sizes = {"num_hidden_layers": layers, "hidden_size": 24, "image_size": 28, "patch_size": 7}
    seen = image_encoder_shapes(ImageEncoderFields(model_type="clip_vision_model", **sizes))
    own = clip.state_dict()
    assert seen == {
        with_short_names(key): tuple(value.shape) for key, value in own.items() if "position_ids" not in key
    }
