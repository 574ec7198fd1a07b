"""`flowmap demo` without its page: what is asked, what is answered, chunks, and the end of work."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from flowmap.cli.main import app
from flowmap.console.options import from_page, option
from flowmap.demo import serve, sides
from flowmap.demo.answers import Answer
from flowmap.demo.question import FIELDS, MOST_CHARACTERS, Question
from flowmap.demo.sides import Side, machine, open_side, refuse_unlike, same_noise
from flowmap.demo.work import Answering
from flowmap.errors import FlowmapError
from flowmap.use.opened import Opened
from flowmap.use.sample import draw_samples, sample_run
from flowmap.use.watching import Watcher
from flowmap.use.wish import Wish
from flowmap.video.clips import read_clip

from .video_runs import digits_run, mlp_run, wan_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model of five frames in chunks of 1, 2, 2."""
    return digits_run(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def side(run: Path) -> Side:
    return open_side(str(run), Wish())


@pytest.fixture(scope="module")
def teacher(run: Path) -> Side:
    return open_side(str(run), Wish("teacher"))


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Side:
    """A causal model that takes prompts."""
    return open_side(str(wan_run(tmp_path_factory.getbasetemp(), "far_wan21")), Wish())


def asked(side: Side, folder: Path, question: Question, other: Side | None = None) -> list[Answer]:
    return list(Answering((side, other or side), folder).answers(question))


def tensor(answer: Answer, index: int = 0) -> Tensor:
    found = answer.sides[index]
    assert found is not None
    return load_file(found.view.with_suffix(".safetensors"))["samples"]


# What is asked is what `flowmap sample` would be asked


def test_a_question_gives_what_the_command_gives(side: Side, run: Path, tmp_path: Path) -> None:
    last = asked(side, tmp_path / "page", Question((3,), seed="7"))[-1]
    assert (last.state, last.words) == ("done", "Done")
    made, _ = sample_run(run, Wish(calls=3, number=1, seed=7), tmp_path / "command")
    assert torch.equal(tensor(last), load_file(made[-1])["samples"])
    (found,) = last.sides
    assert found is not None
    assert found.view.read_bytes() == made[0].read_bytes()


def test_prompts_and_frames_that_are_given_too(far: Side, tmp_path: Path) -> None:
    image = tmp_path / "first.PNG"
    Image.new("RGB", (40, 40), (200, 30, 30)).save(image)
    question = Question((1,), seed="-3", prompt="  a red\n square ", file=image)
    last = asked(far, tmp_path / "page", question)[-1]
    wish = Wish(calls=1, number=1, seed=-3, prompts=("a red square",), image=image)
    made, _ = sample_run(Path(far.where), wish, tmp_path / "command")
    assert torch.equal(tensor(last), load_file(made[-1])["samples"])


def test_the_settings_say_how_it_was_made_and_the_command_repeats_it(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = asked(side, tmp_path / "page", Question((3,), seed="7"))[-1]
    (found,) = last.sides
    assert found is not None
    assert found.settings is not None
    settings = json.loads(found.settings.read_text())
    assert {key: settings[key] for key in ("stage", "sampler", "nfe", "seed", "network calls in all")} == {
        "stage": "forward",
        "sampler": "flow_map",
        "nfe": 3,
        "seed": 7,
        "network calls in all": 3 * 3 + 2,  # two chunks are read before the next
    }
    assert "11 network calls (3 for each chunk" in found.words
    words = settings["command"].split()
    assert words[:2] == ["flowmap", "sample"]
    done = CliRunner().invoke(app, [*words[1:], f"--out={tmp_path / 'again'}"])
    assert done.exit_code == 0, done.output
    assert torch.equal(load_file(tmp_path / "again.safetensors")["samples"], tensor(last))


def test_two_numbers_of_calls_start_from_the_same_noise(side: Side, tmp_path: Path) -> None:
    last = asked(side, tmp_path / "page", Question((1, 4), seed="5"))[-1]
    alone = asked(side, tmp_path / "alone", Question((4,), seed="5"))[-1]
    assert torch.equal(tensor(last, 1), tensor(alone))
    assert not torch.equal(tensor(last, 0), tensor(last, 1))


def test_every_sampler_starts_from_the_same_noise_and_each_side_has_its_command(
    side: Side, teacher: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noises: list[Tensor] = []
    real = type(side.opened.sampler).build
    for config in (side.opened.sampler, teacher.opened.sampler):
        real = type(config).build

        def build(self: Any, real: Any = real) -> Any:
            sampler = real(self)
            sample = sampler.sample
            sampler.sample = lambda *args: (noises.append(args[1].clone()), sample(*args))[1]
            return sampler

        monkeypatch.setattr(type(config), "build", build)
    last = asked(side, tmp_path / "page", Question((1, 2), seed="5"), teacher)[-1]
    assert same_noise(side, teacher)
    assert torch.equal(torch.cat(noises[:3], 1), torch.cat(noises[3:], 1))
    found = last.sides[1]
    assert found is not None
    assert found.settings is not None
    settings = json.loads(found.settings.read_text())
    words = settings["command"].split()
    done = CliRunner().invoke(app, [*words[1:], f"--out={tmp_path / 'again'}"])
    assert done.exit_code == 0, done.output
    assert torch.equal(load_file(tmp_path / "again.safetensors")["samples"], tensor(last, 1))


# Chunks, and the end of work


def test_finished_chunks_are_shown_while_the_rest_is_made(side: Side, tmp_path: Path) -> None:
    answers = asked(side, tmp_path / "page", Question((2,)))
    shown = [found for answer in answers for found in answer.sides if found is not None]
    parts = list(dict.fromkeys(found.view.name for found in shown))
    assert parts == ["left-part-1.mp4", "left-part-2.mp4", "left.mp4"]
    assert {found.words for found in shown[:-1]} == {"1 of 5 frames are finished", "3 of 5 frames are finished"}
    assert all(found.settings is None for found in shown[:-1])
    # What is shown is the beginning of what comes: two H.264 files of the same frames differ a little.
    folder = shown[-1].view.parent
    part, whole = (read_clip(folder / name, 3, 16, 16, None).float() for name in (parts[1], parts[2]))
    assert float((part - whole).abs().mean()) < 8


class Looking(Watcher):
    """Notes what it is told."""

    def __init__(self, most: int = 10**6) -> None:
        self.calls, self.most, self.frames = 0, most, list[Tensor]()

    def calling(self) -> None:
        self.calls += 1
        if self.calls > self.most:
            raise InterruptedError

    def finished(self, x: Tensor) -> None:
        self.frames.append(x)


def test_who_looks_on_changes_nothing_and_sees_the_frames_of_the_result(side: Side) -> None:
    wish, watcher = Wish(number=2, calls=2, seed=3), Looking()
    plain, _ = draw_samples(side.opened.asked(wish), wish)
    watched, _ = draw_samples(side.opened.asked(wish), wish, watcher=watcher)
    assert torch.equal(plain, watched)
    assert watcher.calls == 3 * 2 + 2
    assert [x.shape[:2] for x in watcher.frames] == [(2, 1), (2, 3)]
    # This model has no VAE: frames in model space are those in data space.
    assert all(torch.equal(x, plain[:, : x.shape[1]]) for x in watcher.frames)
    assert not any(x.requires_grad for x in watcher.frames)


def test_what_the_watcher_raises_ends_the_work_before_the_next_call(side: Side) -> None:
    wish, watcher = Wish(number=1, calls=4), Looking(most=5)
    with pytest.raises(InterruptedError):
        draw_samples(side.opened.asked(wish), wish, watcher=watcher)
    assert watcher.calls == 6


class Slow:
    """Sampling that waits at each network call, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.calls, self.ended = threading.Semaphore(0), 0, threading.Event()

        def drawn(opened: Opened, wish: Wish, watcher: Watcher) -> tuple[Tensor, dict[str, object]]:
            real = watcher.calling

            def calling() -> None:
                assert self.go.acquire(timeout=20)
                self.calls += 1
                real()

            watcher.calling = calling  # type: ignore[method-assign]
            try:
                return draw_samples(opened, wish, watcher=watcher)
            finally:
                self.ended.set()

        monkeypatch.setattr("flowmap.demo.work.draw_samples", drawn)

    def let(self, calls: int) -> None:
        self.go.release(calls)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(monkeypatch)
    yield made
    made.let(1000)


def until(answers: Iterator[Answer], words: str) -> Answer:
    end = time.monotonic() + 20
    for answer in answers:
        if words in answer.words:
            return answer
        assert time.monotonic() < end, answer
    raise AssertionError(words)


def test_a_page_that_is_closed_ends_the_work_at_the_next_call(side: Side, tmp_path: Path, slow: Slow) -> None:
    answers = Answering((side, side), tmp_path).answers(Question((8, 8)))
    slow.let(2)
    until(answers, "Left: sampling: 2 of 26 network calls")
    answers.close()  # type: ignore[attr-defined]
    slow.let(1)
    assert slow.ended.wait(20)
    assert slow.calls == 3  # the third was not made
    assert not list(tmp_path.rglob("left.*"))


def test_of_two_questions_one_waits_and_both_are_answered(side: Side, tmp_path: Path, slow: Slow) -> None:
    answering = Answering((side, side), tmp_path)
    first, second = (answering.answers(Question((calls,), seed=str(calls))) for calls in (1, 2))
    slow.let(1)
    until(first, "sampling: 1 of 5 network calls")
    until(second, "Waiting for the work before this one to end")
    slow.let(100)
    one, two = until(first, "Done"), until(second, "Done")
    assert torch.equal(tensor(one), tensor(asked(side, tmp_path / "x", Question((1,), seed="1"))[-1]))
    assert torch.equal(tensor(two), tensor(asked(side, tmp_path / "y", Question((2,), seed="2"))[-1]))


def test_the_work_after_a_cancelled_one_is_done(side: Side, tmp_path: Path, slow: Slow) -> None:
    answering = Answering((side, side), tmp_path)
    first = answering.answers(Question((8,)))
    slow.let(1)
    until(first, "sampling: 1 of 26")
    first.close()  # type: ignore[attr-defined]
    slow.let(100)
    assert list(answering.answers(Question((1,))))[-1].state == "done"


def test_the_end_of_the_server_ends_the_work(side: Side, tmp_path: Path, slow: Slow) -> None:
    answering = Answering((side, side), tmp_path)
    answers = answering.answers(Question((8,)))
    slow.let(1)
    until(answers, "sampling: 1 of 26")
    threading.Timer(0.2, slow.let, (1,)).start()
    answering.stop(20)
    assert slow.ended.is_set()
    assert until(answers, "Cancelled").state == "stopped"


# Bad input: one line, and nothing is begun


REFUSED: list[tuple[Question, str]] = [
    (Question((0,)), "Calls 0: 1 to 32 are possible here"),
    (Question((33,)), "Calls 33: 1 to 32 are possible here"),
    (Question((1,), seed="1.5"), "Seed: '1.5' is no whole number of at most 19 digits"),
    (Question((1,), seed="9" * 19), "Seed: .*"),
    (Question((1,), prompt="a"), "Prompt: the backbone of this run has no text encoder.*"),
    (Question((1,), label=3), "Class: the data of this run are not conditioned on a class"),
    (
        Question((1,), prompt="a" * (MOST_CHARACTERS + 1)),
        "Prompt: it has 4,001 characters, and at most 4,000 .*",
    ),
]


@pytest.mark.parametrize(("question", "words"), REFUSED)
def test_what_cannot_be_asked_is_refused_in_the_page_s_words(
    question: Question, words: str, side: Side, tmp_path: Path
) -> None:
    import re

    (answer,) = asked(side, tmp_path / "page", question)
    assert answer.state == "refused"
    assert re.fullmatch(words, answer.words), answer.words
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken.png", "broken.png: cannot be read as an image"),
        ("notes.txt", "notes.txt: it cannot be read as a video"),
    ],
)
def test_files_of_a_wrong_kind(name: str, words: str, side: Side, tmp_path: Path) -> None:
    (tmp_path / name).write_text("no picture")
    answer = asked(side, tmp_path / "page", Question((1,), file=tmp_path / name))[-1]
    assert answer.state == "refused"
    assert words in answer.words
    assert "\n" not in answer.words
    assert str(tmp_path) not in answer.words


def test_a_sampler_of_two_calls_a_step_takes_even_numbers(teacher: Side, tmp_path: Path) -> None:
    heun = open_side(teacher.where, Wish("teacher", sampler="heun"))
    (answer,) = asked(heun, tmp_path, Question((3,)))
    assert answer.words == "Calls 3: not possible, as the sampler 'heun' takes 2 calls a step"


def test_weights_from_outside_are_asked_for_a_prompt(far: Side, tmp_path: Path) -> None:
    from flowmap.use.opened import Asked

    weights = replace(far, opened=replace(far.opened, contestant=replace(far.opened.contestant, data=Asked())))
    (answer,) = asked(weights, tmp_path, Question((1,)))
    assert answer.words == "Prompt: say what to show; there are no data whose prompts could be taken"


def test_a_fault_is_one_line_and_the_next_question_is_answered(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(error: Exception) -> Any:
        def fail(*args: Any, **more: Any) -> None:
            raise error

        return fail

    answering = Answering((side, side), tmp_path)
    for cause, words in (
        (torch.OutOfMemoryError("CUDA"), "There is not enough memory for this"),
        (ZeroDivisionError("x"), "A fault of flowmap's own, ZeroDivisionError: the terminal has it whole"),
        (FlowmapError("a\nb"), "a b"),
        (OSError(28, "No space left on device"), "It cannot be written: No space left on device"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr("flowmap.demo.work.draw_samples", failing(cause))
            last = list(answering.answers(Question((1,))))[-1]
        assert last.state == "refused"
        assert last.words.startswith(words)
    assert "ZeroDivisionError: x" in capsys.readouterr().err
    assert list(answering.answers(Question((1,))))[-1].state == "done"


def test_options_are_called_as_the_page_calls_them() -> None:
    with from_page(FIELDS):
        assert option("nfe", 4) == "Calls 4"
        assert option("image", Path("/tmp/gradio/x/first.png")) == "First frame first.png"
        assert option("guidance", 2.0) == "--guidance 2"
    assert option("nfe", 4) == "--nfe 4"


# Images, pairs, machines


def test_images_and_points_are_shown_several_at_once(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    points = open_side(str(mlp_run(tmp_path_factory.getbasetemp())), Wish())
    assert (points.prompts, points.contexts) == (False, ())
    last = asked(points, tmp_path / "page", Question((2,), number=9))[-1]
    (found,) = last.sides
    assert found is not None
    assert found.view.name == "left.png"
    assert found.words.startswith("2 network calls, ")
    assert len(tensor(last)) == 9


def test_models_that_cannot_be_asked_the_same_are_not_shown_together(side: Side, far: Side) -> None:
    with pytest.raises(FlowmapError, match="cannot be asked the same: they do not take prompts alike"):
        refuse_unlike(side, far)
    refuse_unlike(side, side)
    assert not same_noise(side, far)


def test_of_a_large_model_without_a_gpu_it_is_said_how_long_a_call_takes(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine([side, side]) == "computing on the CPU"
    monkeypatch.setattr(sides, "_flops", lambda _: 30e12)
    monkeypatch.setattr(sides, "_pace", lambda: 1e11)
    assert machine([side]) == (
        "computing on the CPU, for no GPU was found: a network call over all frames is 30 TFLOP, "
        "at least 5 minutes here"
    )


def test_the_cost_of_a_call_is_that_of_the_plan(far: Side) -> None:
    from flowmap.plugin.footprint import CallShape

    footprint = far.opened.backbone.footprint(far.opened.spec, "no")
    assert footprint is not None
    assert sides._flops(far) == footprint.flops("flow_map", CallShape("whole", 5), False) > 0


# The command


def test_without_gradio_the_command_says_what_to_install(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["demo", str(run)])
    assert isinstance(done.exception, FlowmapError)
    assert str(done.exception) == "the page needs Gradio, which is not installed: pip install 'flowmap[demo]'"


def test_a_port_that_is_taken_is_said_before_a_model_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "refuse_without_gradio", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = CliRunner().invoke(app, ["demo", str(tmp_path / "nothing"), f"--port={port}"])
    assert str(done.exception) == (f"--port {port}: another program has it (another demo?); end that, or give another")
    done = CliRunner().invoke(app, ["demo", str(tmp_path / "nothing"), f"--port={port}"])
    assert "nothing is no folder, neither of a run nor of weights" in str(done.exception)
