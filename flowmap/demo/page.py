"""The page itself, in Gradio: its fields, what they ask, and where answers are shown."""

from __future__ import annotations

import html
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from flowmap.demo.answers import Shown
from flowmap.demo.question import MOST_CHARACTERS, Question
from flowmap.demo.sides import MOST_CALLS, Side, same_noise
from flowmap.demo.work import Answering

CSS = """
#page-title h1 { margin-bottom: 0; }
.status { padding: .6em .9em; border-radius: .5em; border: 1px solid var(--border-color-primary); min-height: 1.4em; }
.status.refused { border-color: #c0392b; color: #c0392b; background: #c0392b14; }
.status.done { border-color: #27ae60; }
.status.working { border-color: #2980b9; }
.small video, .small img { image-rendering: pixelated; width: 100% !important; object-fit: contain; }
"""
_SMALL = 128  # pixels: below it a picture is enlarged, each pixel as a square
_MOST_SEED = 10**6
_MOST_NUMBER = 64
_MANY = 16
_HEIGHT = 360
_QUEUE = 32


def layout(answering: Answering, about: str) -> gr.Blocks:
    """The page for who is asked; `about` says where they compute."""
    one = answering.sides[0]
    twice = answering.sides[0] is answering.sides[1]
    spec = one.opened.spec
    made = "clip" if spec.fps is not None else "image"
    # Uploads and answers lie in a folder that goes with the server; here those of pages that are long closed.
    with gr.Blocks(title=f"flowmap: {one.name}", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        gr.Markdown(_title(answering.sides, twice, made, about), elem_id="page-title")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                fields = _fields(one, twice, answering.sides)
                with gr.Row():
                    make = gr.Button(f"Make the {made}", variant="primary", elem_id="make", scale=2, min_width=120)
                    cancel = gr.Button("Cancel", elem_id="cancel", scale=1, min_width=90)
            with gr.Column(scale=2, min_width=400):
                status = gr.HTML(_line("idle", f"Press “Make the {made}”."), elem_id="status")
                with gr.Row():
                    shown = [_Place(side, index, made, twice) for index, side in enumerate(answering.sides)]

        def ask(*values: Any) -> Iterator[dict[Any, Any]]:
            seen: list[Path | None] = [None, None]
            question = _question(dict(zip(fields, values, strict=True)))
            yield {status: _line("working", "Starting"), **_places(shown, len(question.calls))}
            for answer in answering.answers(question):
                updates: dict[Any, Any] = {status: _line(answer.state, answer.words)}
                for index, found in enumerate(answer.sides):
                    # The same film again would start it anew.
                    if found is not None and found.view != seen[index]:
                        seen[index] = found.view
                        updates |= shown[index].filled(found)
                yield updates

        outputs = [status, *(part for place in shown for part in place.parts)]
        cancelled = gr.State(False)
        waiting = make.click(
            lambda: (_line("working", "Waiting for its turn"), False),
            None,
            [status, cancelled],
            queue=False,
            show_progress="hidden",
        )
        asking = waiting.then(
            ask, list(fields.values()), outputs, concurrency_limit=1, concurrency_id="model", show_progress="hidden"
        )
        cancel.click(lambda: (_CANCELLED, True), None, [status, cancelled], cancels=[asking], queue=False)
        # What the work said while it was being cancelled may be shown after those words.
        asking.then(lambda so: _CANCELLED if so else gr.skip(), cancelled, status, queue=False, show_progress="hidden")
    page.queue(max_size=_QUEUE, default_concurrency_limit=1)
    return page


def _title(sides: Sequence[Side], twice: bool, made: str, about: str) -> str:
    one, other = sides
    who = f"`{one.name}`" if twice else f"`{one.name}` (left) beside `{other.name}` (right)"
    if twice:
        how = (
            "It is made in as many network calls as you say: few are fast, more are finer. A seed gives the same again."
        )
    elif same_noise(one, other):
        how = "Both start from the same noise: what differs is due to the models and their calls."
    else:
        how = "Their samples are of different sizes, so their noise differs too."
    return f"# Make {'a' if made == 'clip' else 'an'} {made}\n\n{who}, {about}.\n\n{how}"


def _fields(one: Side, twice: bool, sides: Sequence[Side]) -> dict[str, Any]:
    """What can be asked of such a model, by name."""
    spec, fields = one.opened.spec, dict[str, Any]()
    if one.prompts:
        fields["prompt"] = gr.Textbox(
            label="Prompt", lines=3, max_length=MOST_CHARACTERS + 1, placeholder="What to show", elem_id="prompt"
        )
    if spec.classes:
        choices = [("any", -1), *((str(label), label) for label in range(spec.classes))]
        fields["label"] = gr.Dropdown(choices, value=-1, label="Class", elem_id="class")
    of_chunk = " of each chunk" if one.opened.backbone.causal() else ""
    names = ("", ", right") if twice else (", left", ", right")
    fields["left"] = _calls(one, f"Network calls{of_chunk}{names[0]}", "calls-left")
    if twice:
        beside = gr.Checkbox(label="Show another number of calls beside it, from the same noise", elem_id="beside")
        fields["beside"] = beside
    fields["right"] = _calls(
        sides[1], f"Network calls{of_chunk}{names[1]}", "calls-right", visible=not twice, first=twice
    )
    if twice:
        beside.change(lambda on: gr.update(visible=on), beside, fields["right"], queue=False, show_progress="hidden")
    if spec.fps is None:
        many = 1 if spec.text or spec.classes else _MANY
        fields["number"] = gr.Slider(1, _MOST_NUMBER, value=many, step=1, label="How many", elem_id="number")
    with gr.Row():
        fields["seed"] = gr.Textbox("0", label="Seed", elem_id="seed", scale=3, min_width=100)
        another = gr.Button("Another seed", elem_id="another", scale=2, min_width=100, size="md")
    another.click(lambda: str(random.randrange(_MOST_SEED)), None, fields["seed"], queue=False, show_progress="hidden")
    if one.contexts:
        with gr.Accordion("Begin with an image or a video", open=False, elem_id="begin"):
            fields["file"] = gr.File(label="First frame, or beginning", height=150, elem_id="given")
            if len(one.contexts) > 1:
                frames = [("as many as fit", 0), *((str(count), count) for count in one.contexts)]
                fields["frames"] = gr.Dropdown(frames, value=0, label="Frames of a video that are given")
    return fields


def _calls(side: Side, label: str, name: str, visible: bool = True, first: bool = False) -> gr.Slider:
    step = side.per_step
    own = side.opened.sampler.own_times()
    usual = own.steps * step if own else step if first else min(MOST_CALLS, side.opened.calls)
    return gr.Slider(step, MOST_CALLS, value=usual, step=step, label=label, visible=visible, elem_id=name)


def _question(values: dict[str, Any]) -> Question:
    """What the fields hold, of those that there are."""
    both = values.get("beside", True)
    label = values.get("label", -1)
    return Question(
        calls=(int(values["left"]), int(values["right"])) if both else (int(values["left"]),),
        seed=values["seed"] or "",
        prompt=values.get("prompt") or "",
        label=None if label in (None, -1) else int(label),
        file=Path(values["file"]) if values.get("file") else None,
        frames=values.get("frames") or None,
        number=int(values["number"]) if "number" in values else None,
    )


class _Place:
    """Where one side is shown: a picture, what it took, and what can be taken home."""

    def __init__(self, side: Side, index: int, made: str, twice: bool) -> None:
        name = ("left", "right")[index]
        small = max(side.opened.spec.shape[2:], default=_SMALL) < _SMALL
        look = {"elem_classes": ["small"] if small else [], "elem_id": f"view-{name}", "height": _HEIGHT}
        label = made.capitalize() if twice else side.label
        with gr.Column(visible=not (twice and index), min_width=220) as self.column:
            if made == "clip":
                self.view: Any = gr.Video(label=label, autoplay=True, loop=True, interactive=False, buttons=[], **look)
            else:
                self.view = gr.Image(label=label, type="filepath", interactive=False, buttons=[], **look)
            self.words = gr.Markdown(elem_id=f"words-{name}")
            with gr.Row():
                self.take = gr.DownloadButton(
                    f"Save the {made}", interactive=False, size="sm", min_width=90, elem_id=f"take-{name}"
                )
                self.settings = gr.DownloadButton(
                    "Save its settings", interactive=False, size="sm", min_width=90, elem_id=f"settings-{name}"
                )
        self.parts = [self.column, self.view, self.words, self.take, self.settings]

    def filled(self, found: Shown) -> dict[Any, Any]:
        """What changes when `found` is shown."""
        whole = found.settings is not None
        return {
            self.view: str(found.view),
            self.words: html.escape(found.words),
            self.take: gr.update(value=str(found.view) if whole else None, interactive=whole),
            self.settings: gr.update(value=str(found.settings) if whole else None, interactive=whole),
        }


def _places(places: Sequence[_Place], count: int) -> dict[Any, Any]:
    """Only the places of so many sides are there."""
    return {place.column: gr.update(visible=index < count) for index, place in enumerate(places)}


def _line(state: str, words: str) -> str:
    return f'<div class="status {state}" role="status">{html.escape(words)}</div>'


_CANCELLED = _line("stopped", "Cancelled: the work ends at the next network call. What is shown stays.")
