"""A pod's launcher as a process of its own, with whatever stands for its ranks."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Run:
    process: subprocess.Popen[bytes]
    workspace: Path

    def end(self, timeout: float = 20) -> int:
        self.output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode

    @property
    def message(self) -> dict[str, Any]:
        body = (self.workspace / "termination-log").read_bytes()
        assert len(body) < 3000
        message: dict[str, Any] = json.loads(body)
        return message

    def wait_for(self, *names: str) -> None:
        deadline = time.monotonic() + 20
        while not all((self.workspace / name).exists() for name in names):
            assert time.monotonic() < deadline, names
            time.sleep(0.02)


Start = Callable[..., Run]
