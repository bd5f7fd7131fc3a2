"""prepare and export are PID 1: the kernel keeps SIGTERM from one that has no handler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.trainer.test_outcome import RUN

STAGE = """
import os, sys, time
from pathlib import Path
from finetune_trainer import __main__ as entry

def work(*_):
    if sys.argv[1] == "forks" and os.fork() == 0:
        Path(sys.argv[2]).write_text(str(os.getpid()))
        time.sleep(60)
    Path(sys.argv[3]).write_text("")
    time.sleep(60)

sys.exit(entry._report("prepare", os.environ, work))
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A stage at work as PID 1 of a namespace of its own; it has forked a helper."""
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    process = subprocess.Popen(
        [
            "unshare", *root, "--pid", "--fork", "--kill-child",
            sys.executable, "-c", STAGE, "forks",
            str(tmp_path / "helper"), str(tmp_path / "working"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "FINETUNE_RUN_JSON": str(tmp_path / "run.json"),
            "FINETUNE_WORKSPACE": str(tmp_path),
            "FINETUNE_TERMINATION_LOG": str(tmp_path / "message"),
            "FINETUNE_ATTEMPT": "3",
        },
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not ((tmp_path / "working").exists() and (tmp_path / "helper").exists()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_sigterm_ends_a_stage_at_once_with_75(
    stage: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (pid,) = children(stage.pid)
    os.kill(pid, signal.SIGTERM)
    assert stage.wait(timeout=10) == 75
    told = json.loads((tmp_path / "message").read_text())
    assert (told["stage"], told["attempt"], told["outcome"]) == ("prepare", 3, "preempted")
    assert (told["failure"]["class"], told["failure"]["exitCode"]) == ("Preempted", 75)
    assert not (tmp_path / "prepare.json").exists(), "a result of an earlier attempt stays"


def test_a_helper_process_that_is_ended_says_nothing_for_the_stage(
    stage: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (pid,) = children(stage.pid)
    (helper,) = children(pid)
    os.kill(helper, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{helper}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert stage.poll() is None
    assert not (tmp_path / "message").exists()
