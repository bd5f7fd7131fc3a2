"""A headless Chromium, driven by its DevTools protocol over a pipe: no port, no library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

MISSING = "no chromium on this machine: `make test` installs it (Debian's package chromium)"
SECONDS = 30.0
_TEXTS = {"Enter": "\r", "Tab": "\t"}


def find() -> str | None:
    """The program."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Browser:
    """One page. ``home`` takes the browser's profile, which outlives it, and what it downloads."""

    def __init__(self, chromium: str, home: Path) -> None:
        self.downloads = home / "downloads"
        self.downloads.mkdir(parents=True, exist_ok=True)
        theirs, self._to = map(_high, os.pipe())
        self._from, its = map(_high, os.pipe())
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{theirs} 4>&{its}', "bash", chromium),
                *("--headless=new", "--window-size=1180,900", "--no-sandbox", "--disable-gpu"),
                *("--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"),
                *("--remote-debugging-pipe", f"--user-data-dir={home / 'profile'}", "about:blank"),
            ],
            pass_fds=(theirs, its),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(its)
        self._rest, self._number, self._session = b"", 0, ""
        self._events: list[dict[str, Any]] = []
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        target = self.call("Target.createTarget", url="about:blank")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")
        self.call("Runtime.enable")
        self.call("Network.enable")

    def close(self) -> None:
        self._session = ""
        self.call("Browser.close")
        self._process.wait(SECONDS)
        os.close(self._to)
        os.close(self._from)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, page: Path) -> None:
        """Load a file, and wait until it is there."""
        self._events.clear()
        self.call("Page.navigate", url=page.as_uri())
        self._wait_until_drawn()

    def reload(self) -> None:
        self._events.clear()
        self.call("Page.reload")
        self._wait_until_drawn()

    def _wait_until_drawn(self) -> None:
        """Keys that come before the first frame are lost."""
        self.wait_for_event("Page.loadEventFired")
        frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.call("Runtime.evaluate", expression=frames, awaitPromise=True)

    def wait_for_event(self, name: str) -> dict[str, Any]:
        while True:
            for event in self._events:
                if event.get("method") == name:
                    return event
            self._events.append(self._receive())

    def events(self, name: str) -> list[dict[str, Any]]:
        """What has happened since the page was opened."""
        self.evaluate("0")
        return [event["params"] for event in self._events if event.get("method") == name]

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """What a reader sees of an element; empty where it is hidden."""
        found = f"document.querySelector({json.dumps(selector)})"
        shown = self.evaluate(f"{found}.checkVisibility() ? {found}.innerText : ''")
        return str(shown).strip()

    def press(self, *keys: str) -> None:
        for key in keys:
            text = _TEXTS.get(key, key if len(key) == 1 else "")
            code = f"Digit{key}" if key.isdecimal() else key
            virtual = {"Enter": 13, "Backspace": 8, "Tab": 9}.get(key, 0)
            event = {"key": key, "code": code, "windowsVirtualKeyCode": virtual}
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def download(self) -> Path:
        """The file that the page has saved; it is taken away, so that the next one is another."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            files = [path for path in self.downloads.iterdir() if path.suffix != ".crdownload"]
            if files:
                return files[0].rename(self.downloads.with_name(files[0].name))
            time.sleep(0.05)
        raise AssertionError("nothing was downloaded")

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=False)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], SECONDS)
            assert ready, f"chromium said nothing for {SECONDS:.0f} s"
            part = os.read(self._from, 1 << 16)
            assert part, f"chromium ended with code {self._process.wait(SECONDS)}"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        known: dict[str, Any] = json.loads(message)
        return known


def _high(descriptor: int) -> int:
    """The same, out of the way of 3 and 4, which the browser uses."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return copy
