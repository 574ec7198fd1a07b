"""A browser for tests: Debian's Chromium, asked by W3C WebDriver's HTTP interface, which chromedriver answers.

Selenium does the same, and brings trio, of which hypothesis warns at import: under `-W error` no test would run.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SECONDS = 120  # of a busy machine
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # by this key the standard names an element
_GONE = ("stale element reference", "element not interactable", "element click intercepted", "no such element")


class Browser:
    """A window without a screen. Elements go by CSS selectors; `folder` takes what is downloaded."""

    def __init__(self, address: str, folder: Path) -> None:
        assert DRIVER
        self._driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._driver.stdout
        port = next(line.split("port ")[1].rstrip(".\n") for line in self._driver.stdout if "successfully on" in line)
        self._root = f"http://127.0.0.1:{port}"
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"]
        chrome = {"binary": CHROMIUM, "args": arguments, "prefs": {"download.default_directory": str(folder)}}
        wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self._root += f"/session/{session}"
        self._ask("POST", "/url", {"url": address})

    def close(self) -> None:
        """Close the window, as a person does."""
        with contextlib.suppress(OSError):
            self._ask("DELETE", "")
        self._driver.terminate()
        self._driver.communicate()

    def screenshot(self, file: Path) -> None:
        import base64

        file.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def log(self, kind: str) -> list[dict[str, Any]]:
        return list(self._ask("POST", "/se/log", {"type": kind}))

    def run(self, script: str, *arguments: Any) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def value(self, selector: str, name: str = "value") -> str:
        return str(self.run("return document.querySelector(arguments[0])?.[arguments[1]] ?? ''", selector, name))

    def shown(self, selector: str) -> bool:
        return bool(self.run("return document.querySelector(arguments[0])?.checkVisibility() ?? false", selector))

    def click(self, selector: str) -> None:
        self.until(lambda: self._act(selector, "/click", {}))

    def type(self, selector: str, text: str, anew: bool = True) -> None:
        """Type `text`; into a field of files, that is the path of one."""
        if anew:
            self.until(lambda: self._act(selector, "/clear", {}))
        self.until(lambda: self._act(selector, "/value", {"text": text}))

    def until(self, is_so: Callable[[], Any]) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if is_so():
                return
            time.sleep(0.05)
        raise AssertionError(f"not in {SECONDS} s; the page says:\n{self.text('body')}")

    def _act(self, selector: str, what: str, told: dict[str, Any]) -> bool:
        """Whether the element was there and could be used."""
        try:
            found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
            self._ask("POST", f"/element/{found[_ELEMENT]}{what}", told)
        except LookupError:
            return False
        return True

    def _ask(self, method: str, path: str, told: dict[str, Any] | None = None) -> Any:
        body = None if told is None else json.dumps(told).encode()
        asked = urllib.request.Request(self._root + path, body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=2 * SECONDS) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            told_back = json.load(error)["value"]
            if told_back["error"] in _GONE:
                raise LookupError(told_back["error"]) from None
            raise AssertionError(told_back["message"]) from None
