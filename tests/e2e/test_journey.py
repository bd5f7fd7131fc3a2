"""The quickstart as a user starts it, with a shortened job, on the real cluster."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from local_cluster import LocalCluster

if TYPE_CHECKING:
    from e2e.conftest import Kubectl

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAMESPACE = "quickstart"
PATIENCE = 1200.0
"""Seconds that one run may take."""


class Run:
    """``python -m quickstart`` without a terminal; its output goes to a file."""

    def __init__(self, cluster: str, output: Path, *arguments: str) -> None:
        self.output = output
        with output.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "quickstart", "--cluster", cluster, "--short", *arguments],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": f"{ROOT / 'examples'}:{ROOT}", "COLUMNS": "120"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def exit_code(self) -> int:
        return self._process.wait(PATIENCE)

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, self.text):
            assert self._process.poll() is None, f"ended before {pattern!r}:\n{self.text}"
            assert time.monotonic() < deadline, f"no {pattern!r}:\n{self.text}"
            time.sleep(0.5)

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def quickstart(cluster: LocalCluster, tmp_path: Path) -> Iterator[Any]:
    runs: list[Run] = []

    def start(*arguments: str) -> Run:
        runs.append(Run(cluster.name, tmp_path / f"run-{len(runs)}.log", *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()


def job(kubectl: Kubectl, name: str) -> Any:
    return kubectl.json("get", "finetunejob", name, namespace=NAMESPACE)


def test_interrupted_and_started_again_it_ends_with_a_proved_model(
    quickstart: Any, kubectl: Kubectl
) -> None:
    first = quickstart("--name", "journey")
    first.wait_for(r"Prepare: started")
    first.interrupt()
    assert first.exit_code() == 130, first.text
    uid = job(kubectl, "journey")["metadata"]["uid"]

    second = quickstart("--name", "journey")
    assert second.exit_code() == 0, second.text
    assert "goes on with the job of an earlier start" in second.text
    assert "✓ The model learned" in second.text

    done = job(kubectl, "journey")
    assert done["metadata"]["uid"] == uid
    conditions = {c["type"]: c["status"] for c in done["status"]["conditions"]}
    assert (conditions["Succeeded"], conditions["Failed"]) == ("True", "False")
    folder = re.search(r"on this host\s+(\S+)", second.text)
    assert folder is not None, second.text
    assert (Path(folder[1]) / "model.safetensors").stat().st_size > 200e6


def test_with_shuffled_answers_the_same_proof_fails(quickstart: Any, kubectl: Kubectl) -> None:
    run = quickstart("--name", "control", "--data", "control")
    assert run.exit_code() == 1, run.text
    assert "✗ The model did not learn enough" in run.text
    assert job(kubectl, "control")["status"]["phase"] == "Succeeded"
