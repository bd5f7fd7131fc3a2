"""Starts launchers, and ends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.trainer.launcher.launching import Run, Start
from unit.trainer.train.tiny import run_config

DRIVER = Path(__file__).with_name("driver.py")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = []

    def start(script: str, *, ranks: int = 2, **env: str) -> Run:
        workers = {"count": 2, "ranksPerWorker": ranks, "device": "CPU"}
        (tmp_path / "run.json").write_text(json.dumps(run_config(workers=workers)))
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), str(tmp_path), script],
            stdout=subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **env},
        )
        started.append(process)
        return Run(process, tmp_path)

    yield start
    for process in started:
        process.kill()
