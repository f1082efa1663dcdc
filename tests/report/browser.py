# SPDX-License-Identifier: GPL-2.0-or-later
"""A real headless Chromium, driven over a pipe by its DevTools protocol: JSON messages, each ended by a zero byte.

    with Browser() as browser:
        page = browser.open(path)
        page.wheel(400, 200, -120)
        page.value("document.title"), page.complaints, page.requests

Everything that a page could do wrong is kept: exceptions, messages on the console, dialogs, and every request it makes.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

CHROMIUM = "chromium"
WAIT_S = 90.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--mute-audio", "--window-size=1360,1600", "--force-color-profile=srgb",
)  # fmt: skip
KEYS = {
    "ArrowLeft": 37, "ArrowRight": 39, "ArrowUp": 38, "ArrowDown": 40, "Home": 36, "Escape": 27, "Tab": 9, "Enter": 13,
}  # fmt: skip


def chromium_or_skip() -> str:
    """CI has it; elsewhere its absence is told."""
    found = shutil.which(CHROMIUM)
    if found is None:
        words = f"{CHROMIUM} is not installed (apt-get install chromium)"
        pytest.fail(words) if os.environ.get("CI") else pytest.skip(words)
    return found


class Browser:
    """One process of Chromium; pages are opened one after the other."""

    def __init__(self, directory: Path) -> None:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        command = [chromium_or_skip(), *FLAGS, f"--user-data-dir={directory}", "about:blank"]
        self._errors = (directory / "chromium.err").open("wb")
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *command],
            pass_fds=(to_read, to_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._number = 0
        self._listeners: list[Callable[[dict[str, Any]], None]] = []

    def open(self, path: Path, dark: bool = False) -> Page:
        """The page, loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        self._listeners = [page.hear]
        page.load(path, dark)
        return page

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """One command, to its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._next()
            if heard.get("id") == self._number:
                assert "error" not in heard, f"{method}: {heard['error']}"
                found: dict[str, Any] = heard["result"]
                return found

    def hear(self) -> None:
        """Take in one event."""
        self._next()

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + WAIT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, f"the browser has ended: {Path(self._errors.name).read_text(errors='replace')[-2000:]}"
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            for listener in self._listeners:
                listener(message)
        return message

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(WAIT_S)
        self._errors.close()
        os.close(self._read)
        os.close(self._write)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Page:
    """A page that is open. Coordinates are those of the window."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def load(self, path: Path, dark: bool) -> None:
        """Go there, and wait until it is there."""
        # The empty page first: its event would be taken for the other's.
        while self.value("document.readyState") != "complete":
            time.sleep(0.01)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._browser.hear()
        self.settle()

    def hear(self, message: dict[str, Any]) -> None:
        """An event of the browser."""
        method, given = message["method"], message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif method in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
            self.complaints.append(json.dumps(given))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(given["args"]))

    def value(self, expression: str) -> Any:
        """What an expression is."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """The words in an element, as they are seen."""
        found = self.value(f"document.querySelector({json.dumps(selector)}).innerText")
        assert isinstance(found, str)
        return found

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width, height of an element, brought into sight."""
        where = (
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'nearest'}); "
            "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        )
        left, top, width, height = self.value(where)
        return left, top, width, height

    def click(self, x: float, y: float) -> None:
        """A click with the mouse."""
        self.drag(x, y, x, y)

    def click_on(self, selector: str) -> None:
        """A click in the middle of an element."""
        left, top, width, height = self.box(selector)
        self.click(left + width / 2, top + height / 2)

    def drag(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Press, move, release."""
        self._mouse("mouseMoved", x, y)
        self._mouse("mousePressed", x, y, button="left", clickCount=1)
        if (x, y) != (to_x, to_y):
            self._mouse("mouseMoved", (x + to_x) / 2, (y + to_y) / 2, button="left", buttons=1)
            self._mouse("mouseMoved", to_x, to_y, button="left", buttons=1)
        self._mouse("mouseReleased", to_x, to_y, button="left", clickCount=1)
        self.settle()

    def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self._mouse("mouseMoved", x, y)
        self.settle()

    def wheel(self, x: float, y: float, by: float) -> None:
        """Turn the wheel; below zero is away from oneself."""
        self._mouse("mouseWheel", x, y, deltaX=0, deltaY=by)
        self.settle()

    def key(self, key: str) -> None:
        """Press a key."""
        code = KEYS.get(key, ord(key[0].upper()))
        text = {"text": key} if len(key) == 1 else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.settle()

    def write(self, text: str) -> None:
        """Type a text."""
        self._call("Input.insertText", text=text)
        self.settle()

    def settle(self) -> None:
        """Until it has drawn what was asked for."""
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")

    def screenshot(self, path: Path) -> None:
        """The window as a picture."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)
