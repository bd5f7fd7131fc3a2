"""One rank as its launcher sees it: a process, its log, its silence, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.failures import BY_NAME
from finetune_trainer.hang import Silence
from finetune_trainer.logs import RankLog

COLLECTIVE = BY_NAME["CollectiveTimeout"].exit_code
PREEMPTED = BY_NAME["Preempted"].exit_code
HOST_OOM = {
    "class": "HostOom",
    "exitCode": 128 + signal.SIGKILL,
    "message": "the kernel ended the rank: the container reached its memory limit",
}
"""PID 1 lives on, so the kubelet does not call the container OOMKilled."""


@dataclass
class RankProcess:
    """One rank: its process, its log, and how it ended."""

    rank: int
    local_rank: int
    process: subprocess.Popen[bytes]
    log: RankLog
    record_path: Path
    silence: Silence
    stacks: Path
    """Where it writes the stacks of its threads on SIGUSR2."""
    collectives: Path
    """Where it keeps how many collectives it has begun."""
    exit_code: int | None = None
    """128 + n for signal n; None while it runs."""
    hung: bool = False
    seen: dict[str, Any] | None = None
    """Its failure, where it could not say so itself: it hung, or the kernel killed it."""
    told_to_end: bool = False
    """It was still running when another one had died, and we asked it to go."""

    @property
    def followed(self) -> bool:
        """It ended because another rank did: killed by us, or left without its peers."""
        ours = (128 + signal.SIGTERM, 128 + signal.SIGKILL, PREEMPTED)
        return self.exit_code == COLLECTIVE or (self.told_to_end and self.exit_code in ours)

    def send(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def record(self) -> dict[str, Any] | None:
        """What the rank said at its end, if it could."""
        try:
            content = json.loads(self.record_path.read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None
