"""The task list: every task is explained, and is one command that the bootstrap understands."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from local_cluster import bootstrap

ROOT = Path(__file__).resolve().parents[3]
TASKS = re.findall(r"^([a-z-]+):.*?## \S", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_promised_tasks_are_there_and_explained() -> None:
    promised = "help quickstart test test-unit test-mutations test-faults cluster cluster-down"
    assert [*promised.split(), "generate", "verify", "bench"] == TASKS


def test_help_lists_every_task() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert re.findall(r"^  make ([a-z-]+)", shown, re.MULTILINE) == TASKS


@pytest.mark.parametrize("task", [task for task in TASKS if task != "help"])
def test_a_task_is_one_command_in_one_environment(task: str) -> None:
    printed = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", task, "ARGS=--extra"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = printed.splitlines()
    python, program, *arguments = shlex.split(line)
    assert (python, program) == ("python3", "local_cluster/bootstrap.py")
    options = bootstrap.parse(arguments)
    assert options.command[0] in ("python", "sh")
    with_root = ("quickstart", "test", "test-faults", "cluster", "cluster-down", "bench")
    assert options.root == (task in with_root)


def test_continuous_integration_runs_the_test_task() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().splitlines()[-1] == "exec make test"
