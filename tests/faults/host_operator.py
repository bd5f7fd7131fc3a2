"""The operator of this tree as a process of this host, with the rights that the chart gives it.

A container would wait longer and longer before it starts again; hundreds of kills need one that
does not. Everything else is the same: the program, its settings, its user, the pods that it asks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from faults.door import Door

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
ROOT = Path(__file__).resolve().parents[2]
SYSTEM_NAMESPACE = "finetune-system"
USER = f"system:serviceaccount:{SYSTEM_NAMESPACE}:finetune-operator"
"""The chart's ServiceAccount, whose rights it has."""


class HostOperator:
    """At most one process at a time; started again as often as wanted. Use as a context."""

    def __init__(self, door: Door, folder: Path, namespace: str, trainer: str) -> None:
        """folder: for its kubeconfig and log. namespace: where it works. trainer: image."""
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "kubeconfig"
        self._config.write_text(json.dumps(_kubeconfig(door.address)))
        self._log = folder / "operator.log"
        self._health, self._metrics = _free_port(), _free_port()
        self._namespace, self._trainer = namespace, trainer
        self._process: subprocess.Popen[bytes] | None = None
        self.kills = 0
        self.crashes: list[str] = []
        """How it ended where nobody had ended it."""

    def __enter__(self) -> HostOperator:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.running():
            self._end()
        elif self._process is not None and self._process.returncode != -signal.SIGKILL:
            self.crashes.append(f"exit code {self._process.returncode}: {self.last_words()}")

    def start(self) -> None:
        """Start it unless it runs; returns at once."""
        if self.running():
            return
        if self._process is not None and self._process.returncode != -signal.SIGKILL:
            self.crashes.append(f"exit code {self._process.returncode}: {self.last_words()}")
        environment = {
            name: value for name, value in os.environ.items() if "proxy" not in name.lower()
        }
        environment |= {
            "PYTHONPATH": str(ROOT / "operator"),
            "KUBECONFIG": str(self._config),
            "FINETUNE_NAMESPACES": self._namespace,
            "FINETUNE_TRAINER_IMAGE": self._trainer,
            "FINETUNE_PROGRESS_SECONDS": "3",  # more writes, so more to die between
            "FINETUNE_METRICS_PORT": str(self._metrics),
            "FINETUNE_HEALTH_PORT": str(self._health),
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator"],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9, if it runs; from any thread."""
        if self._process is not None and self._process.poll() is None:
            self.kills += 1
            self._process.send_signal(signal.SIGKILL)

    def reap(self) -> None:
        """Wait until it is really gone."""
        if self._process is not None:
            self._process.wait(10)

    def ready(self) -> bool:
        """Whether it watches, by its own health probe."""
        assert self.running(), self.last_words()
        return _get(f"http://127.0.0.1:{self._health}/healthz") is not None

    def metric(self, name: str) -> float:
        """A metric without labels."""
        for line in (_get(f"http://127.0.0.1:{self._metrics}/metrics") or "").splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(f"the operator has no metric {name}")

    def errors(self) -> list[str]:
        """What it logged as an error: a pass that raised something that nobody expected."""
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if '"level": "error"' in line or line.startswith("Trace")]

    def last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def _end(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("", 0))
        return int(taken.getsockname()[1])


def _get(url: str) -> str | None:
    try:
        with _DIRECT.open(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "door", "cluster": {"server": server}}],
        "users": [{"name": "door", "user": {}}],
        "contexts": [{"name": "door", "context": {"cluster": "door", "user": "door"}}],
        "current-context": "door",
    }
