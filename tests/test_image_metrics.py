"""Metrics of images against the numbers and the code of others, and what is refused, remarked and remembered.

`golden/inception.safetensors` is what torch-fidelity 0.4.0 (features, TensorFlow's resize) and clean-fid 0.1.35 (its
resize) made of the images in it, with the weights of `seeded`; the numbers of vectors below are torch-fidelity's too.
Neither is installed here: both need torchvision, which cannot be imported beside every build of torch.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flowmap_datasets.configs import CheckerboardConfig, DigitsConfig, MovingDigitsConfig
from flowmap_datasets.digits import digits
from flowmap_metrics import images, inception_weights
from flowmap_metrics.bases import sets_of
from flowmap_metrics.classifier import train_classifier
from flowmap_metrics.configs import FrechetConfig, PixelsConfig
from flowmap_metrics.frechet import fitted, frechet
from flowmap_metrics.image_configs import (
    ClassAccuracyConfig,
    ClipScoreConfig,
    FidConfig,
    KidConfig,
    PrecisionConfig,
    RecallConfig,
)
from flowmap_metrics.images import resized_as_clean_fid, resized_as_tensorflow
from flowmap_metrics.inception_weights import read_inception
from flowmap_metrics.kernel import KernelDistance, kernel_distance
from flowmap_metrics.manifolds import ManifoldShare, share_inside
from flowmap_metrics.network_configs import InceptionConfig, VisionModelConfig
from flowmap_metrics.parts import halves
from flowmap_metrics.vision import embedded, preparing, read_network, reading
from flowmap_metrics.vision_twin import write_clip
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchmetrics.functional.multimodal import clip_score
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import KernelInceptionDistance
from transformers import AutoTokenizer, Dinov2Config, Dinov2Model, ViTConfig, ViTForImageClassification

from flowmap.errors import FlowmapError
from flowmap.files.shelf import Shelf
from flowmap.interfaces import EncodedText, Evidence, Features, Metric, References, Samples
from flowmap.launch.twin import twin_of
from flowmap.maths.draw import Draw
from flowmap.plugin import MetricConfig, SampleSpec
from flowmap.recipe.read import read
from flowmap.statistics.scores import read_scores
from flowmap.testing import check_features, check_metric
from flowmap.video.clips import to_float
from flowmap.workshop.quiet import no_bars
from tests.conftest import edited
from tests.seeded_inception import inception_shapes, seeded
from tests.small_runs import EVALUATION, HEAD, TEACHER
from tests.small_runs import flowmap as command

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = load_file(Path(__file__).parent / "golden" / "inception.safetensors")
IMAGE = SampleSpec((1, 3, 32, 32), text=True)
EVERY_13TH = (..., slice(None, None, 13), slice(None, None, 13))


@pytest.fixture(scope="session")
def shapes() -> dict[str, tuple[int, ...]]:
    return inception_shapes()


@pytest.fixture(scope="session")
def weights(shapes: dict[str, tuple[int, ...]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of seeded weights, without the counters that not all files have."""
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(seeded(shapes), file)
    return file


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("networks") / "clip")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    images._last.clear()
    yield
    images._last.clear()


def references(x: Tensor | None = None, prompts: Any = None) -> References:
    x = to_float(GOLDEN["images"])[:, None] if x is None else x
    samples = Samples(x, prompts=prompts)
    return References(samples, samples, x, x)


def evidence(x: Tensor, prompts: Any = None) -> Evidence:
    return Evidence(x, None, None, Draw.whole(0, "metric", 0, "test", len(x)), prompts)  # type: ignore[arg-type]


def vectors(count: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 7)) * scale


A, B = vectors(60, 5), vectors(50, 6) * 1.2


class Flat(Features):
    """Samples are vectors."""

    def of(self, samples: Tensor) -> Tensor:
        return samples.flatten(1)


# Inception


@pytest.mark.parametrize("resize", ["tensorflow", "clean"])
def test_features_are_those_of_torch_fidelity(resize: str, weights: Path) -> None:
    config = InceptionConfig.model_validate({"weights": str(weights), "resize": resize})
    found = config.build(references()).of(to_float(GOLDEN["images"])[:, None])
    torch.testing.assert_close(found, GOLDEN[f"features.{resize}"], rtol=1e-5, atol=1e-4)
    other = GOLDEN["features.clean" if resize == "tensorflow" else "features.tensorflow"]
    assert float((found - other).abs().max()) > 1


def test_resizes_are_those_of_torch_fidelity_and_clean_fid() -> None:
    large = torch.from_numpy(np.random.default_rng(98).integers(0, 256, (1, 3, 310, 400), dtype=np.uint8))
    for name, pixels in (("resized", GOLDEN["images"][:2]), ("large", large)):
        clean, tensorflow = resized_as_clean_fid(pixels, 299), resized_as_tensorflow(pixels, 299)
        torch.testing.assert_close(clean[EVERY_13TH], GOLDEN[f"{name}.clean"], rtol=0, atol=1e-4)
        torch.testing.assert_close(tensorflow[EVERY_13TH], GOLDEN[f"{name}.tensorflow"], rtol=0, atol=1e-4)


def test_images_are_seen_as_if_they_had_been_saved_and_grey_ones_in_three_channels() -> None:
    exact = torch.tensor([-1.0, -0.5, 0.0, 0.001, 1.0, 3.0]).reshape(1, 1, 1, 1, 6)
    seen = images.as_images(exact)
    assert seen.dtype == torch.uint8
    assert seen.tolist() == [[[[0, 64, 128, 128, 255, 255]]] * 3]


@pytest.mark.slow
def test_the_network_keeps_the_contract_of_features(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_weights, "SIDE", 75)  # the smallest that it takes, and quick
    check_features(InceptionConfig(weights=str(weights)))


def expanded(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Weights that are one number each, which take no room in a file."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


def without_a_bias(state: dict[str, Any]) -> Any:
    del state["fc.bias"]
    return state


ODD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (without_a_bias, "1 parameters differ, first fc.bias is missing"),
    "left over": (lambda s: s | {"AuxLogits.fc.bias": torch.zeros(3)}, "AuxLogits.fc.bias belongs to no such model"),
    "torchvision's": (
        lambda s: s | {"fc.weight": torch.zeros(1).expand(1000, 2048)},
        "first fc.weight is [1000, 2048] instead of [1008, 2048]",
    ),
    "no number": (
        lambda s: s | {"fc.bias": torch.tensor(float("nan")).expand(1008)},
        "fc.bias has numbers that are not finite",
    ),
    "no table": (lambda s: [1, 2], "is no table of weights by name"),
    "no tensors": (lambda s: s | {"fc.bias": "x"}, "is no table of weights by name"),
    "code": (lambda s: s | {"fc.bias": Path("x")}, "cannot be read as weights"),
}


@pytest.mark.parametrize(("change", "words"), ODD.values(), ids=ODD.keys())
def test_weights_of_another_network_are_refused(
    change: Callable[[dict[str, Any]], Any], words: str, shapes: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    file = tmp_path / "w.pth"
    torch.save(change(expanded(shapes)), file)
    with pytest.raises(FlowmapError) as caught:
        read_inception(file)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(file))
    assert f"curl -L --create-dirs -o {file} https://" in str(caught.value)


def test_a_file_fetched_in_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(FlowmapError, match="cannot be read as weights"):
        read_inception(tmp_path / "w.pth")


def test_counters_that_some_files_have_change_nothing(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    torch.save(expanded(shapes) | {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(7)}, tmp_path / "w.pth")
    assert not any(value.is_meta for value in read_inception(tmp_path / "w.pth").state_dict().values())


def test_weights_are_looked_for_where_others_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: dict[str, tuple[int, ...]]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints"
    (finding,) = FidConfig().missing()
    assert finding.field == ("features", "weights")
    assert f"there is no {kept}/weights-inception-2015-12-05-6726825d.pth, nor pt_inception" in finding.message
    assert f"\n  Get them: curl -L --create-dirs -o {kept}/weights-inception" in finding.message
    (finding,) = InceptionConfig(weights="gone.pth").missing()
    assert f"there is no file {Path('gone.pth').absolute()}.\n  Get them: curl" in finding.message
    kept.mkdir(parents=True)
    for name in ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"):
        torch.save(expanded(shapes), kept / name)
        assert list(FidConfig().missing()) == []
        (remark,) = InceptionConfig().remarks(IMAGE)
        assert remark.startswith(f"{kept / name} is not the file of weights that others use")
    monkeypatch.setattr("flowmap_metrics.inception_files._SHA256", "")
    assert list(InceptionConfig().remarks(IMAGE)) == []


# Numbers of sets


def test_distances_are_those_of_torch_fidelity_and_torchmetrics() -> None:
    assert frechet(fitted(A), fitted(B)) == pytest.approx(0.19785117429783905, rel=1e-9)
    moments = [torch.from_numpy(part) for x in (A, B) for part in (x.mean(axis=0), np.cov(x, rowvar=False))]
    assert frechet(fitted(A), fitted(B)) == pytest.approx(float(_compute_fid(*moments)), rel=1e-9)
    assert kernel_distance(A[:50], B) == pytest.approx(0.10199468845679593, rel=1e-9)
    with pytest.warns(UserWarning, match="will save all extracted features"):
        theirs = KernelInceptionDistance(feature=nn.Flatten(), subsets=1, subset_size=50).set_dtype(torch.float64)
    theirs.update(torch.from_numpy(A[:50]), real=False)
    theirs.update(torch.from_numpy(B), real=True)
    assert kernel_distance(A[:50], B) == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def brute_inside(x: np.ndarray, around: np.ndarray, neighbours: int) -> float:
    inside = 0
    for row in x:
        for i, centre in enumerate(around):
            others = sorted(np.linalg.norm(other - centre) for j, other in enumerate(around) if j != i)
            if np.linalg.norm(row - centre) <= others[neighbours - 1]:
                inside += 1
                break
    return inside / len(x)


@pytest.mark.parametrize(
    ("neighbours", "precision", "recall"), [(3, 0.9666666388511658, 0.66), (5, 0.9833333492279053, 0.82)]
)
def test_precision_and_recall_are_those_of_torch_fidelity_and_brute_force(
    neighbours: int, precision: float, recall: float
) -> None:
    samples, real = torch.from_numpy(A), torch.from_numpy(B)
    assert share_inside(samples, real, neighbours) == pytest.approx(precision, rel=1e-6)
    assert share_inside(real, samples, neighbours) == pytest.approx(recall, rel=1e-6)
    assert share_inside(samples, real, neighbours) == brute_inside(A, B, neighbours)
    assert share_inside(real, samples, neighbours) == brute_inside(B, A, neighbours)


def test_samples_of_one_mode_are_precise_and_recall_half() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (80, 7)))
    sides = torch.cat([noise[:40] + 5, noise[40:] - 5])
    one = torch.from_numpy(np.random.default_rng(1).normal(5, 0.01, (40, 7)))
    made = {recall: ManifoldShare(Flat(), sides, sides, 3, recall) for recall in (False, True)}
    assert made[False].score(evidence(one)) == 1.0
    assert made[True].score(evidence(one)) < 0.5
    both = torch.cat([one, one - 10])
    assert made[True].score(evidence(both)) == made[True].score(evidence(both.flip(0)))
    spread = sides + 0.001
    assert made[True].score(evidence(spread)) > 0.9
    assert np.isnan(made[False].score(evidence(one * float("inf"))))


def test_a_perfect_model_scores_nothing_on_average_by_the_kernel_distance_and_its_floor_is_the_chance() -> None:
    def law(seed: int, count: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 5)))

    metric = KernelDistance(Flat(), law(0, 400), law(1, 400), 4, 40)
    scores = [metric.score(evidence(law(seed, 50))) for seed in range(2, 80)]
    spread = float(np.std(scores))
    assert abs(np.mean(scores)) < 4 * spread / len(scores) ** 0.5
    assert min(scores) < 0 < max(scores)
    assert metric.floor(50) == pytest.approx(spread, rel=0.6)
    assert metric.score(evidence(1.5 * law(3, 50))) > 4 * metric.floor(50)
    # As many subsets as there are, of no more samples than there are.
    assert KernelDistance(Flat(), law(0, 30), law(1, 30), 1, 1000).score(evidence(law(2, 30))) == pytest.approx(
        kernel_distance(law(2, 30).numpy(), law(0, 30).numpy())
    )


@pytest.mark.parametrize(("to", "target", "perfect"), [("train", 1, 2), ("held_out", 2, 1), ("teacher", 3, 4)], ids=str)
def test_what_samples_are_compared_with(to: Any, target: int, perfect: int) -> None:
    numbered = [torch.full((3, 1, 1, 2, 2), float(number)) for number in (1, 2, 3, 4)]
    given = References(Samples(numbered[0]), Samples(numbered[1]), numbered[2], numbered[3])
    found = sets_of(PixelsConfig(), to, given)
    assert [int(x.flatten()[0]) for x in found] == [target, perfect]


# Not recall: noise in pixels is so far apart that all real images lie among it.
@pytest.mark.parametrize("kind", [KidConfig, PrecisionConfig])
def test_metrics_of_sets_keep_the_contract(kind: type[MetricConfig]) -> None:
    config = kind.model_validate({"features": "pixels"})
    assert config.label() == f"{config.type}:pixels"
    check_metric(config)


# Vision models


def tiny(kind: Any, config: Any, folder: Path) -> Path:
    """A random network in `folder`, with the preparation of the tiny CLIP."""
    with torch.random.fork_rng(devices=[]), no_bars():
        torch.manual_seed(1)
        kind(config).save_pretrained(folder)
    clip = write_clip(folder.parent / "of-clip")
    (folder / "preprocessor_config.json").write_bytes((clip / "preprocessor_config.json").read_bytes())
    return folder


LAYERS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}


def test_layers_are_those_of_the_network(clip: Path, tmp_path: Path) -> None:
    x = to_float(GOLDEN["images"])[:, None]
    dino = tiny(Dinov2Model, Dinov2Config(**LAYERS, mlp_ratio=2), tmp_path / "dino")
    bare = tiny(ViTForImageClassification, ViTConfig(**LAYERS), tmp_path / "vit")  # has no pooled output
    prepared = preparing(clip)(GOLDEN["images"])
    assert prepared.shape == (3, 3, 32, 32)

    def found(folder: Path, layer: str | None) -> Tensor:
        config = VisionModelConfig.model_validate({"weights": str(folder)} | ({"layer": layer} if layer else {}))
        return config.build(references()).of(x)

    of_clip, of_dino = read_network(clip), read_network(dino)
    with torch.no_grad():
        whole = of_clip.vision_model(pixel_values=prepared)
        assert torch.equal(found(clip, None), of_clip.visual_projection(whole.pooler_output))
        assert torch.equal(found(clip, "pooled"), whole.pooler_output)
        assert torch.equal(found(clip, "mean"), whole.last_hidden_state.mean(1))
        assert torch.equal(found(dino, None), of_dino(pixel_values=prepared).last_hidden_state[:, 0])
    assert torch.equal(found(bare, None), found(bare, "mean"))
    with pytest.raises(FlowmapError, match="Dinov2Model has no layer 'embedding'; it has pooled, mean"):
        found(dino, "embedding")
    check_features(VisionModelConfig(weights=str(dino)))
    assert FrechetConfig(features=VisionModelConfig(weights=str(dino))).label() == "frechet:vision_model-dino"


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (
        lambda s: {k: v for k, v in s.items() if k != "visual_projection.weight"},
        "1 weights are not those of CLIPModel, first visual_projection.weight is missing",
    ),
    "left over": (lambda s: s | {"more": torch.zeros(2)}, "first more is left over"),
    "misshapen": (
        lambda s: s | {"visual_projection.weight": torch.zeros(3, 3)},
        "visual_projection.weight is misshapen",
    ),
    "not finite": (lambda s: s | {"logit_scale": torch.tensor(float("inf"))}, "logit_scale has numbers that are not"),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_vision_model_is_read_whole_or_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str, tmp_path: Path
) -> None:
    folder = write_clip(tmp_path / "clip")
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(FlowmapError) as caught:
        read_network(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("config.json", "missing: config.json"),
        ("model.safetensors", "missing: model.safetensors (what else there is can run code"),
        ("preprocessor_config.json", "missing: preprocessor_config.json"),
        ("tokenizer.json", "missing: clip/tokenizer.json"),
    ],
)
def test_files_that_a_clip_lacks_are_named_with_the_line_that_gets_them(gone: str, words: str, tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    config = ClipScoreConfig(weights=str(folder))
    assert list(config.missing()) == []
    (folder / gone).unlink()
    (finding,) = config.missing()
    assert words in finding.message
    assert finding.message.endswith(f"hf download openai/clip-vit-large-patch14 --local-dir {folder}")
    (finding,) = ClipScoreConfig(weights="openai/clip-vit-base-patch16").missing()
    assert finding.message.endswith("hf download openai/clip-vit-base-patch16")


# What samples were asked to show

TEXTS = ["a red ball", "to the left", "blue square", "a blue ball"]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_clip_score_is_that_of_torchmetrics(sign: int, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip")
    state = load_file(clip / "model.safetensors")
    state["text_projection.weight"] *= sign
    save_file(state, clip / "model.safetensors", metadata={"format": "pt"})
    x = to_float(torch.from_numpy(np.random.default_rng(3).integers(0, 256, (4, 3, 40, 32), dtype=np.uint8)))[:, None]
    metric = ClipScoreConfig(weights=str(clip)).build(references(x.flip(0), TEXTS))
    network, prepare = read_network(clip), preparing(clip)
    tokenizer = AutoTokenizer.from_pretrained(clip)

    class Network:
        """As torchmetrics asks it: version 5 of transformers gives embeddings in another form than it takes."""

        config = network.config
        to = eval = lambda self, *more: self

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return embedded(network.get_image_features(pixel_values=pixels))

        def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
            return embedded(network.get_text_features(input_ids=tokens, attention_mask=mask))

    def processor(text: Any = None, images: Any = None, **more: Any) -> Any:
        if images is not None:
            return {"pixel_values": prepare(torch.stack(list(images)))}
        return tokenizer(text, padding=True, return_tensors="pt")

    theirs = [
        float(clip_score(image, text, lambda: (Network(), processor)))
        for image, text in zip(images.as_images(x), TEXTS, strict=True)
    ]
    assert metric.score(evidence(x, TEXTS)) == pytest.approx(np.mean(theirs), rel=1e-5)
    assert (max(theirs) > 0) == (sign == 1)  # where all cosines are below 0, so is no score
    if sign == 1:
        assert metric.score(evidence(x, TEXTS[::-1])) != pytest.approx(np.mean(theirs), rel=1e-3)
    # The ceiling is of the real images and their own captions.
    assert metric.floor(10**6) == metric.score(evidence(x.flip(0), TEXTS))


def test_the_clip_of_rehearsals_reads_more_than_the_first_word(clip: Path) -> None:
    read = reading(clip, read_network(clip))
    left, right, again = read(["to the left", "to the right", "to the left"])
    assert torch.equal(left, again)
    assert not torch.allclose(left, right, atol=1e-3)


def test_prompts_that_clip_cannot_read_are_cut_and_named_or_refused(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x = to_float(GOLDEN["images"])[:, None]
    metric = ClipScoreConfig(weights=str(clip)).build(references(x, ["a"] * 3))
    with caplog.at_level(logging.WARNING, "flowmap"):
        metric.score(evidence(x, ["a", "b", "to the left " * 40]))
    assert "1 of 3 prompts are longer than the 77 tokens that CLIP reads, and are cut" in caplog.text
    encoded = EncodedText(torch.zeros(3, 1, 4), torch.zeros(1, 4))
    with pytest.raises(FlowmapError, match="clip_score needs prompts as texts, and those of these data are Enc"):
        metric.score(evidence(x, encoded))


def test_a_network_that_reads_no_texts_gives_no_clip_score(tmp_path: Path, clip: Path) -> None:
    folder = tiny(Dinov2Model, Dinov2Config(**LAYERS, mlp_ratio=2), tmp_path / "dino")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((clip / name).read_bytes())
    with pytest.raises(FlowmapError, match="Dinov2Model reads no texts; clip_score needs a CLIP"):
        ClipScoreConfig(weights=str(folder)).build(references())


def test_accuracy_is_the_share_that_shows_what_was_asked_for() -> None:
    data = digits(DigitsConfig(conditional=True))
    train, held_out = data.reference("train", 500), data.reference("held_out", 200)
    given = References(train, held_out, held_out.x, held_out.x)
    metric = ClassAccuracyConfig().build(given)
    assert held_out.labels is not None
    right = metric.score(evidence(held_out.x, held_out.labels))
    assert right > 0.9
    learned, unseen = halves(train)
    classify = train_classifier(learned, given.shelf)
    seen, real = (float((classify(half.x).argmax(1) == half.labels).double().mean()) for half in (learned, unseen))
    assert metric.floor(10) == real
    assert 0.9 < real < seen
    # A quarter asked for as something else.
    wrong = torch.where(torch.arange(200) % 4 == 0, (held_out.labels + 1) % 10, held_out.labels)
    assert metric.score(evidence(held_out.x, wrong)) == pytest.approx(0.75 * right, abs=0.03)
    with pytest.raises(FlowmapError, match="asked for by class labels"):
        metric.score(evidence(held_out.x))
    check_metric(ClassAccuracyConfig())


def test_accuracy_by_a_classifier_of_others(tmp_path: Path) -> None:
    folder = tiny(ViTForImageClassification, ViTConfig(**LAYERS, num_labels=3), tmp_path / "vit")
    x = to_float(torch.from_numpy(np.random.default_rng(3).integers(0, 256, (9, 3, 32, 32), dtype=np.uint8)))[:, None]
    config = ClassAccuracyConfig(weights=str(folder))
    with torch.no_grad():
        named = read_network(folder)(pixel_values=preparing(folder)(images.as_images(x))).logits.argmax(1)
    real = replace(references(x), held_out=Samples(x, (named + 1) % 3))
    metric = config.build(real)
    assert metric.score(evidence(x, named)) == 1.0
    assert metric.floor(3) == 0.0
    assert config.label() == "class_accuracy:vit"
    spec = SampleSpec((1, 3, 32, 32), classes=3, labelled=True)
    assert list(config.findings(spec)) == []
    (finding,) = config.findings(replace(spec, classes=10))
    assert f"{folder} tells 3 classes apart, and these data have 10" in finding.message
    dino = tiny(Dinov2Model, Dinov2Config(**LAYERS, mlp_ratio=2), tmp_path / "dino")
    with pytest.raises(FlowmapError, match="Dinov2Model names no classes"):
        ClassAccuracyConfig(weights=str(dino)).build(real)


# What is refused, and what is remarked


@pytest.mark.parametrize(
    ("config", "spec", "words"),
    [
        (
            FidConfig(),
            MovingDigitsConfig().spec(),
            "single images, and these data are videos of 9 frames; use features",
        ),
        (KidConfig(), CheckerboardConfig().spec(), "images [1, C, H, W] of 1 or 3 channels, and samples of these"),
        (FidConfig(), SampleSpec((1, 4, 8, 8)), "samples of these data are [1, 4, 8, 8]"),
        (VisionModelConfig(weights="x"), SampleSpec((2, 3, 8, 8)), "videos of 2 frames"),
        (ClipScoreConfig(weights="x"), DigitsConfig().spec(), "these data have no captions"),
        (ClipScoreConfig(weights="x"), replace(IMAGE, text_dim=8), "these data bring embeddings of 8 numbers"),
        (ClassAccuracyConfig(), DigitsConfig().spec(), "samples of these data are asked for by no class"),
        (ClassAccuracyConfig(weights="x"), MovingDigitsConfig().spec(), "asked for by no class"),
    ],
    ids=str,
)
def test_data_that_a_metric_cannot_read_are_refused(config: Any, spec: SampleSpec, words: str) -> None:
    messages = [finding.message for finding in config.findings(spec)]
    assert any(words in message for message in messages), messages
    assert all(finding.level == "error" for finding in config.findings(spec))


@pytest.mark.parametrize(
    "config",
    [FidConfig(), KidConfig(), RecallConfig(), ClipScoreConfig(weights="x"), ClassAccuracyConfig(weights="x")],
    ids=lambda config: config.type,
)
def test_images_are_read(config: MetricConfig) -> None:
    assert list(config.findings(replace(IMAGE, classes=10, labelled=True))) == []


GREY = DigitsConfig().spec()
MANY = (50_000, 50_000, 50_000)


@pytest.mark.parametrize(
    ("config", "spec", "counts", "words"),
    [
        (FidConfig(), IMAGE, MANY, []),
        (FidConfig(), IMAGE, (50_000, 50_000, 10_000), ["it falls as samples grow, and is of 10,000 samples"]),
        (
            FidConfig(),
            IMAGE,
            (2048, 20_000, 20_000),
            ["is of 2,048 samples", "covariance of 2048 features of 2,048 samples is singular", "with 20,000 samples"],
        ),
        (FidConfig(features=InceptionConfig(resize="clean")), IMAGE, MANY, ["resized as clean-fid does"]),
        (FidConfig(to="held_out"), IMAGE, MANY, ["compared with held-out images"]),
        (FidConfig(to="teacher"), IMAGE, MANY, ["compared with the teacher's samples"]),
        (FidConfig(), GREY, MANY, ["the images are grey"]),
        (KidConfig(), IMAGE, (5000, 2000, 2000), []),
        (KidConfig(), IMAGE, (5000, 500, 2000), ["subsets are of 500 samples, where published ones are of 1,000"]),
        (KidConfig(subset_size=100), IMAGE, MANY, ["subsets are of 100 samples"]),
        (PrecisionConfig(), IMAGE, MANY, []),
        (RecallConfig(neighbours=5), IMAGE, (512, 5000, 5000), ["is of 512 samples", "5 neighbours, where published"]),
        (
            KidConfig(features=VisionModelConfig(weights="a/clip")),
            IMAGE,
            MANY,
            ["in vision_model-clip features; only numbers"],
        ),
        (PrecisionConfig(features=PixelsConfig()), IMAGE, MANY, ["in pixels features; only numbers in the same"]),
        (ClipScoreConfig(weights="a/clip"), IMAGE, MANY, ["of the prompts of these data"]),
        (ClassAccuracyConfig(), GREY, MANY, ["by a small classifier that was trained here"]),
        (FrechetConfig(), GREY, (10, 10, 10), []),
    ],
    ids=str,
)
def test_what_is_not_as_in_papers_is_remarked(
    config: MetricConfig, spec: SampleSpec, counts: tuple[int, int, int], words: list[str]
) -> None:
    found = list(config.remarks(spec, *counts))
    assert len(found) == len(words), found
    assert all(word in remark for word, remark in zip(words, found, strict=True)), found


# Runs


class Counted(nn.Module):
    """A network that counts the images it has seen."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.seen += len(x)
        return x.flatten(2).mean(2)

    def vectors(self, x: Tensor) -> Tensor:
        return self(x)


def test_a_network_sees_samples_once_for_all_metrics_and_references_once_for_all_trainings(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inception_weights, "read_inception", lambda file: Counted())
    monkeypatch.setattr(inception_weights, "SIDE", 16)
    monkeypatch.setattr(Counted, "seen", 0)
    draws = torch.Generator().manual_seed(0)
    x, y, z = (torch.rand(8, 1, 3, 9, 9, generator=draws) for _ in range(3))
    chosen = {"features": {"type": "inception", "weights": str(weights)}}
    configs = [kind.model_validate(chosen) for kind in (FidConfig, KidConfig, PrecisionConfig, RecallConfig)]

    def measured(shelf: Shelf) -> list[float]:
        given = References(Samples(x), Samples(y), z, z, shelf)
        made: list[Metric] = [config.build(given) for config in configs]
        return [metric.score(evidence(samples)) for samples in (z + 0, z * 0.5) for metric in made]

    first = measured(Shelf(tmp_path))
    assert Counted.seen == 8 * 4  # both references, two draws of samples
    assert measured(Shelf(tmp_path)) == first
    assert Counted.seen == 8 * 6
    assert len(set(first[:4])) > 1
    assert first[:4] != first[4:]


METRICS = """metrics = [
    "class_accuracy",
    { type = "kid", features = "pixels" },
    { type = "precision", features = "pixels", to = "held_out" },
    { type = "recall", features = "classifier" },
]"""


def test_a_run_is_measured_by_them(here: Path) -> None:
    lines = re.sub("metrics = .*", METRICS, EVALUATION)
    lines = re.sub('    { stage = "forward".*\n', "", lines)
    text = (HEAD + TEACHER + lines).replace('"checkerboard"', '{ type = "digits", conditional = true }')
    (here / "recipe.toml").write_text(text)
    code, said = command(here, "run", "recipe.toml")
    assert code == 0, said
    found = {line["metric"]: line for line in read_scores(here / "runs" / "small" / "metrics.jsonl")}
    higher = {name for name, line in found.items() if line["better"] == "higher"}
    assert higher == {"class_accuracy", "precision:pixels:held_out", "recall:classifier"}
    assert found.keys() - higher == {"kid:pixels"}
    assert found["class_accuracy"]["floor"] > 0.7  # of a classifier that has seen 100 digits
    assert found["kid:pixels"]["value"] > found["kid:pixels"]["floor"] > 0
    few = "subsets are of 24 samples, where published ones are of 1,000"
    assert few in found["kid:pixels"]["remarks"]
    told = (
        "kid:pixels compares with no published number: in pixels features; only numbers in the same features compare; "
    )
    assert told + few in " ".join(said.split())


def test_what_networks_of_others_read_is_missed_by_check_and_not_by_a_rehearsal(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(here))
    metrics = '["fid", "kid", { type = "frechet", features = { type = "vision_model", weights = "gone/dino" } }]'
    Path("r.toml").write_text(edited(('["frechet_pixels", "semigroup"]', metrics)))
    found, _ = read(Path("r.toml"))
    assert [finding.field[2:] for finding in found.missing()] == [(n, "features", "weights") for n in (0, 1, 2)]
    twin = twin_of(found, Path("parts"), 1)
    assert list(twin.missing()) == []
    assert twin.evaluation is not None
    fid, kid, _ = twin.evaluation.metrics
    assert isinstance(fid, FidConfig)
    assert isinstance(kid, KidConfig)
    assert fid.features == kid.features  # one file for both
    assert fid.features.weights is not None
    read_inception(Path(fid.features.weights))
