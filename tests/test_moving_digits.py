"""Moving digits: the data, what the classifier makes of videos, and the recipe that distils a causal model of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flowmap_datasets.configs import DigitsConfig, MovingDigitsConfig
from flowmap_datasets.digits import digits
from flowmap_datasets.moving_digits import MovingDigits
from flowmap_metrics import classifier as classifiers
from flowmap_metrics.classifier import train_classifier
from torch import Tensor
from torch.nn import functional as F

from flowmap.files.shelf import Shelf
from flowmap.interfaces import EncodedText, Samples
from flowmap.maths.draw import Draw
from flowmap.testing import check_data

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "moving_digits_far.toml"
FRAMES, SIZE = 9, 16


def draw(count: int, step: int = 0) -> Draw:
    return Draw.whole(5, "teacher", step, "student", count)


@pytest.fixture(scope="module")
def videos() -> MovingDigits:
    return MovingDigits(MovingDigitsConfig(frames=FRAMES, size=SIZE, speed=2.0))


def text(samples: Samples) -> EncodedText:
    assert isinstance(samples.prompts, EncodedText)
    return samples.prompts


def centres(x: Tensor) -> Tensor:
    """The centre of the ink `[B, F, 2]` of videos `[B, F, 1, H, W]`: down and across."""
    ink = x[:, :, 0] + 1
    down, across = (torch.arange(n, dtype=ink.dtype) for n in ink.shape[-2:])
    total = ink.sum((2, 3))
    return torch.stack([(ink.sum(3) * down).sum(2) / total, (ink.sum(2) * across).sum(2) / total], dim=-1)


# The data


def test_they_keep_the_contract_of_data() -> None:
    check_data(MovingDigitsConfig(frames=5, size=12))


def test_a_batch_is_a_function_of_the_draw_and_of_nothing_else(videos: MovingDigits) -> None:
    once, again = videos.batch(draw(16)), MovingDigits(MovingDigitsConfig(frames=FRAMES, size=SIZE)).batch(draw(16))
    assert torch.equal(once.x, again.x)
    assert torch.equal(text(once).text, text(again).text)
    assert not torch.equal(once.x, videos.batch(draw(16, step=1)).x)


def test_processes_that_share_a_batch_draw_its_rows(videos: MovingDigits) -> None:
    whole = videos.batch(draw(12))
    part = videos.batch(draw(12).part(4, 5))
    assert torch.equal(part.x, whole.x[4:9])
    assert part.labels is not None
    assert whole.labels is not None
    assert torch.equal(part.labels, whole.labels[4:9])
    assert torch.equal(text(part).text, text(whole).text[4:9])


def test_shapes_and_range(videos: MovingDigits) -> None:
    samples = videos.batch(draw(64))
    assert samples.x.shape == (64, FRAMES, 1, SIZE, SIZE)
    assert samples.x.dtype == torch.float32
    assert float(samples.x.min()) >= -1
    assert float(samples.x.max()) <= 1
    assert samples.encoded


def test_a_resting_digit_is_the_image_itself() -> None:
    still = MovingDigits(MovingDigitsConfig(frames=3, size=8, speed=0.0)).batch(draw(8)).x
    train = digits(DigitsConfig()).reference("train", 10**6).x
    assert all(bool((train.flatten(1) == image).all(1).any()) for image in still[:, 0].flatten(1))
    assert torch.equal(still[:, 0], still[:, 2])


def test_digits_stay_whole_within_the_frame(videos: MovingDigits) -> None:
    # Were a digit cut off or left outside for a while, its ink would be less than in other frames.
    ink = (videos.batch(draw(128)).x + 1).sum((2, 3, 4))
    torch.testing.assert_close(ink, ink[:, :1].expand(-1, FRAMES), rtol=1e-5, atol=1e-4)


def test_digits_move_by_whole_pixels_and_bounce() -> None:
    long = MovingDigits(MovingDigitsConfig(frames=24, size=16, speed=2.0))
    steps = centres(long.batch(draw(128)).x).diff(dim=1)
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    assert float(steps.abs().max()) < 2.5
    # On a way of 23 steps, whoever is fast meets both walls of a room of 8.
    fast = steps.abs().mean(1) > 1
    turned = (steps > 0.5).any(1) & (steps < -0.5).any(1)
    assert bool(fast.any())
    assert bool(turned[fast].all())


def test_every_digit_sets_out_from_the_middle(videos: MovingDigits) -> None:
    x = videos.batch(draw(32)).x[:, 0, 0]
    around = F.pad(torch.zeros(8, 8), (4, 4, 4, 4), value=1.0).bool()
    assert bool((x[:, around] == -1).all())


def test_training_and_held_out_digits_differ() -> None:
    still = MovingDigits(MovingDigitsConfig(frames=1, size=8, speed=0.0))
    train, held_out = (still.reference(split, 500).x.flatten(1) for split in ("train", "held_out"))
    assert float(torch.cdist(held_out, train).amin(1).min()) > 0.1


def test_references_are_the_same_at_every_call(videos: MovingDigits) -> None:
    assert torch.equal(videos.reference("held_out", 20).x, videos.reference("held_out", 20).x)
    assert len(videos.reference("train", 33).x) == 33


def test_the_prompt_is_the_class_as_one_token(videos: MovingDigits) -> None:
    samples = videos.batch(draw(64))
    found = text(samples)
    assert samples.labels is not None
    assert found.text.shape == (64, 1, 16)
    # One component is not 0, and the mean square is 1.
    assert torch.equal(found.text[:, 0], 4.0 * F.one_hot(samples.labels, 16))
    assert found.null.shape == (1, 16)
    assert not found.null.any()
    asked = videos.prompts(draw(500))
    classes = asked.text[:, 0].argmax(1)
    assert torch.equal(asked.text[:, 0].sum(1), torch.full((500,), 4.0))
    assert set(classes.tolist()) == set(range(10))


def test_a_sheet_has_a_row_per_video_and_a_column_per_frame(videos: MovingDigits) -> None:
    sheet = videos.picture(videos.batch(draw(64)).x)
    height, width, _ = sheet.shape
    assert height * FRAMES == pytest.approx(width * 6, rel=0.05)


# The classifier that metrics compare features of


@pytest.mark.slow
def test_videos_have_the_features_of_two_frames_and_the_classifier_knows_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifiers, "_EPOCHS", 8)
    data = MovingDigits(MovingDigitsConfig(frames=4, size=12))
    train, new = data.reference("train", 512), data.reference("held_out", 512)
    classifier = train_classifier(train, Shelf())
    features = classifier.of(new.x)
    assert features.shape == (512, 128)
    assert torch.equal(features[:, :64], classifier.of(new.x[:, :1]))
    assert torch.equal(features[:, 64:], classifier.of(new.x[:, -1:]))
    with torch.no_grad():
        for frame in (0, -1):
            right = classifier(new.x[:, frame, None]).argmax(1) == new.labels
            assert float(right.float().mean()) >= 0.85


def test_images_have_the_features_that_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "_EPOCHS", 1)
    still = digits(DigitsConfig())
    train, new = still.reference("train", 1198), still.reference("held_out", 100)
    classifier = train_classifier(train, Shelf())
    features = classifier.of(new.x)
    assert features.shape == (100, 64)
    with torch.no_grad():
        hidden = F.relu(classifier.convolutions(new.x[:, 0])) / classifier.scale
    # Convolutions take another order of memory, and add up in another order.
    torch.testing.assert_close(features, hidden, rtol=1e-5, atol=1e-5)


# The recipe


def test_the_recipe_passes_the_check() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowmap", "check", RECIPE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout + done.stderr


SMALL = [
    "compute.threads=1",
    "stages.teacher.steps=4",
    "stages.forward.steps=3",
    "stages.on_policy.steps=2",
    "evaluation.samples=16",
    "evaluation.repeats=2",
    "evaluation.real=192",
    "evaluation.teacher_calls=2",
    "evaluation.calls=[1, 4]",
]


@pytest.mark.slow
def test_the_recipe_runs_through_all_stages_and_reports_both_tasks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flowmap", "run", str(RECIPE), "--runs", str(tmp_path)]
    for setting in SMALL:
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "moving_digits_far"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = {(line["stage"], line["sampler"], line["nfe"]) for line in lines}
    maps = {(s, "flow_map", n) for s in ("forward", "on_policy") for n in (1, 4)}
    assert rows == maps | {("teacher", "euler", n) for n in (1, 4)} | {
        ("on_policy", "flow_map-after-1", n) for n in (1, 4)
    }
    assert {line["metric"] for line in lines} == {"frechet_features", "frechet_teacher"}
    page = (folder / "report.html").read_text()
    assert "on_policy · flow_map, 1 frame given" in page
    assert "network calls per chunk" in page
    assert "per sample" not in page
