"""`flowmap demo` in a real browser: Debian's Chromium; skipped where there is none.

apt-get install chromium chromium-driver
"""

from __future__ import annotations

import gc
import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowmap.demo import serve
from flowmap.use.sample import draw_samples, sample_run
from flowmap.use.wish import Wish
from tests.video_runs import digits_run
from tests.web_driver import CHROMIUM, DRIVER, SECONDS, Browser

pytestmark = [
    pytest.mark.slow,
    # Not imported: that takes seconds in every process that only collects tests.
    pytest.mark.skipif(not find_spec("gradio"), reason="Gradio is not installed: pip install 'flowmap[demo]'"),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium, or no chromedriver, on the PATH"),
    # Strangers' own.
    pytest.mark.filterwarnings("ignore"),
]
SEED = "#seed textarea, #seed input"
_ABLE = "const e = document.querySelector(arguments[0]); return e && !e.disabled"


class Page(Browser):
    """The page as a person has it."""

    def __init__(self, port: int, downloads: Path) -> None:
        super().__init__(f"http://127.0.0.1:{port}/", downloads)
        self.until(lambda: self.shown("#make"))

    def says(self, words: str) -> None:
        self.until(lambda: words in self.text("#status"))

    def tells(self, side: str, words: str) -> None:
        self.until(lambda: words in self.text(f"#words-{side}"))

    def plays(self, side: str) -> None:
        """The clip of that side has been read by the browser."""
        script = "const v = document.querySelector(arguments[0]); return v && v.readyState > 1 && v.videoWidth > 0"
        self.until(lambda: self.run(script, f"#view-{side} video"))

    def made(self, first: str = "Done") -> None:
        self.click("#make")
        self.says(first)

    def give(self, file: Path) -> None:
        self.click("#begin button")
        self.until(lambda: self.run("return document.querySelector('#given input[type=file]') !== null"))
        self.type("#given input[type=file]", str(file), anew=False)
        self.until(lambda: file.stem in self.text("#given"))

    def saved(self, folder: Path, *parts: str) -> None:
        """Save the parts (take, settings) of the left side in `folder`, where they come by themselves."""
        for part, name in zip(parts, ("left.json", "left.mp4"), strict=False):
            self.until(lambda part=part: self.run(_ABLE, f"#{part}-left"))  # type: ignore[misc]
            self.click(f"#{part}-left")
            self.until((folder / name).exists)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_run(tmp_path_factory.getbasetemp())


class Brake:
    """Holds the network at each call while it is on; `ended` has the calls of each clip, also of one that was ended.

    `told` is when the server knows that nobody waits for the clip.
    """

    def __init__(self) -> None:
        self.on, self.told, self.ended = threading.Event(), threading.Event(), queue.Queue[int]()
        self.step = threading.Semaphore(0)

    def hold(self) -> None:
        """From now on each call waits for `step`."""
        while not self.ended.empty():
            self.ended.get()
        self.told.clear()
        self.on.set()

    def drawn(self, opened: Any, wish: Any, watcher: Any) -> Any:
        real, stop, calls = watcher.calling, watcher.stop, 0

        def calling() -> None:
            nonlocal calls
            if self.on.is_set():
                assert self.step.acquire(timeout=SECONDS)
            calls += 1
            real()

        def stopping() -> None:
            stop()
            self.told.set()

        watcher.calling, watcher.stop = calling, stopping
        try:
            return draw_samples(opened, wish, watcher=watcher)
        finally:
            self.ended.put(calls)


@pytest.fixture(scope="module")
def brake() -> Iterator[Brake]:
    made = Brake()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("flowmap.demo.work.draw_samples", made.drawn)
        yield made
        made.on.clear()
        made.step.release(1000)


@pytest.fixture(scope="module")
def port(run: Path, brake: Brake) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        found = int(free.getsockname()[1])
    served = serve.serve((str(run), Wish()), None, found)
    assert f"http://127.0.0.1:{found}/" in served.words
    yield found
    served.close()
    # Gradio leaves its event loops open: said here, where strangers' warnings are ignored, and not after all tests.
    gc.collect()


@pytest.fixture
def page(port: int, tmp_path: Path) -> Iterator[Page]:
    made = Page(port, tmp_path)
    yield made
    made.screenshot(tmp_path / "last.png")
    made.close()


def test_a_clip_of_moving_digits_is_made_without_the_internet_and_taken_home(
    page: Page, run: Path, tmp_path: Path
) -> None:
    page.made()
    page.plays("left")
    page.tells("left", "14 network calls")
    first = page.value("#view-left video", "src")
    page.type(SEED, "17")
    page.click("#make")
    page.until(lambda: page.value("#view-left video", "src") != first)
    page.says("Done")
    page.saved(tmp_path, "settings", "take")
    settings = json.loads((tmp_path / "left.json").read_text())
    assert (settings["seed"], settings["nfe"]) == (17, 4)
    made, _ = sample_run(run, Wish(calls=4, number=1, seed=17), tmp_path / "command")
    assert (tmp_path / "left.mp4").read_bytes() == made[0].read_bytes()
    sent = [json.loads(line["message"])["message"] for line in page.log("performance")]
    addresses = {m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"}
    assert len(addresses) > 10
    local = ("http://127.0.0.1:", "data:", "blob:")
    assert [address for address in addresses if not address.startswith(local)] == []
    assert [line["message"] for line in page.log("browser") if line["level"] == "SEVERE"] == []


def test_no_other_name_of_this_machine_is_answered(port: int) -> None:
    def status(host: str) -> int:
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/config", headers={"Host": host})
        return connection.getresponse().status

    assert [status(f"127.0.0.1:{port}"), status("localhost"), status("evil.example")] == [200, 200, 400]


def test_two_numbers_of_calls_side_by_side(page: Page) -> None:
    assert not page.shown("#view-right")
    page.click("#beside input")
    page.until(lambda: page.shown("#calls-right"))
    page.made()
    page.plays("left")
    page.plays("right")
    page.tells("left", "14 network calls (4")
    page.tells("right", "5 network calls (1")


def test_bad_input_is_one_line_and_nothing_is_lost(page: Page, tmp_path: Path) -> None:
    page.made()
    page.plays("left")
    page.type(SEED, "many")
    page.made("Seed: 'many' is no whole number of at most 19 digits")
    page.click("#another")
    page.until(lambda: page.value(SEED).isdecimal())
    (tmp_path / "notes.png").write_text("no picture")
    page.give(tmp_path / "notes.png")
    page.made("notes.png: cannot be read as an image: it is none of PNG")
    page.plays("left")


def test_an_image_is_the_first_frame(page: Page, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 0).save(tmp_path / "black.png")
    page.give(tmp_path / "black.png")
    page.made()
    page.plays("left")
    page.saved(tmp_path, "settings")
    settings = json.loads((tmp_path / "left.json").read_text())
    assert (settings["image"], settings["frames given"]) == ("black.png", "1 of 5")


def test_chunks_are_shown_as_they_are_finished_and_cancel_ends_the_work(page: Page, brake: Brake) -> None:
    brake.hold()
    page.made("sampling: 0 of 14 network calls")
    brake.step.release(5)  # the first chunk, and its reading
    page.tells("left", "1 of 5 frames are finished")
    page.plays("left")
    page.says("sampling: 5 of 14 network calls")
    page.click("#cancel")
    page.says("Cancelled")
    assert brake.told.wait(SECONDS)
    time.sleep(1)
    page.says("Cancelled")  # still, whatever was on its way
    brake.step.release(1)
    assert brake.ended.get(timeout=SECONDS) == 6  # the sixth was not made
    brake.on.clear()
    page.made()


def test_two_at_once_are_queued_and_a_closed_page_ends_its_work(
    page: Page, port: int, brake: Brake, tmp_path: Path
) -> None:
    brake.hold()
    other = Page(port, tmp_path)
    other.made("sampling: 0 of 14 network calls")
    page.click("#make")
    page.says("Waiting for its turn")
    other.close()
    assert brake.told.wait(SECONDS)
    brake.step.release(1)
    assert brake.ended.get(timeout=SECONDS) == 1
    brake.on.clear()
    brake.step.release(1)
    page.says("Done")
    page.plays("left")
